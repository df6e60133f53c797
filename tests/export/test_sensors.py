"""Exports of other sensors than cameras: their values go in as they are, in every format."""

import json

import numpy as np
import pytest
import tensorflow as tf
from shaken import card_of, encoder, expected, normalised, shake

from keras_mae import ViTClassifier
from keras_mae.export import export_encoder, verify
from keras_mae.export.plain import normalising_projection, plain_function
from keras_mae.export.source import values_in_words
from keras_mae.models.saved_model_encoder import SavedModelEncoder

pytestmark = pytest.mark.export
# Name -> arguments of an encoder, dtype of its values, what a card says of them.
SENSORS = {
    "twelve bands": (
        {"channels": 12, "mean": (0.1, 0.3) * 6, "std": (0.2,) * 12, "value_range": (0, 4095)},
        "uint16",
        "uint16 values from 0 to 4095",
    ),
    "tomography": ({"value_range": (-1024, 3071)}, "int16", "int16 values from -1024 to 3071"),
    "depth in metres": ({"value_range": (0.0, 1.5)}, "float32", "float32 values from 0 to 1.5"),
    "far from 0": (
        {"value_range": (1e6, 1e6 + 1)},
        "float32",
        "float32 values from 1000000 to 1000001",
    ),
}
NAMES = ["tench, Tinca tinca", "zebra", "gr\udcfcn"]
QUICK = {"fresh_process": False, "num_check_images": 3}
FORMATS = {
    "saved_model": (["tensorflow_serving.apis"], "serving_default", 1e-5),
    "litert": (["ai_edge_litert"], "serving_default", 1e-4),
    "onnx": (["tf2onnx", "onnxruntime"], "model", 1e-4),
}


def sensor(name, **changes):
    return encoder(**SENSORS[name][0], num_layers=1, **changes)


def values(model, count=3, seed=1):
    """Return smooth values of a model's range, in its dtype."""
    shape = (count, *model.image_size, model.channels)
    return verify.values_of(verify.smooth_images(shape, seed), model.value_range)


def run(format, path, images):
    """Run an export in its own runtime on float32 images, one at a time."""
    images = images.astype("float32")
    if format == "saved_model":
        outputs = tf.saved_model.load(path).signatures["serving_default"](images=images)
        return {name: value.numpy() for name, value in outputs.items()}
    if format == "litert":
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(model_path=str(path)).get_signature_runner()
        parts = [runner(images=image[None]) for image in images]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", SENSORS)
def test_the_sensors_own_values_give_the_models_numbers(name, format, tmp_path):
    packages, signature, bound = FORMATS[format]
    for package in packages:
        pytest.importorskip(package)
    model = sensor(name)
    _, dtype, words = SENSORS[name]
    path = export_encoder(model, tmp_path / "out", format, **QUICK)
    images = values(model)
    got = run(format, path, images)
    np.testing.assert_allclose(got["tokens"], expected(model, images), atol=bound)
    card = card_of(path)
    assert card["value_range"] == list(model.value_range)
    assert (card["pixel_dtype"], card["images"]) == (dtype, words)
    assert card["check"]["images"] == "smooth random values"
    shape = [1 if format == "litert" else None, 28, 28, model.channels]
    assert card["signatures"][signature]["inputs"] == {"images": ["float32", shape]}
    folder = path if path.is_dir() else path.parent
    assert words in (folder / "card.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_classifier_of_twelve_bands_and_its_names(format, tmp_path):
    packages, _, bound = FORMATS[format]
    for package in packages:
        pytest.importorskip(package)
    model = shake(ViTClassifier(sensor("twelve bands"), 3, class_names=NAMES))
    path = export_encoder(model, tmp_path / "out", format, **QUICK)
    images = values(model.encoder)
    logits = np.asarray(model(normalised(model.encoder, images)))
    got = run(format, path, images)["logits"]
    np.testing.assert_allclose(got, logits, atol=bound * max(1, np.abs(logits).max()))
    assert card_of(path)["class_names"] == NAMES
    if format == "saved_model":
        assert json.loads((path / "class_names.json").read_text()) == NAMES
        assert "class_names.json" in card_of(path)["files"]
    if format == "onnx":
        import onnx

        metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert json.loads(metadata["class_names"]) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"quantize": "dynamic_int8"}, {"fuse": True}])
def test_names_stay_in_onnx_files_of_other_graphs(options, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("tf2onnx")
    model = shake(ViTClassifier(encoder(num_layers=1), 3, class_names=NAMES))
    path = export_encoder(model, tmp_path / "out", "onnx", **QUICK, **options)
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(metadata["class_names"]) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", SENSORS)
def test_signatures_of_a_saved_model(name, tmp_path):
    pytest.importorskip("tensorflow_serving.apis")
    from keras_mae.export.serve_check import serve_check
    from keras_mae.export.serving import read_warmup, serving_commands

    model, dtype = sensor(name), SENSORS[name][1]
    path = export_encoder(model, tmp_path / "out", dense=True, **QUICK)
    signatures = card_of(path)["signatures"]
    stored = {f"serving_{dtype}"} - {"serving_float32"}
    assert set(signatures) == {"serve", "serving_default", "serving_tokens"} | stored
    images = values(model)
    for signature in stored:
        assert signatures[signature]["inputs"]["images"][0] == dtype
        got = tf.saved_model.load(path).signatures[signature](images=tf.constant(images))
        np.testing.assert_allclose(got["tokens"], expected(model, images), atol=1e-5)
    # Warm-up requests hold values of the sensor, and so do those of a check.
    for request in read_warmup(path):
        sent = tf.make_ndarray(request.inputs["images"])
        low, high = model.value_range
        assert low <= sent.min() < sent.max() <= high
        assert sent.max() - sent.min() > 0.9 * (high - low)
    assert serve_check(path, lambda line: None) == []
    assert "serving_bytes" not in serving_commands(path)
    # What is loaded as an encoder knows its range.
    assert SavedModelEncoder(path).value_range == model.value_range


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["int8", "full_int8"])
def test_eight_bits_are_calibrated_in_the_sensors_values(quantize, tmp_path):
    pytest.importorskip("ai_edge_litert")
    model = encoder(value_range=(-1024, 3071))
    options = {"quantize": quantize, "representative": "mnist5k", "num_representative": 16}
    options |= {"check_dataset": "mnist5k", **QUICK}
    path = export_encoder(model, tmp_path / "out", "litert", **options)
    card = card_of(path)
    assert card["check"]["min_cosine"] > 0.99 and card["check"]["images"] == "mnist5k"


def test_the_plain_forward_pass_keeps_each_level_far_from_0():
    """Without subtracting first, values of 1e6 to 1e6 + 1 would all be one."""
    model = sensor("far from 0")
    images = values(model)
    got = plain_function(model)(tf.constant(images))["tokens"]
    np.testing.assert_allclose(got, expected(model, images), atol=2e-5)


def test_the_projection_by_hand():
    """Values of -1000..3000, of which 1000 is the middle: (1000 - -1000) / 4000 is the mean."""
    sizes = {"patch_size": 28, "hidden_dim": 4, "num_heads": 1}
    model = encoder(**sizes, mean=(0.5,), std=(0.25,), value_range=(-1000, 3000))
    weights = {
        "encoder.patch_embedding.projection.kernel": np.full((784, 4), 0.5),
        "encoder.patch_embedding.projection.bias": np.ones(4),
    }
    kernel, bias = normalising_projection(model, weights)
    # The middle, 2000 above the lowest, is 0; the highest is (1 - .5) / .25 = 2.
    np.testing.assert_allclose(np.full(784, 2000.0) @ kernel + bias, 1, atol=1e-3)
    np.testing.assert_allclose(np.full(784, 4000.0) @ kernel + bias, 785, rtol=1e-5)
    # The graph subtracts -1000 before it.
    highest = plain_function(model)(tf.fill((1, 28, 28, 1), 3000.0))["tokens"]
    np.testing.assert_allclose(highest, expected(model, np.full((1, 28, 28, 1), 3000.0)), atol=1e-4)


def test_ranges_in_words():
    assert values_in_words((0.0, 255.0)) == "pixels 0-255"
    for arguments, _, words in SENSORS.values():
        assert values_in_words(tuple(map(float, arguments["value_range"]))) == words
    assert values_in_words((0.0, 100.0)) == "uint8 values from 0 to 100"
