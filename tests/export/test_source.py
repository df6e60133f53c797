"""What is exported: a float32 copy, its facts and its outputs."""

import numpy as np
import pytest
from shaken import digits, encoder, normalised, shake

from keras_mae import MaskedAutoencoder, ViTClassifier, ViTDetector, ViTEncoder
from keras_mae.export.source import find_preset, model_outputs, open_source
from keras_mae.files import weights_digest
from keras_mae.models.weights import get_weights
from keras_mae.presets import list_presets

pytestmark = pytest.mark.export


def test_the_checksum_tells_any_weight_apart():
    weights = get_weights(encoder())
    checksum = weights_digest(weights)
    assert checksum == weights_digest(dict(reversed(weights.items())))
    for name in ("encoder.class_token", "encoder.blocks.1.mlp.hidden.bias"):
        changed = {**weights, name: weights[name] + np.float32(1e-6)}
        assert weights_digest(changed) != checksum


def test_presets_are_found_by_their_architecture():
    mini = MaskedAutoencoder.from_preset(list_presets()[0], image_size=(32, 40))
    assert find_preset(mini.encoder) == list_presets()[0]
    assert find_preset(encoder()) is None


def test_a_source_is_a_float32_copy_with_its_facts(tmp_path):
    original = encoder(dtype="mixed_bfloat16")
    source = open_source(original)
    assert source.model is not original and source.model.compute_dtype == "float32"
    for name, value in get_weights(original).items():
        np.testing.assert_array_equal(value, get_weights(source.model)[name])
    assert source.facts["image_size"] == [28, 28] and source.facts["mean"] == [0.13]
    assert source.facts["weights_sha256"] == weights_digest(get_weights(original))
    original.save(tmp_path / "encoder.keras")
    again = open_source(tmp_path / "encoder.keras")
    assert again.facts == {**source.facts, "source": str(tmp_path / "encoder.keras")}


def test_another_image_size_moves_the_positions_only():
    original = encoder(learned_positions=True)
    source = open_source(original, (32, 20))
    assert source.encoder.image_size == (32, 20)
    assert source.facts["trained_image_size"] == [28, 28]
    ours, theirs = get_weights(source.model), get_weights(original)
    changed = [name for name in ours if ours[name].shape != theirs[name].shape]
    assert changed == ["encoder.positions.table"]


@pytest.mark.slow
def test_outputs_of_an_encoder_and_of_classifiers():
    model = encoder()
    images = normalised(model, digits(3))
    outputs = model_outputs(model, images)
    tokens = np.asarray(model(images))
    assert list(outputs) == ["tokens", "cls", "pooled"]
    np.testing.assert_array_equal(outputs["cls"], tokens[:, 0])
    np.testing.assert_allclose(outputs["pooled"], tokens[:, 1:].mean(axis=1), atol=1e-6)
    for options in ({"pooling": "mean"}, {"head_norm": "batch"}, {"trainable_blocks": 0}):
        classifier = shake(ViTClassifier(model, 7, **options))
        source = open_source(classifier)
        outputs = model_outputs(source.model, images)
        logits = np.asarray(classifier(images))
        np.testing.assert_allclose(outputs["logits"], logits, atol=1e-6)
        np.testing.assert_allclose(np.sum(outputs["probabilities"], axis=-1), 1, atol=1e-6)
        head = classifier.head
        again = np.asarray(outputs["pooled"]) @ np.asarray(head.kernel) + np.asarray(head.bias)
        np.testing.assert_allclose(again, logits, atol=1e-4)


def test_models_that_cannot_be_exported():
    with pytest.raises(ValueError, match="`model`"):
        open_source(3)
    with pytest.raises(ValueError, match="`image_size`"):
        open_source(encoder(), 30)
    broken = encoder()
    broken.class_token.assign(np.full((1, 1, 32), np.nan))
    with pytest.raises(ValueError, match="`model`.*encoder.class_token"):
        open_source(broken)
    with pytest.raises(ValueError, match="`model`.*float64"):
        open_source(ViTEncoder(28, 1, 14, 8, 1, 1, dtype="float64"))


def test_a_detector_is_not_cut_down_to_its_encoder():
    encoder = ViTEncoder(image_size=32, patch_size=8, hidden_dim=16, num_layers=1, num_heads=2)
    model = ViTDetector(encoder, num_classes=2, filters=8, max_detections=7)
    source = open_source(model)
    assert type(source.model) is ViTDetector and source.encoder.image_size == (32, 32)
    assert (source.facts["kind"], source.facts["num_classes"]) == ("detector", 2)
    assert source.facts["suppression"]["max_detections"] == 7
    assert open_source(model, 64).model.anchors.shape != model.anchors.shape
