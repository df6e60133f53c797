"""Files that are broken, of something else, or out to do harm: refused, and nothing runs."""

import json
import os
import pickle
import zipfile

import keras
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file
from states import PRESET, encoder_state

from keras_mae import MaskedAutoencoder, ViTEncoder
from keras_mae.interop import load_pretrained, load_weights_into
from keras_mae.interop.transformers_format import config_from_transformers
from keras_mae.testing import oracle


class Payload:
    """Runs a command when it is unpickled carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.pth", "x.keras", "x.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("writer", ["pickle", "torch", "torch beside weights"])
def test_a_hostile_pickle_does_not_run(name, writer, tmp_path):
    victim, path = tmp_path / "ran", tmp_path / name
    if writer == "pickle":
        path.write_bytes(pickle.dumps({"model": Payload(victim)}))
    else:
        content = {"model": Payload(victim)}
        if writer == "torch beside weights":
            content = {"model": {"cls_token": torch.zeros(1, 1, 4)}, "args": Payload(victim)}
        torch.save(content, path)
    for load in (load_pretrained, lambda p: load_weights_into(small_encoder(), p)):
        with pytest.raises(ValueError, match="holds more than weights; nothing in it was run"):
            load(path)
    assert not victim.exists()
    with open(path, "rb") as file:  # The payload would have worked.
        torch.load(file, weights_only=False) if writer != "pickle" else pickle.load(file)
    assert victim.exists()


def small_encoder():
    return ViTEncoder(8, 1, 4, 8, 1, 2)


def test_a_lambda_in_an_archive_does_not_run(tmp_path):
    path = tmp_path / "x.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x + 1)]).save(path)
    with pytest.raises(ValueError, match="`path` must hold one of .*MaskedAutoencoder"):
        load_pretrained(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lambda", "function of a module"])
def test_an_archive_of_ours_with_a_foreign_part_is_refused(kind, tmp_path):
    victim, path, forged = tmp_path / "ran", tmp_path / "x.keras", tmp_path / "forged.keras"
    MaskedAutoencoder(8, 1, 4, 8, 1, 2, None, 8, 1, 2).save(path)
    parts = {
        "lambda": keras.saving.serialize_keras_object(keras.layers.Lambda(lambda x: x)),
        "function of a module": {
            "module": "os",
            "class_name": "system",
            "config": f"touch {victim}",
            "registered_name": None,
        },
    }
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(forged, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                config["config"]["masking"] = parts[kind]
                content = json.dumps(config)
            target.writestr(name, content)
    with pytest.raises(ValueError, match="`path` is broken, unsafe, or needs classes"):
        load_pretrained(forged)
    assert not victim.exists()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return one good file of each kind, by suffix."""
    folder = tmp_path_factory.mktemp("good")
    vit = oracle.make_oracle(oracle.mae_config(**PRESET)).vit
    state = encoder_state(vit)
    torch.save(state, folder / "x.pth")
    torch.save(state, folder / "x.legacy", _use_new_zipfile_serialization=False)
    save_file({n: v.numpy() for n, v in state.items()}, folder / "x.safetensors")
    load_pretrained(folder / "x.pth").save(folder / "x.keras")
    return {path.suffix: path for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pth", ".legacy", ".safetensors", ".keras"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
def test_a_truncated_file_is_refused(files, suffix, share, tmp_path):
    content = files[suffix].read_bytes()
    load_pretrained(files[suffix])
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="`path` (is truncated|must be a .keras archive)"):
        load_pretrained(path)


def test_another_architecture_is_refused(tmp_path):
    config = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    beit = transformers.BeitModel(
        transformers.BeitConfig(**config, intermediate_size=8, image_size=8, patch_size=4)
    )
    beit.save_pretrained(tmp_path / "beit")
    with pytest.raises(ValueError, match="model_type in .* Received: 'beit'"):
        load_pretrained(tmp_path / "beit")
    torch.save({"conv1.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match="1 unknown names: conv1.weight"):
        load_pretrained(tmp_path / "resnet.pth")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "dense.keras")
    with pytest.raises(ValueError, match="`path` must hold one of"):
        load_pretrained(tmp_path / "dense.keras")


@pytest.mark.slow
def test_weights_that_no_model_of_ours_has_are_refused(files, tmp_path):
    state = torch.load(files[".pth"])
    torch.save({**state, "gate.weight": torch.zeros(96)}, tmp_path / "gate.pth")
    with pytest.raises(ValueError, match=r"Left over: gate\.weight") as raised:
        load_pretrained(tmp_path / "gate.pth")
    assert "skip" not in str(raised.value)  # an argument that it has not
    with pytest.raises(ValueError, match="`skip`"):
        load_weights_into(load_pretrained(files[".pth"]), tmp_path / "gate.pth")
    del state["blocks.1.attn.qkv.bias"]
    torch.save(state, tmp_path / "no_bias.pth")
    with pytest.raises(ValueError, match="Missing: encoder.blocks.1.attention.query_key_value.b"):
        load_pretrained(tmp_path / "no_bias.pth")
    torch.save({**state, "pos_embed": torch.zeros(50, 96)}, tmp_path / "flat.pth")
    with pytest.raises(ValueError, match="expected 3 axes for encoder.positions.table"):
        load_pretrained(tmp_path / "flat.pth")
    ints = {"cls_token": np.zeros((1, 1, 4), "int8")}
    save_file(ints, tmp_path / "ints.safetensors")
    with pytest.raises(ValueError, match="must hold floats. Received: cls_token of dtype int8"):
        load_pretrained(tmp_path / "ints.safetensors")


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="`path` must be a file or a folder"):
        load_pretrained(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="must hold a .keras, .safetensors, .pth or .bin"):
        load_pretrained(tmp_path)
    (tmp_path / "a.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    with pytest.raises(ValueError, match="Git LFS pointer"):
        load_pretrained(tmp_path)
    (tmp_path / "b.pth").write_text("some text")
    with pytest.raises(ValueError, match="must hold one checkpoint; name one of"):
        load_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it is none, or its beginning is lost"):
        load_pretrained(tmp_path / "b.pth")
    small_encoder().save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(ValueError, match="`path` must hold an architecture"):
        load_pretrained(tmp_path / "w.weights.h5")


@pytest.mark.parametrize(
    "name, text",
    [
        ("config.json", "[]"),
        ("config.json", '{"model_args": [1]}'),
        ("config.json", '{"pretrained_cfg": "x"}'),
        ("config.json", '{"model_args": {"img_size": "large"}}'),
        ("config.json", '{"pretrained_cfg": {"mean": 3}}'),
        ("config.json", "{"),
    ],
)
def test_a_config_that_is_none_is_refused(files, name, text, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(files[".safetensors"].read_bytes())
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="`(path|mean|image_size)`"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("id2label", [["a"], "a", {"first": "a"}])
def test_labels_without_numbers_are_refused(id2label):
    with pytest.raises(ValueError):
        config_from_transformers({"id2label": id2label}, None)


def test_a_dict_that_holds_itself_and_flat_tokens_are_refused(files, tmp_path):
    state = dict(torch.load(files[".pth"]))
    content = {"model": state}
    content["again"] = content
    torch.save(content, tmp_path / "itself.pth")
    with pytest.raises(ValueError, match="`path`"):  # of so many copies none is the average
        load_pretrained(tmp_path / "itself.pth")
    state["cls_token"] = state["cls_token"][0]
    torch.save(state, tmp_path / "flat.pth")
    with pytest.raises(ValueError, match="3 axes for encoder.class_token"):
        load_pretrained(tmp_path / "flat.pth")
    del state["cls_token"]
    torch.save({**state, "keras_mae": 3}, tmp_path / "config.pth")
    with pytest.raises(ValueError, match="no class token"):
        load_pretrained(tmp_path / "config.pth")
