import keras
import numpy as np
import pytest
import tensorflow as tf
from shaken import card_of, digits, encoder, expected, normalised, shake

import keras_mae
from keras_mae.data import ArraySource, eval_dataset, load_source
from keras_mae.evaluation.features import extract_features
from keras_mae.export import ExportError, export_encoder, image_bytes
from keras_mae.export.formats import saved_model
from keras_mae.files import weights_digest
from keras_mae.models.saved_model_encoder import SavedModelEncoder
from keras_mae.models.weights import get_weights

pytestmark = pytest.mark.export
BOUND = 1e-5
# Quick, where it is not the new process that is tested.
QUICK = {"fresh_process": False, "warmup": False, "num_check_images": 4}


@pytest.fixture(scope="module")
def model():
    return encoder()


@pytest.fixture(scope="module")
def path(served):
    return served


@pytest.fixture(scope="module")
def loaded(path):
    return tf.saved_model.load(path)


def wanted(model, pixels):
    tokens = expected(model, pixels)
    return {"tokens": tokens, "cls": tokens[:, 0], "pooled": tokens[:, 1:].mean(axis=1)}


def largest_difference(got, outputs):
    assert set(got) == set(outputs)
    assert all(got[name].shape == outputs[name].shape for name in outputs)
    return max(np.abs(np.asarray(got[name]) - outputs[name]).max() for name in outputs)


@pytest.mark.slow
def test_an_encoder_of_several_class_tokens_and_registers(tmp_path):
    model = encoder(num_class_tokens=3, num_registers=2, layer_scale=0.5)
    directory = tmp_path / "several"
    export_encoder(model, directory, dense=True, **QUICK)
    again = keras_mae.load_encoder(directory)
    images = normalised(model, digits(2))
    np.testing.assert_allclose(again(images), model(images), atol=BOUND)
    assert again.num_class_tokens == 3
    classifiers = [keras_mae.ViTClassifier(e, 4, pooling="both") for e in (model, again)]
    head = [np.random.default_rng(0).normal(size=w.shape) for w in classifiers[0].head.weights]
    for classifier in classifiers:
        classifier.head.set_weights(head)
    np.testing.assert_allclose(*(classifier(images) for classifier in classifiers), atol=1e-4)


@pytest.mark.slow
def test_the_card_says_what_new_processes_without_keras_found(path, model):
    found = card_of(path)
    assert found["check"]["loads"] == 1 and found["check"]["num_images"] == 16
    assert found["check"]["fresh_process"] and not found["check"]["keras_imported"]
    assert 0 < found["check"]["max_abs_difference"] < BOUND
    assert found["check"]["min_cosine"] > 0.999999
    assert set(found["check"]["signatures"]) == {
        "serve",
        "serving_bytes",
        "serving_tokens",
        "serving_uint8",
    }
    assert found["weights_sha256"] == weights_digest(get_weights(model))
    for key in ("image_size", "channels", "patch_size", "mean", "std", "hidden_dim", "num_layers"):
        assert np.array_equal(found[key], getattr(model, key))
    assert found["signatures"]["serving_default"]["inputs"] == {
        "images": ["float32", [None, 28, 28, 1]]
    }
    assert "bound: difference 1e-05" in (path / "card.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_signatures_give_the_models_outputs(loaded, model, count):
    pixels = digits(count)
    outputs = wanted(model, pixels)
    signatures = loaded.signatures
    encoded = tf.stack([tf.io.encode_png(image) for image in pixels])
    for got in (
        signatures["serving_default"](images=tf.constant(pixels, tf.float32)),
        signatures["serving_uint8"](images=tf.constant(pixels)),
        signatures["serving_bytes"](image_bytes=encoded),
    ):
        assert largest_difference(got, outputs) < BOUND
    feature_map = signatures["serving_tokens"](images=tf.constant(pixels, tf.float32))
    rows = outputs["tokens"][:, 1:].reshape(count, 7, 7, 32)
    assert largest_difference(feature_map, {"feature_map": rows}) < BOUND


@pytest.mark.slow
def test_files_of_any_size_are_cut_as_the_evaluation_pipeline_does(loaded, model):
    large = keras.ops.image.resize(digits(3).astype("float32"), (45, 33))
    large = np.clip(np.asarray(large), 0, 255).astype("uint8")

    class Large(ArraySource):
        channels = 1

        def image_reader(self):
            return large.__getitem__

    statistics = {"mean": model.mean, "std": model.std, "with_labels": False}
    (images,) = eval_dataset(Large(3), image_size=28, batch_size=3, **statistics)
    encoded = tf.stack([tf.io.encode_png(image) for image in large])
    got = loaded.signatures["serving_bytes"](image_bytes=encoded)
    # A value of 255 may be rounded otherwise than by Pillow.
    assert np.abs(got["tokens"] - np.asarray(model(images))).max() < 0.01


@pytest.mark.slow
def test_each_variable_is_written_once(path, model):
    size = (path / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert size < 4 * model.count_params() + 20_000


@pytest.mark.slow
def test_features_for_a_probe_are_those_of_the_keras_encoder(loaded, model):
    source = load_source("mnist5k").subset(np.arange(0, 5000, 25))
    data = eval_dataset(source, image_size=28, batch_size=100, mean=model.mean, std=model.std)
    ours, labels = extract_features(loaded.serve, data)
    theirs, _ = extract_features(model.predict_on_batch, data)
    assert len(labels) == 200
    np.testing.assert_allclose(ours, theirs, atol=BOUND)


@pytest.mark.slow
def test_a_layer_of_it_trains(path, model):
    layer = keras.layers.TFSMLayer(str(path), call_endpoint="serve")
    before = [np.asarray(weight) for weight in layer.trainable_weights]
    assert len(before) == len(model.trainable_weights) > 0
    inputs = keras.Input((28, 28, 1))
    classifier = keras.Model(inputs, keras.layers.Dense(10)(layer(inputs)[:, 0]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=False)
    # A loaded variable's name ends in ":0", which only variables made outside a graph may have.
    classifier.optimizer.build(classifier.trainable_variables)
    images = normalised(model, digits(20))
    history = classifier.fit(images, np.arange(20) % 10, epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]
    for weight, value in zip(layer.trainable_weights, before, strict=True):
        assert np.any(value != np.asarray(weight)), weight.name


@pytest.mark.slow
def test_versions_follow_each_other_and_none_is_written_over(model, tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "notes").mkdir()
    assert export_encoder(model, tmp_path, **QUICK) == tmp_path / "8"
    assert saved_model.SavedModel(warmup=False).final_path(tmp_path) == tmp_path / "9"
    assert not (tmp_path / "8" / "assets.extra").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["7", "8", "notes"]


@pytest.mark.slow
def test_another_size_not_square_from_a_path(model, tmp_path):
    model.save(tmp_path / "encoder.keras")
    path = keras_mae.export_encoder(
        tmp_path / "encoder.keras", tmp_path / "wide", image_size=(24, 40), **QUICK
    )
    resized = keras_mae.load_pretrained(tmp_path / "encoder.keras", image_size=(24, 40))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 24, 40, 1)).astype("uint8")
    served = tf.saved_model.load(path).signatures["serving_uint8"]
    assert largest_difference(served(images=pixels), wanted(resized, pixels)) < BOUND


@pytest.mark.slow
def test_a_classifier_gives_logits_and_probabilities_too(model, tmp_path):
    classifier = shake(keras_mae.ViTClassifier(model, 10, pooling="mean", pooled_blocks=2))
    path = export_encoder(classifier, tmp_path, **QUICK)
    pixels = digits(3)
    images = tf.constant(normalised(model, pixels))
    got = tf.saved_model.load(path).signatures["serving_default"](
        images=tf.constant(pixels, tf.float32)
    )
    logits = np.asarray(classifier(images))
    np.testing.assert_allclose(got["logits"], logits, atol=BOUND)
    np.testing.assert_allclose(got["probabilities"], tf.nn.softmax(logits), atol=BOUND)
    assert got["pooled"].shape == (3, 64) and got["tokens"].shape == (3, 50, 32)
    tokens = classifier.encoder(images)  # the last block's, alone
    np.testing.assert_allclose(got["tokens"], tokens, atol=BOUND)
    again = SavedModelEncoder(path)
    np.testing.assert_allclose(again(images), tokens, atol=BOUND)
    found = card_of(path)
    assert (found["kind"], found["num_classes"], found["pooling"]) == ("classifier", 10, "mean")
    assert found["pooled_blocks"] == 2


@pytest.mark.slow
def test_bfloat16_and_two_channels(tmp_path):
    """A bfloat16 model computes in float32; no file format holds two channels."""
    two = encoder(channels=2, mean=None, std=None, dtype="mixed_bfloat16")

    class Pairs(ArraySource):
        channels = 2

        def image_reader(self):
            return np.repeat(digits(4), 2, axis=-1).__getitem__

    path = export_encoder(two, tmp_path, check_dataset=Pairs(4), **QUICK)
    found = card_of(path)
    assert "serving_bytes" not in found["signatures"] and found["precision"] == "float32"
    assert "serving_uint8" in found["signatures"]


@pytest.mark.slow
def test_an_export_that_differs_leaves_nothing(model, tmp_path, monkeypatch):
    right = saved_model.normalize
    monkeypatch.setattr(saved_model, "normalize", lambda *args: right(*args) + 1e-4)
    with pytest.raises(ExportError, match="difference.*1e-05"):
        export_encoder(model, tmp_path / "deep" / "model", **QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_one_signature_that_differs_is_enough(model, tmp_path, monkeypatch):
    right = image_bytes.pixels_of_bytes
    monkeypatch.setattr(image_bytes, "pixels_of_bytes", lambda *args: right(*args) + 1)
    with pytest.raises(ExportError, match="difference.*1e-05"):
        export_encoder(model, tmp_path / "model", **QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_export_that_a_new_process_cannot_load_leaves_nothing(model, tmp_path, monkeypatch):
    write = saved_model.SavedModel.write

    def broken(self, source, directory, images):
        written = write(self, source, directory, images)
        (directory / "variables" / "variables.index").unlink()
        return written

    monkeypatch.setattr(saved_model.SavedModel, "write", broken)
    with pytest.raises(ExportError, match="new process"):
        export_encoder(model, tmp_path / "model", warmup=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_twelve_blocks_with_random_weights(tmp_path):
    small = keras_mae.ViTEncoder(image_size=(64, 96), hidden_dim=384, num_heads=6)  # ViT-S/16
    path = export_encoder(small, tmp_path, **{**QUICK, "num_check_images": 2})
    found = card_of(path)
    assert found["preset"] == "mae_vit_small_patch16"
    assert found["check"]["difference"] < BOUND
