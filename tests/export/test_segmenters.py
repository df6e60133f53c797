"""Exports of segmenters: logits and label maps at the image's size, in every format."""

import json

import numpy as np
import pytest
from shaken import card_of, digits, encoder, normalised, shake
from test_exports_of_sensors import FORMATS, QUICK, run

from keras_mae import ViTSegmenter
from keras_mae.export import export_encoder
from keras_mae.export.compare import compare_label_map
from keras_mae.export.plain import plain_function

pytestmark = pytest.mark.export
NAMES = ["paper", "ink", "edge"]


def segmenter(head, **changes):
    model = ViTSegmenter(encoder(**changes), 3, head=head, filters=8, class_names=NAMES)
    return shake(model)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "multi_block", "pyramid"])
@pytest.mark.parametrize("patch_size", [4, 14])
def test_the_plain_forward_pass_is_the_models(head, patch_size):
    model = segmenter(head, patch_size=patch_size, num_layers=3)
    images = digits(3)
    logits = np.asarray(model(normalised(model.encoder, images)))
    found = plain_function(model)(images.astype("float32"))
    scale = max(1, np.abs(logits).max())
    np.testing.assert_allclose(found["logits"] / scale, logits / scale, atol=2e-5)
    np.testing.assert_array_equal(found["label_map"], np.asarray(found["logits"]).argmax(-1))
    assert found["label_map"].dtype.name == "uint8"


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("head", ["multi_block", "pyramid"])
def test_label_maps_of_every_format(format, head, tmp_path):
    packages, signature, bound = FORMATS[format]
    for package in packages:
        pytest.importorskip(package)
    model = segmenter(head)
    # In a new process, where keras cannot be imported.
    path = export_encoder(model, tmp_path / "out", format, num_check_images=3)
    images = digits(3, seed=1)
    logits = np.asarray(model(normalised(model.encoder, images)))
    got = run(format, path, images)
    assert set(got) == {"logits", "label_map"}
    np.testing.assert_allclose(got["logits"], logits, atol=bound * max(1, np.abs(logits).max()))
    np.testing.assert_array_equal(got["label_map"], got["logits"].argmax(-1))
    card = card_of(path)
    assert (card["kind"], card["task"], card["head"]) == ("segmenter", "segmentation", head)
    assert card["class_names"] == NAMES and card["num_classes"] == 3
    assert not card["check"]["keras_imported"]
    batch = 1 if format == "litert" else None
    assert card["signatures"][signature]["outputs"] == {
        "logits": ["float32", [batch, 28, 28, 3]],
        "label_map": ["uint8", [batch, 28, 28]],
    }
    if format == "saved_model":
        assert json.loads((path / "class_names.json").read_text()) == NAMES
        assert {"serving_bytes", "serving_uint8", "serve"} <= set(card["signatures"])


@pytest.mark.slow
def test_a_server_gives_label_maps(tmp_path):
    pytest.importorskip("tensorflow_serving.apis")
    from keras_mae.export import serve_check

    segmenter("linear").save(tmp_path / "model.keras")
    path = export_encoder(tmp_path / "model.keras", tmp_path / "out", dense=True, **QUICK)
    assert serve_check.serve_check(path, lambda line: None) == []


@pytest.mark.slow
def test_other_image_sizes_and_quantized_files(tmp_path):
    pytest.importorskip("ai_edge_litert")
    path = export_encoder(
        segmenter("pyramid"), tmp_path / "wide", "litert", image_size=(28, 56), **QUICK
    )
    outputs = card_of(path)["signatures"]["serving_default"]["outputs"]
    assert outputs["label_map"] == ["uint8", [1, 28, 56]]
    path = export_encoder(
        segmenter("linear"), tmp_path / "small", "litert", quantize="dynamic_int8", **QUICK
    )
    assert card_of(path)["check"]["min_cosine"] > 0.99


def test_a_label_map_is_held_to_the_files_own_logits():
    logits = np.array([[[[0.1, 0.2], [3, 1], [1, 2], [5, 4]]]])
    right = np.array([[[1, 0, 1, 0]]], "uint8")
    assert compare_label_map({"logits": logits, "label_map": right}, right)["difference"] == 0
    wrong = {"logits": logits, "label_map": 1 - right * np.uint8(1)}
    assert compare_label_map(wrong, right)["difference"] == 1
    for other in (right[..., :3], right.astype("int32")):
        assert np.isnan(
            compare_label_map({"logits": logits, "label_map": other}, right)["difference"]
        )
