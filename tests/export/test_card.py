"""What all formats share, without writing one."""

import json
import math

import numpy as np
import pytest
from keras_mae.export.check import compare
from shaken import digits, encoder, shake

from keras_mae import MaskedAutoencoder, ViTClassifier, ViTEncoder
from keras_mae.data import eval_dataset, load_source
from keras_mae.export import ExportError, card
from keras_mae.models.weights import get_weights
from keras_mae.presets import list_presets


def test_compare_by_hand():
    wanted = np.array([[3.0, 4.0], [0.6, 0.8]], "float32")
    # The second image is turned by a right angle; the first keeps its direction.
    got = np.array([[3.3, 4.4], [0.8, -0.6]], "float32")
    result = compare(got, wanted)
    assert result["max_abs_difference"] == pytest.approx(1.4)
    # Root mean square of 3, 4, .6, .8.
    assert result["difference"] == pytest.approx(1.4 / math.sqrt(26 / 4))
    assert result["min_cosine"] == pytest.approx(0.0, abs=1e-6)


def test_small_numbers_are_compared_absolutely():
    wanted = np.full((1, 4), 1e-3, "float32")
    result = compare(wanted + 5e-4, wanted)
    assert result["difference"] == result["max_abs_difference"] == pytest.approx(5e-4, rel=1e-3)


@pytest.mark.parametrize("got", [np.full((2, 3), np.nan), np.full((2, 3), np.inf), np.ones((2, 4))])
def test_what_is_not_finite_or_of_another_shape_is_over_every_bound(got):
    result = compare(got, np.ones((2, 3), "float32"))
    assert card.over_bound(result, {"difference": 1e9})
    assert card.over_bound(result, {"min_cosine": -1})


def test_bounds():
    result = {"difference": 2e-5, "min_cosine": 0.98}
    assert card.over_bound(result, {"difference": 1e-4, "min_cosine": 0.9}) == ""
    assert "difference is 2e-05, and must be at most 1e-05" in card.over_bound(
        result, card.BOUNDS["saved_model", "float32"]
    )
    assert "min_cosine is 0.98, and must be at least 0.99" in card.over_bound(
        result, card.BOUNDS["litert", "int8"]
    )


def test_the_checksum_tells_any_weight_apart():
    weights = get_weights(encoder())
    checksum = card.weights_digest(weights)
    assert checksum == card.weights_digest(dict(reversed(weights.items())))
    for name in ("encoder.class_token", "encoder.blocks.1.mlp.hidden.bias"):
        changed = {**weights, name: weights[name] + np.float32(1e-6)}
        assert card.weights_digest(changed) != checksum


def test_presets_are_found_by_their_architecture():
    mini = MaskedAutoencoder.from_preset(list_presets()[0], image_size=(32, 40))
    assert card.find_preset(mini.encoder) == list_presets()[0]
    assert card.find_preset(encoder()) is None


def test_a_source_is_a_float32_copy_with_its_facts(tmp_path):
    original = encoder(dtype="mixed_bfloat16")
    source = card.open_source(original)
    assert source.model is not original and source.model.compute_dtype == "float32"
    for name, value in get_weights(original).items():
        np.testing.assert_array_equal(value, get_weights(source.model)[name])
    assert source.facts["image_size"] == [28, 28] and source.facts["mean"] == [0.13]
    assert source.facts["weights_sha256"] == card.weights_digest(get_weights(original))
    original.save(tmp_path / "encoder.keras")
    again = card.open_source(tmp_path / "encoder.keras")
    assert again.facts == {**source.facts, "source": str(tmp_path / "encoder.keras")}


def test_another_image_size_moves_the_positions_only():
    original = encoder(learned_positions=True)
    source = card.open_source(original, (32, 20))
    assert source.encoder.image_size == (32, 20)
    assert source.facts["trained_image_size"] == [28, 28]
    ours, theirs = get_weights(source.model), get_weights(original)
    changed = [name for name in ours if ours[name].shape != theirs[name].shape]
    assert changed == ["encoder.positions.table"]


def test_outputs_of_an_encoder_and_of_classifiers():
    images = card.normalize(encoder(), digits(3).astype("float32"))
    model = encoder()
    outputs = card.model_outputs(model, images)
    tokens = np.asarray(model(images))
    assert list(outputs) == ["tokens", "cls", "pooled"]
    np.testing.assert_array_equal(outputs["cls"], tokens[:, 0])
    np.testing.assert_allclose(outputs["pooled"], tokens[:, 1:].mean(axis=1), atol=1e-6)
    for options in ({"pooling": "mean"}, {"head_norm": "batch"}, {"trainable_blocks": 0}):
        classifier = shake(ViTClassifier(model, 7, **options))
        source = card.open_source(classifier)
        outputs = card.model_outputs(source.model, images)
        logits = np.asarray(classifier(images))
        np.testing.assert_allclose(outputs["logits"], logits, atol=1e-6)
        np.testing.assert_allclose(np.sum(outputs["probabilities"], axis=-1), 1, atol=1e-6)
        head = classifier.head
        again = np.asarray(outputs["pooled"]) @ np.asarray(head.kernel) + np.asarray(head.bias)
        np.testing.assert_allclose(again, logits, atol=1e-4)


def test_images_are_normalised_as_in_the_pipeline():
    model, source = encoder(), load_source("mnist5k").subset(np.arange(9))
    statistics = {"mean": model.mean, "std": model.std, "with_labels": False}
    (wanted,) = eval_dataset(source, image_size=28, batch_size=9, **statistics)
    got = card.normalize(model, source.images[source.indices].astype("float32"))
    np.testing.assert_array_equal(got, wanted)


def test_check_images_are_real_and_fit():
    images, name = card.sample_images(encoder(), count=5)
    assert (images.shape, images.dtype, name) == ((5, 28, 28, 1), np.uint8, "mnist5k")
    assert 10 < images.mean() < 100
    photos, name = card.sample_images(encoder(channels=3, mean=None, std=None, image_size=(8, 12)))
    assert (photos.shape, name) == ((16, 8, 12, 3), "photos")
    with pytest.raises(ValueError, match="`check_dataset` must have images of 1 channels"):
        card.sample_images(encoder(), "photos")
    with pytest.raises(ValueError, match="`check_dataset` must be given for 2 channels"):
        card.sample_images(encoder(channels=2, mean=None, std=None))


def test_models_that_cannot_be_exported():
    with pytest.raises(ValueError, match="`model` must be a ViTEncoder"):
        card.open_source(3)
    with pytest.raises(ValueError, match="`image_size` must be a multiple"):
        card.open_source(encoder(), 30)
    broken = encoder()
    broken.class_token.assign(np.full((1, 1, 32), np.nan))
    with pytest.raises(ValueError, match="finite weights.*encoder.class_token"):
        card.open_source(broken)
    with pytest.raises(ValueError, match="fit in float32"):
        card.open_source(ViTEncoder(28, 1, 14, 8, 1, 1, dtype="float64"))


def test_a_new_directory_is_all_there_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "model" / "1"
    with pytest.raises(RuntimeError), card.new_directory(target) as directory:
        directory.mkdir()
        (directory / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with card.new_directory(target) as directory:
        directory.mkdir()
        (directory / "file").touch()
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["1"]
    # Of two at a time the first stays.
    with pytest.raises(ExportError, match="meanwhile"), card.new_directory(target) as directory:
        directory.mkdir()
        (directory / "other").touch()
    assert [path.name for path in target.iterdir()] == ["file"]
    assert [path.name for path in target.parent.iterdir()] == ["1"]


def test_directories_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="`directory` must be new"):
            card.check_new_directory(path)
    with pytest.raises(ValueError, match="`directory` must be a path that can be written"):
        card.check_new_directory(tmp_path / "file" / "below")
    assert card.check_new_directory(tmp_path / "new") == tmp_path / "new"
    assert not (tmp_path / "new").exists()


def test_the_card_is_plain_json_and_readable(tmp_path):
    source = card.open_source(encoder())
    images = digits(2)

    def write(directory):
        directory.mkdir()
        (directory / "model").write_bytes(b"12345")
        return card.Written("model", "float32", {"serving_default": {}}, {"opset": 17})

    result = {"max_abs_difference": 1e-6, "difference": 1e-6, "min_cosine": 1.0, "num_images": 2}
    result |= {"outputs": {}, "signatures": {}, "batch_size": 1, "latency_ms": 1.5}
    result |= {"keras_imported": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card, "check_export", lambda *_, **__: [result, {**result, "latency_ms": 2}])
        path = card.write_checked("onnx", source, tmp_path / "a", write, images, "digits", loads=2)
        assert path == tmp_path / "a" / "model"
        found = json.loads((tmp_path / "a" / "card.json").read_text())
        assert found["bytes"] == 5 and found["opset"] == 17 and found["latency_ms"] == 1.75
        assert found["check"]["loads"] == 2
        text = (tmp_path / "a" / "card.md").read_text()
        assert "1.75 ms" in text and found["weights_sha256"] in text
        result["difference"] = float("nan")
        with pytest.raises(ExportError, match="difference is nan.*Nothing was left under"):
            card.write_checked("onnx", source, tmp_path / "b", write, images, "digits")
    assert not (tmp_path / "b").exists()
