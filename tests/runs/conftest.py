import pytest
from small_runs import NAME, shrink, train_only

from keras_mae import presets
from keras_mae.tasks.pretrain import Pretrain


@pytest.fixture(scope="module")
def small_preset():
    """Make the default preset's model small, for a module's tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets._TABLE, NAME, presets._TABLE[NAME])
        shrink()
        yield


@pytest.fixture
def no_figures(monkeypatch):
    """Let runs end with `mae.keras`."""
    name = "write_encoder_and_figures"
    monkeypatch.setattr(Pretrain, name, getattr(Pretrain, name))
    train_only()
