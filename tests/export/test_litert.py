"""LiteRT files, run by LiteRT's own interpreter."""

import re

import keras
import numpy as np
import pytest
from shaken import card_of, cosines, digits, encoder, expected, normalised, shake

from keras_mae import ViTClassifier, ViTEncoder
from keras_mae.data import load_source
from keras_mae.export import ExportError, export_encoder, plain
from keras_mae.export.formats import litert

pytestmark = pytest.mark.export
Interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter

# Operators of a block: four projections, whose first counts as three, and two products.
LINEAR_LAYERS = 1 + 2 * 6


def export(model, folder, **options):
    return export_encoder(model, folder / "out", "litert", fresh_process=False, **options)


def run(path, images):
    """Run a file on all images at once, by the runner of its signature."""
    return Interpreter(model_path=str(path)).get_signature_runner()(images=images.astype("float32"))


@pytest.mark.slow
def test_float32_in_a_new_process(trained, tmp_path):
    path = export_encoder(trained, tmp_path / "out", "litert")
    assert path == tmp_path / "out" / "model.tflite"
    assert sorted(p.name for p in path.parent.iterdir()) == ["card.json", "card.md", "model.tflite"]
    for image in digits(3):
        outputs = run(path, image[None])
        tokens = expected(trained, image[None])
        np.testing.assert_allclose(outputs["tokens"], tokens, atol=1e-4)
        np.testing.assert_allclose(outputs["cls"], tokens[:, 0], atol=1e-4)
        np.testing.assert_allclose(outputs["pooled"], tokens[:, 1:].mean(axis=1), atol=1e-4)
    found = card_of(path)
    assert found["precision"] == "float32" and found["batch_size"] == 1
    assert 0 < found["check"]["difference"] < 1e-4
    signature = found["signatures"]["serving_default"]
    assert signature["inputs"] == {"images": ["float32", [1, 28, 28, 1]]}
    assert signature["outputs"]["tokens"] == ["float32", [1, 50, 32]]
    # The converter knows each layer, GELU among them, by its pattern.
    assert found["operators"]["FULLY_CONNECTED"] == LINEAR_LAYERS
    assert (found["operators"]["GELU"], found["operators"]["SOFTMAX"]) == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("quantize", [q for q in litert.PRECISIONS if q != "none"])
def test_smaller_files(trained, quantize, tmp_path):
    options = {"representative": "mnist5k", "num_representative": 24}
    path = export(
        trained,
        tmp_path,
        quantize=quantize,
        num_check_images=4,
        **(options if quantize in litert.CALIBRATED else {}),
    )
    images = digits(2)
    got = np.concatenate([run(path, image[None])["tokens"] for image in images])
    wanted = expected(trained, images)
    if quantize == "float16":
        assert 1e-5 < np.abs(got - wanted).max() < 1e-2
    else:
        assert 0.99 < cosines(got, wanted).min() < 0.999999
    found = card_of(path)
    assert found["quantize"] == quantize
    # Half the bytes a weight, or a quarter, and the graph.
    share = 2 if quantize == "float16" else 1
    assert path.stat().st_size < share * found["parameters"] + 60_000
    if quantize in litert.CALIBRATED:
        assert found["representative"] == {"images": "mnist5k", "num_images": 24}


@pytest.mark.slow
def test_int8_keeps_all_but_linear_layers_in_float(trained):
    images = digits(8)
    content = litert.convert(trained, "int8", images)
    interpreter = Interpreter(model_content=content)
    kinds = {
        node["op_name"]: {
            interpreter.get_tensor_details()[i]["dtype"] for i in node["outputs"] if i >= 0
        }
        for node in interpreter._get_ops_details()
        if node["op_name"] in ("FULLY_CONNECTED", "SOFTMAX", "GELU", "MEAN", "ADD")
    }
    assert kinds.pop("FULLY_CONNECTED") == {np.int8}
    assert kinds == dict.fromkeys(("SOFTMAX", "GELU", "MEAN", "ADD"), {np.float32})
    # One scale for each output of a linear layer, not one for all.
    scales = [len(t["quantization_parameters"]["scales"]) for t in interpreter.get_tensor_details()]
    assert max(scales) == 4 * 32


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["none", "dynamic_int8"])
def test_any_batch(trained, quantize, tmp_path):
    path = export(trained, tmp_path, batch_size=None, quantize=quantize, num_check_images=5)
    assert card_of(path)["batch_size"] is None
    images = digits(5)
    wanted = expected(trained, images)
    runner = Interpreter(model_path=str(path)).get_signature_runner()
    for size in (1, 3, 5, 1, 2):  # One interpreter, larger and smaller batches.
        got = runner(images=images[:size].astype("float32"))["tokens"]
        assert got.shape[0] == size
        if quantize == "none":
            np.testing.assert_allclose(got, wanted[:size], atol=1e-4)
        else:
            assert cosines(got, wanted[:size]).min() > 0.99


@pytest.mark.slow
def test_a_batch_of_three_of_another_size_not_square(trained, tmp_path):
    path = export(trained, tmp_path, batch_size=3, image_size=(32, 20), num_check_images=4)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 20, 1))
    larger = ViTEncoder.from_config({**trained.get_config(), "image_size": (32, 20)})
    weights = [w for w in trained.get_weights() if w.shape != (50, 32)]
    table = larger.positions.table.numpy()
    larger.set_weights(
        [table if w.shape == (41, 32) else weights.pop(0) for w in larger.get_weights()]
    )
    outputs = run(path, images)
    assert outputs["tokens"].shape == (3, 1 + 8 * 5, 32)
    np.testing.assert_allclose(outputs["tokens"], expected(larger, images), atol=1e-4)


@pytest.mark.slow
def test_a_classifier(trained, tmp_path):
    model = shake(ViTClassifier(trained, 10, pooling="mean"))
    path = export(model, tmp_path, num_check_images=4)
    image = digits(1)
    outputs = run(path, image)
    logits = np.asarray(model(normalised(trained, image)))
    np.testing.assert_allclose(outputs["logits"], logits, atol=1e-4 * max(1, np.abs(logits).max()))
    np.testing.assert_allclose(outputs["probabilities"].sum(), 1, atol=1e-5)


@pytest.mark.slow
def test_a_model_in_half_precision_is_exported_in_float32(tmp_path):
    half = encoder(dtype="bfloat16", num_layers=1)
    path = export(half, tmp_path, num_check_images=2)
    full = ViTEncoder.from_config({**half.get_config(), "dtype": "float32"})
    full.set_weights([np.asarray(w, "float32") for w in half.get_weights()])
    image = digits(1)
    np.testing.assert_allclose(run(path, image)["tokens"], expected(full, image), atol=1e-4)


@pytest.mark.slow
def test_the_layers_that_lose_most(trained, tmp_path, monkeypatch):
    errors = litert.layer_errors(trained, digits(8), "full_int8")
    values = [error for _, error in errors]
    assert values == sorted(values, reverse=True) and values[0] > 0
    names = [name for name, _ in errors]
    assert any(re.fullmatch(r"block_1/mlp/\S+ \(FULLY_CONNECTED\)", name) for name in names), names
    # Over a bound that nothing keeps, they are named, and nothing is left.
    monkeypatch.setitem(litert.LiteRT.BOUNDS, "int8", {"min_cosine": 1.1})
    with pytest.raises(ExportError, match=r"min_cosine.*block_"):
        export(trained, tmp_path, quantize="int8", representative="mnist5k", num_representative=8)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_wrong_numbers_leave_nothing(trained, tmp_path, monkeypatch):
    right = plain.plain_function
    monkeypatch.setattr(plain, "plain_function", lambda _, size: right(encoder(), size))
    with pytest.raises(ExportError, match="difference"):
        export(trained, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_source_may_stand_for_its_name(trained, tmp_path):
    some = load_source("mnist5k").subset(np.arange(5))
    path = export(
        trained, tmp_path, quantize="int8", representative=some, check_dataset=some, batch_size=2
    )
    found = card_of(path)
    assert found["representative"]["num_images"] == found["check"]["num_images"] == 5


@pytest.mark.slow
def test_twelve_blocks_with_random_weights(tmp_path):
    keras.utils.set_random_seed(0)
    # The widths of ViT-S/16: with those of ViT-B/16 the converter takes four times as long.
    model = ViTEncoder(image_size=(64, 96), hidden_dim=384, num_heads=6)
    path = export(model, tmp_path, num_check_images=2)
    found = card_of(path)
    assert found["check"]["difference"] < 1e-4
    assert found["operators"]["FULLY_CONNECTED"] == 1 + 12 * 6
