"""ONNX files, run by ONNX Runtime."""

import json
import sys

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from shaken import digits, encoder, shake

from keras_mae import ViTClassifier, ViTEncoder
from keras_mae.export import ExportError, calibration, export_encoder
from keras_mae.export import onnx as exporter

LAYERS = 2


def export(model, folder, **options):
    return export_encoder(model, folder / "out", "onnx", fresh_process=False, **options)


def run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images.astype("float32")}), strict=True))


def expected(model, images):
    normalised = (images / 255 - np.array(model.mean)) / np.array(model.std)
    return np.asarray(model(normalised.astype("float32")))


def cosines(got, wanted):
    got, wanted = got.reshape(len(got), -1), wanted.reshape(len(wanted), -1)
    return (got * wanted).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1)


def test_float32_in_a_new_process(trained, tmp_path):
    path = export_encoder(trained, tmp_path / "out", "onnx")
    assert path == tmp_path / "out" / "model.onnx"
    assert sorted(p.name for p in path.parent.iterdir()) == ["card.json", "card.md", "model.onnx"]
    for size in (1, 3):
        images = digits(size)
        outputs, tokens = run(path, images), expected(trained, images)
        np.testing.assert_allclose(outputs["tokens"], tokens, atol=1e-4)
        np.testing.assert_allclose(outputs["cls"], tokens[:, 0], atol=1e-4)
        np.testing.assert_allclose(outputs["pooled"], tokens[:, 1:].mean(axis=1), atol=1e-4)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}  # Any runtime knows them.
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [18]
    found = json.loads((tmp_path / "out" / "card.json").read_text())
    assert found["precision"] == "float32" and 0 < found["check"]["difference"] < 1e-4
    signature = found["signatures"]["model"]
    assert signature["inputs"] == {"images": ["float32", [None, 28, 28, 1]]}
    assert signature["outputs"]["tokens"] == ["float32", [None, 50, 32]]
    assert found["operators"]["MatMul"] == 1 + 8 * LAYERS


def test_what_a_session_fuses(trained, tmp_path):
    found = json.loads((export(trained, tmp_path).parent / "card.json").read_text())
    # All norms: before attention and the MLP of each block, and the last, whose sum nothing else
    # reads; all GELUs, each with its bias; and the scale of attention's first product.
    assert found["fused_operators"] == {
        "BiasGelu": LAYERS,
        "FusedMatMul": LAYERS,
        "LayerNormalization": 2 * LAYERS,
        "SkipLayerNormalization": 1,
    }


def test_attention_is_fused_offline(trained, tmp_path):
    path = export(trained, tmp_path, fuse=True)
    found = json.loads((path.parent / "card.json").read_text())
    assert found["fused_operators"] == {
        "Attention": LAYERS,
        "BiasGelu": LAYERS,
        "LayerNormalization": 1,
        "SkipLayerNormalization": 2 * LAYERS,
    }
    images = digits(3)
    np.testing.assert_allclose(run(path, images)["tokens"], expected(trained, images), atol=1e-4)


@pytest.mark.parametrize("quantize", ["dynamic_int8", "int8"])
def test_eight_bits(trained, quantize, tmp_path):
    options = {"representative": "mnist5k", "num_representative": 24} if quantize == "int8" else {}
    path = export(trained, tmp_path, quantize=quantize, **options)
    images = digits(3)
    assert 0.99 < cosines(run(path, images)["tokens"], expected(trained, images)).min() < 0.999999
    constants = {c.name: c for c in onnx.load(path).graph.initializer}.values()
    matrices = [c for c in constants if len(c.dims) == 2 and min(c.dims) > 1]
    assert {c.data_type for c in matrices} == {onnx.TensorProto.INT8}
    # One scale for each output: of the first projection of the MLP, 128.
    assert any(list(c.dims) == [128] and c.name.endswith("_scale") for c in constants)
    found = json.loads((path.parent / "card.json").read_text())
    assert found["check"]["min_cosine"] > 0.99 and found["quantize"] == quantize
    assert path.stat().st_size < found["parameters"] + 100_000


def test_another_size_not_square(trained, tmp_path):
    path = export(trained, tmp_path, image_size=(16, 28), num_check_images=4)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 28, 1))
    outputs = run(path, images)
    assert outputs["tokens"].shape == (3, 1 + 4 * 7, 32)
    # Sine-cosine positions: with those of the new grid, the same weights.
    other = ViTEncoder.from_config({**trained.get_config(), "image_size": (16, 28)})
    for new, old in zip(other.weights, trained.weights, strict=True):
        if new.shape == old.shape:
            new.assign(old)
    np.testing.assert_allclose(outputs["tokens"], expected(other, images), atol=1e-4)


def test_a_classifier(trained, tmp_path):
    model = shake(ViTClassifier(trained, 10, head_norm="batch"))
    model.feature_norm.moving_variance.assign(np.linspace(0.5, 2, 32))
    path = export(model, tmp_path, num_check_images=4)
    images = digits(2)
    outputs = run(path, images)
    logits = np.asarray(
        model(((images / 255 - trained.mean[0]) / trained.std[0]).astype("float32"))
    )
    np.testing.assert_allclose(outputs["logits"], logits, atol=1e-4 * max(1, np.abs(logits).max()))
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, atol=1e-5)


def test_wrong_numbers_leave_nothing(trained, tmp_path, monkeypatch):
    right = exporter.function_of_weights
    monkeypatch.setattr(exporter, "function_of_weights", lambda _: right(encoder()))
    with pytest.raises(ExportError, match="does not give the model's numbers"):
        export(trained, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"quantize": "float16"}, r"`quantize` must be one of \['none', 'dynamic_int8', 'int8'\]"),
        ({"quantize": "int8"}, "`representative` must be given for quantize='int8'"),
        ({"representative": "mnist5k"}, "`representative` goes with quantize in"),
        ({"fuse": 1}, "`fuse` must be a bool. Received: 1"),
        ({"fuse": True, "quantize": "dynamic_int8"}, "`fuse` goes with quantize='none'"),
        (
            {"quantize": "int8", "representative": "photos"},
            "`representative` must have images of 1 channels.*of 3",
        ),
    ],
)
def test_errors(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(encoder(num_layers=1), tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_existing_directories_and_missing_packages_are_named_first(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(ValueError, match="`directory` must be new"):
        export_encoder("no such model", tmp_path / "out", "onnx")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ImportError, match=r'tf2onnx: pip install "keras_mae\[export\]"'):
        export_encoder("no such model", tmp_path / "new", "onnx")


def test_weights_for_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "MAX_CONSTANT_BYTES", 1000)
    with pytest.raises(ValueError, match="`model` must have at most .* GB of weights"):
        export(encoder(num_layers=1), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_base_with_random_weights(tmp_path):
    keras.utils.set_random_seed(0)
    path = export(ViTEncoder(image_size=(64, 96)), tmp_path, num_check_images=3)
    found = json.loads((path.parent / "card.json").read_text())
    assert found["check"]["difference"] < 1e-4
    assert found["fused_operators"]["LayerNormalization"] == 24
    assert found["fused_operators"]["BiasGelu"] == 12
