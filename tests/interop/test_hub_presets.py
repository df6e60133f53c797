"""KerasHub's presets: what it computes of ours, and what we read of its own."""

import json
import subprocess
import sys

import numpy as np
import pytest

from keras_mae import (
    MaskedAutoencoder,
    ViTClassifier,
    ViTEncoder,
    load_encoder,
    load_pretrained,
    push_to_hub,
    save_pretrained,
)
from keras_mae.interop import keras_hub_format
from keras_mae.models.weights import get_weights
from keras_mae.pixels import normalize

keras_hub = pytest.importorskip("keras_hub")

# No two sizes alike, so that none can stand for another.
SIZES = {
    "image_size": (16, 24),
    "patch_size": (4, 8),
    "channels": 2,
    "hidden_dim": 32,
    "num_layers": 3,
    "num_heads": 4,
    "mlp_dim": 48,
    "norm_epsilon": 1e-3,
    "mean": [0.3, 0.4],
    "std": [0.2, 0.25],
}


def noisy(model, seed=0):
    """Return a model, all weights of which are random."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(weight + rng.normal(size=weight.shape) * 0.2)
    return model


def ours(kind, **changes):
    encoder = noisy(ViTEncoder(**SIZES | changes))
    if kind == "encoder":
        return encoder
    return noisy(ViTClassifier(encoder, 3, class_names=["a", "b", "c"]))


def values(model, seed=1):
    encoder = getattr(model, "encoder", model)
    shape = (2, *encoder.image_size, encoder.channels)
    return np.random.default_rng(seed).uniform(*encoder.value_range, shape).astype("float32")


def outputs(model, pixels):
    encoder = getattr(model, "encoder", model)
    return np.asarray(model(normalize(pixels, encoder.mean, encoder.std, encoder.value_range)))


def theirs(**changes):
    config = {
        "image_shape": (16, 24, 3),
        "patch_size": (4, 8),
        "num_layers": 11,
        "num_heads": 2,
        "hidden_dim": 16,
        "mlp_dim": 24,
        "layer_norm_epsilon": 1e-5,
    }
    return noisy(keras_hub.models.ViTBackbone(**config | changes))


def edit(path, **changes):
    """Change arguments in a file of KerasHub's."""
    content = json.loads(path.read_text())
    content["config"] |= changes
    path.write_text(json.dumps(content))


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    "value_range",
    [
        (0, 255),
        pytest.param((0, 4095), marks=SLOW),
        pytest.param((-1024, 3071), marks=SLOW),
        pytest.param((0.0, 1.0), marks=SLOW),
    ],
)
def test_keras_hub_computes_what_we_do(tmp_path, value_range):
    model = ours("encoder", value_range=value_range)
    save_pretrained(model, tmp_path / "preset", "keras_hub")
    backbone = keras_hub.models.Backbone.from_preset(str(tmp_path / "preset"))
    assert isinstance(backbone, keras_hub.models.ViTBackbone)
    converter = keras_hub.layers.ImageConverter.from_preset(str(tmp_path / "preset"))
    pixels = values(model)
    np.testing.assert_allclose(
        backbone(np.asarray(converter(pixels))), outputs(model, pixels), atol=1e-5
    )


@pytest.mark.slow
def test_keras_hub_classifies_as_we_do(tmp_path):
    model = ours("classifier")
    save_pretrained(model, tmp_path / "preset", "keras_hub")
    task = keras_hub.models.ImageClassifier.from_preset(str(tmp_path / "preset"))
    assert isinstance(task, keras_hub.models.ViTImageClassifier)
    pixels = values(model)
    # From pixels: the preprocessor is part of it.
    np.testing.assert_allclose(
        task.predict(pixels, verbose=0), outputs(model, pixels), atol=1e-5, rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder", "classifier"])
@pytest.mark.parametrize("value_range", [(-1024, 3071), pytest.param((0, 255), marks=SLOW)])
def test_a_round_trip_changes_no_bit(tmp_path, kind, value_range):
    model = ours(kind, value_range=value_range)
    save_pretrained(model, tmp_path / "preset", "keras_hub")
    back = load_pretrained(tmp_path / "preset")
    assert type(back) is type(model)
    weights, others = get_weights(model), get_weights(back)
    assert weights.keys() == others.keys()
    assert all(np.array_equal(weights[name], others[name]) for name in weights)
    known, read = (getattr(m, "encoder", m).get_config() for m in (model, back))
    assert {**read, "name": ""} == {**known, "name": ""}
    assert getattr(back, "class_names", None) == getattr(model, "class_names", None)


def test_statistics_are_the_converters_once_it_is_changed(tmp_path):
    save_pretrained(ours("encoder", value_range=(0, 4095)), tmp_path / "preset", "keras_hub")
    # (value - 100) / 50.
    edit(tmp_path / "preset" / "image_converter.json", scale=0.02, offset=-2.0)
    encoder = load_encoder(tmp_path / "preset")
    np.testing.assert_allclose(
        normalize(np.float32([[0, 100], [200, 255]]), encoder.mean, encoder.std),
        [[-2, 0], [2, 3.1]],
        atol=1e-6,
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_backbone_of_keras_hub_is_read(tmp_path, dtype):
    backbone = theirs(dtype=dtype)
    backbone.save_to_preset(str(tmp_path))
    converter = keras_hub.layers.ViTImageConverter(scale=1 / 127.5, offset=-1.0)
    converter.save_to_preset(str(tmp_path))
    encoder = load_pretrained(tmp_path)
    assert isinstance(encoder, ViTEncoder) and encoder.num_layers == 11
    np.testing.assert_allclose(encoder.mean + encoder.std, [0.5] * 6)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 16, 24, 3)).astype("float32")
    reference = theirs(dtype="float32")
    reference.set_weights([np.asarray(w.numpy(), "float32") for w in backbone.weights])
    wanted = np.asarray(reference(np.asarray(converter(pixels))))
    np.testing.assert_allclose(outputs(encoder, pixels), wanted, atol=1e-4)


def test_a_preset_without_converter_says_what_is_guessed(tmp_path, caplog):
    theirs(num_layers=1).save_to_preset(str(tmp_path))
    assert load_encoder(tmp_path).mean == (0.485, 0.456, 0.406)
    assert "no image converter" in caplog.text


@pytest.mark.slow
def test_an_autoencoder_leaves_its_decoder_out_and_says_so(tmp_path, caplog):
    decoder = {"decoder_hidden_dim": 12, "decoder_num_layers": 1, "decoder_num_heads": 3}
    model = MaskedAutoencoder(**SIZES, **decoder)
    save_pretrained(model, tmp_path / "preset", "keras_hub")
    assert "decoder is left out" in caplog.text
    back = load_pretrained(tmp_path / "preset")
    weights, others = get_weights(model.encoder), get_weights(back)
    assert all(np.array_equal(weights[name], others[name]) for name in weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: ViTClassifier(ours("encoder"), 3, pooling="mean"),
        lambda: ViTClassifier(ours("encoder"), 3, pooling="both"),
        lambda: ViTClassifier(ours("encoder"), 3, head_norm="batch"),
        lambda: ours("encoder", final_norm=False),
        lambda: ours("encoder", value_range=(1e6, 1e6 + 1)),
    ],
)
def test_what_keras_hub_cannot_hold_is_refused(tmp_path, make):
    with pytest.raises(ValueError, match="`format`"):
        save_pretrained(make(), tmp_path / "preset", "keras_hub")
    assert list(tmp_path.iterdir()) == []


def test_an_argument_without_a_word_in_keras_hub_is_refused_by_name(tmp_path, monkeypatch):
    # As if the width of the MLP were such a one.
    known = [name for name in keras_hub_format._WRITTEN if name != "mlp_dim"]
    monkeypatch.setattr(keras_hub_format, "_WRITTEN", known)
    with pytest.raises(ValueError, match="`format`.*mlp_dim=48"):
        save_pretrained(ours("encoder"), tmp_path / "preset", "keras_hub")


@pytest.mark.parametrize(
    "name",
    [
        "use_class_token",
        pytest.param("use_mha_bias", marks=SLOW),
        pytest.param("use_mlp_bias", marks=SLOW),
        pytest.param("use_patch_bias", marks=SLOW),
    ],
)
def test_a_backbone_that_ours_is_not_is_refused_by_name(tmp_path, name):
    theirs(num_layers=1, **{name: False}).save_to_preset(str(tmp_path))
    with pytest.raises(ValueError, match=f"`path`.*{name}"):
        load_pretrained(tmp_path)


def test_what_a_config_says_and_nobody_knows_is_refused(tmp_path):
    theirs(num_layers=1).save_to_preset(str(tmp_path))
    edit(tmp_path / "config.json", num_register_tokens=4)
    with pytest.raises(ValueError, match="num_register_tokens"):
        load_pretrained(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"pooling": "gap"}, {"activation": "softmax"}, {"intermediate_dim": 8}]
)
def test_a_head_that_ours_is_not_is_refused_by_name(tmp_path, changes):
    task = keras_hub.models.ViTImageClassifier(theirs(num_layers=1), 4, **changes)
    task.save_to_preset(str(tmp_path))
    with pytest.raises(ValueError, match=f"`path`.*{next(iter(changes))}"):
        load_pretrained(tmp_path)


def test_another_backbone_is_refused_by_its_name(tmp_path):
    theirs(num_layers=1).save_to_preset(str(tmp_path))
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "class_name": "BertBackbone"}))
    with pytest.raises(ValueError, match="ViTBackbone.*BertBackbone"):
        load_pretrained(tmp_path)


def test_links_out_of_a_file_of_weights_are_not_followed(tmp_path):
    import h5py

    preset, other = tmp_path / "preset", tmp_path / "other.h5"
    save_pretrained(ours("encoder"), preset, "keras_hub")
    name = "layers/vi_t_encoder/layer_norm/vars/0"
    with h5py.File(preset / "model.weights.h5", "a") as file, h5py.File(other, "w") as target:
        target["secret"] = file[name][:]
        del file[name]
        file[name] = h5py.ExternalLink(str(other), "secret")
    with pytest.raises(ValueError, match="`path`.*layer_norm"):
        load_pretrained(preset)
    with h5py.File(preset / "model.weights.h5", "a") as file:
        del file[name]
        # A terabyte that is nowhere: HDF5 fills it with zeros when it is read.
        file.create_dataset(name, (2**38,), "f4")
    with pytest.raises(ValueError, match="`path`.*layer_norm"):
        load_pretrained(preset)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.weights.h5", "config.json", "image_converter.json"])
def test_a_truncated_preset_is_refused(tmp_path, name):
    preset = tmp_path / "preset"
    save_pretrained(ours("encoder"), preset, "keras_hub")
    data = (preset / name).read_bytes()
    (preset / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="`path`"):
        load_pretrained(preset)


@pytest.mark.slow
def test_a_preset_goes_by_the_hub_to_keras_hub_and_back(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    model = ours("classifier")
    name = push_to_hub(model, "lab/new", "keras_hub", licence="mit")
    back = load_pretrained(name)
    weights, others = get_weights(model), get_weights(back)
    assert all(np.array_equal(weights[name], others[name]) for name in weights)
    assert back.class_names == ["a", "b", "c"] and back.encoder.mean == model.encoder.mean
    task = keras_hub.models.ImageClassifier.from_preset("hf://lab/new")
    pixels = values(model)
    np.testing.assert_allclose(
        task.predict(pixels, verbose=0), outputs(model, pixels), atol=1e-5, rtol=1e-5
    )


@pytest.mark.slow
def test_without_keras_hub_presets_are_read_and_the_extra_is_named_for_writing(
    tmp_path, monkeypatch
):
    save_pretrained(ours("encoder"), tmp_path / "preset", "keras_hub")
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    assert isinstance(load_pretrained(tmp_path / "preset"), ViTEncoder)
    with pytest.raises(ImportError, match=r"keras_mae\[keras_hub\]"):
        save_pretrained(ours("encoder"), tmp_path / "other", "keras_hub")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_nothing_optional_is_imported_before_it_is_needed():
    # Keras itself may import some of them.
    code = (
        "import sys, keras; before = set(sys.modules);"
        "import keras_mae; keras_mae.load_pretrained; keras_mae.push_to_hub;"
        "print([n for n in ('torch', 'transformers', 'keras_hub', 'huggingface_hub') "
        "if n in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
