"""The tests here need PyTorch and transformers, for numbers to compare with."""

import importlib

import pytest
from hub_server import Hub

pytest.importorskip("torch")
pytest.importorskip("transformers")
# Before any test imports a model of transformers or timm.
importlib.import_module("keras_mae.testing.oracle")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return a `Hub` on this machine that huggingface_hub takes for the hub; no file is cached."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    from keras_mae.interop import hub as ours

    server = Hub()
    # Its variables are read when it is first imported.
    for name, value in {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "no_token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # Between tries to reach it.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    ours._resolved.cache_clear()
    yield server
    ours._resolved.cache_clear()
    server.close()
