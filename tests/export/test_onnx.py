"""ONNX files, run by ONNX Runtime."""

import keras
import numpy as np
import pytest
from shaken import card_of, cosines, digits, encoder, expected, normalised, shake

from keras_mae import ViTClassifier, ViTEncoder
from keras_mae.export import ExportError, export_encoder, plain

pytestmark = pytest.mark.export
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")

LAYERS = 2


@pytest.fixture(scope="module")
def path(trained, tmp_path_factory):
    """Return a float32 file that a new process has checked."""
    return export_encoder(trained, tmp_path_factory.mktemp("onnx") / "out", "onnx")


def export(model, folder, **options):
    return export_encoder(model, folder / "out", "onnx", fresh_process=False, **options)


def run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images.astype("float32")}), strict=True))


@pytest.mark.slow
def test_float32_in_a_new_process(trained, path):
    assert path.name == "model.onnx" and path.parent.name == "out"
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
    found = card_of(path)
    assert found["precision"] == "float32" and 0 < found["check"]["difference"] < 1e-4
    signature = found["signatures"]["model"]
    assert signature["inputs"] == {"images": ["float32", [None, 28, 28, 1]]}
    assert signature["outputs"]["tokens"] == ["float32", [None, 50, 32]]
    assert found["operators"]["MatMul"] == 1 + 8 * LAYERS


@pytest.mark.slow
def test_what_a_session_fuses(path):
    found = card_of(path)
    # All norms: before attention and the MLP of each block, and the last, whose sum nothing else
    # reads; all GELUs, each with its bias; and the scale of attention's first product.
    assert found["fused_operators"] == {
        "BiasGelu": LAYERS,
        "FusedMatMul": LAYERS,
        "LayerNormalization": 2 * LAYERS,
        "SkipLayerNormalization": 1,
    }


@pytest.mark.slow
def test_attention_is_fused_offline(trained, tmp_path):
    path = export(trained, tmp_path, fuse=True)
    found = card_of(path)
    assert found["fused_operators"] == {
        "Attention": LAYERS,
        "BiasGelu": LAYERS,
        "LayerNormalization": 1,
        "SkipLayerNormalization": 2 * LAYERS,
    }
    images = digits(3)
    np.testing.assert_allclose(run(path, images)["tokens"], expected(trained, images), atol=1e-4)


@pytest.mark.slow
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
    found = card_of(path)
    assert found["check"]["min_cosine"] > 0.99 and found["quantize"] == quantize
    assert path.stat().st_size < found["parameters"] + 100_000


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_classifier(trained, tmp_path):
    model = shake(ViTClassifier(trained, 10, head_norm="batch"))
    model.feature_norm.moving_variance.assign(np.linspace(0.5, 2, 32))
    path = export(model, tmp_path, num_check_images=4)
    images = digits(2)
    outputs = run(path, images)
    logits = np.asarray(model(normalised(trained, images)))
    np.testing.assert_allclose(outputs["logits"], logits, atol=1e-4 * max(1, np.abs(logits).max()))
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_wrong_numbers_leave_nothing(trained, tmp_path, monkeypatch):
    right = plain.function_of_weights
    monkeypatch.setattr(plain, "function_of_weights", lambda _: right(encoder()))
    with pytest.raises(ExportError, match="difference"):
        export(trained, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_base_with_random_weights(tmp_path):
    keras.utils.set_random_seed(0)
    path = export(ViTEncoder(image_size=(64, 96)), tmp_path, num_check_images=3)
    found = card_of(path)
    assert found["check"]["difference"] < 1e-4
    assert found["fused_operators"]["LayerNormalization"] == 24
    assert found["fused_operators"]["BiasGelu"] == 12
