"""What Keras does with any model, done with each of ours."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import GRID, TINY, N, P, images, tiny

from keras_mae import MAEDecoder, ViTClassifier, ViTEncoder

LABELS = np.arange(4) % 2
CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def encoder():
    return ViTEncoder(**{k: v for k, v in TINY.items() if not k.startswith("decoder_")})


def classifier(**options):
    model = ViTClassifier(encoder(), 2, seed=0, **options)
    model.head.kernel.assign(np.random.default_rng(1).normal(size=model.head.kernel.shape))
    return model


def decoder():
    return MAEDecoder(GRID, P, input_dim=16, hidden_dim=12, num_layers=2, num_heads=3)


MODELS = {
    "autoencoder": (tiny, {"prediction": (None, N, P), "mask": (None, N)}),
    "encoder": (encoder, (None, 1 + N, 16)),
    "classifier": (classifier, (None, 2)),
    "decoder": (decoder, (None, None, P)),
}


def outputs(model):
    """Return what a model gives for the same input, as a list of arrays."""
    inputs = [images()]
    if isinstance(model, MAEDecoder):
        ids = np.tile(np.arange(N, dtype="int32"), (4, 1))
        inputs = [np.ones((4, 7, 16), "float32"), ids[:, :6], ids[:, 6:]]
    return [np.asarray(value) for value in keras.tree.flatten(model(*inputs))]


def assert_same(model, other):
    for value, expected in zip(outputs(model), outputs(other), strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("name", MODELS)
def test_all_shapes_are_told(name):
    make, shape = MODELS[name]
    model, lines = make(), []
    model.summary(print_fn=lines.append, expand_nested=True)
    assert "?" not in "".join(map(str, lines))
    given = (None, None, 16) if name == "decoder" else (None, *images().shape[1:])
    assert model.compute_output_shape(input_shape=given) == shape


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_copies(name):
    model = MODELS[name][0]()
    clone = keras.models.clone_model(model)
    assert clone.get_config() == model.get_config()
    clone.set_weights(model.get_weights())
    assert_same(clone, model)
    copied = copy.deepcopy(model)
    assert_same(copied, model)
    assert copied.weights[0] is not model.weights[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encoder", "classifier"])
def test_a_model_is_part_of_a_functional_one(name):
    model = MODELS[name][0]()
    inputs = keras.Input(images().shape[1:])
    features = model(inputs)
    if name == "encoder":
        features = keras.layers.GlobalAveragePooling1D()(features)
    whole = keras.Model(inputs, keras.layers.Dense(2)(features))
    assert whole.get_layer(model.name) is model
    before = model.get_weights()
    whole.compile("sgd", CROSSENTROPY, jit_compile=False)
    whole.fit(images(), LABELS, verbose=0)
    assert any((a != b).any() for a, b in zip(model.get_weights(), before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_plot(name):
    pytest.importorskip("pydot")
    dot = keras.utils.model_to_dot(MODELS[name][0](), show_shapes=True)
    assert len(dot.get_nodes()) > 0


def data(name):
    return (images(), LABELS) if name == "classifier" else (images(),)


def compiled(name, optimizer=None, **options):
    model = MODELS[name][0]()
    if name == "classifier":
        options["loss"] = CROSSENTROPY
    model.compile(optimizer or keras.optimizers.SGD(0.1), jit_compile=False, **options)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["autoencoder", "classifier"])
def test_the_best_weights_are_kept(name, tmp_path):
    model = compiled(name)
    assert model.get_layer("encoder" if name == "autoencoder" else "head") in model.layers
    values = iter([3.0, 1.0, 2.0])
    after = []

    class Monitor(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = next(values)
            after.append(self.model.get_weights())

    best = {"monitor": "score", "mode": "min"}
    callbacks = [
        Monitor(),
        keras.callbacks.EarlyStopping(**best, patience=1, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True, **best),
    ]
    model.fit(*data(name), epochs=5, verbose=0, callbacks=callbacks)
    assert len(after) == 3
    for found in (model, keras.saving.load_model(tmp_path / "best.keras")):
        for weight, expected in zip(found.get_weights(), after[1], strict=True):
            np.testing.assert_array_equal(weight, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["autoencoder", "classifier"])
def test_steps_per_execution_changes_no_number(name):
    def trained(count):
        keras.utils.set_random_seed(0)
        model = compiled(name, steps_per_execution=count)
        model.fit(*data(name), batch_size=1, epochs=1, shuffle=False, verbose=0)
        return model.get_weights()

    for weight, expected in zip(trained(2), trained(1), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("as_dataset", [False, True])
@pytest.mark.parametrize("name", ["autoencoder", "classifier"])
def test_weights_of_images_scale_their_gradients(name, as_dataset):
    """Two of four images at weight 2, two at 0: the update of the two alone."""

    def trained(count, weights):
        keras.utils.set_random_seed(0)
        model = compiled(name)
        given = [part[:count] for part in (images(), LABELS)]
        if as_dataset:
            given = tf.data.Dataset.from_tensor_slices((*given, weights)).batch(4)
            model.fit(given, verbose=0)
        else:
            model.fit(*given, sample_weight=weights, shuffle=False, verbose=0)
        return model.get_weights()

    expected = trained(2, np.ones(2, "float32"))
    for weight, other in zip(trained(4, np.array([2, 2, 0, 0], "float32")), expected, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)


@pytest.mark.slow
def test_weights_of_classes():
    model, before = compiled("autoencoder"), None
    with pytest.raises(ValueError, match="`class_weight`"):
        model.fit(images(), LABELS, class_weight={0: 1.0, 1: 1.0})
    model = compiled("classifier")
    before = model.get_weights()
    model.fit(images(), LABELS, class_weight={0: 0.0, 1: 0.0}, verbose=0)
    for weight, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.slow
@pytest.mark.parametrize("as_one", [False, True])
def test_a_classifier_is_trained_in_parts_as_in_one(as_one):
    """Images dropped by drop path, weights of images and metrics are those of the whole batch."""

    def trained(**options):
        keras.utils.set_random_seed(0)
        model = classifier(drop_path=0.5, pooling="mean")
        model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9),
            CROSSENTROPY,
            metrics=["accuracy"],
            weighted_metrics=[keras.metrics.SparseCategoricalCrossentropy(from_logits=True)],
            jit_compile=False,
            **options,
        )
        weights = np.array([1, 2, 0.5, 3, 1], "float32")
        x, y = images(5), np.arange(5) % 2
        logs = [
            model.fit(x, y, sample_weight=weights, shuffle=False, verbose=0).history
            for _ in range(2)
        ]
        return logs[-1], model.get_weights()

    options = {"recompute": True} if as_one else {"accumulate_steps": 3, "recompute": True}
    (logs, weights), (expected_logs, expected) = trained(**options), trained()
    for key, value in expected_logs.items():
        np.testing.assert_allclose(logs[key], value, rtol=1e-5)
    for weight, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)


def test_batch_statistics_are_of_whole_batches():
    with pytest.raises(ValueError, match="`accumulate_steps`"):
        classifier(head_norm="batch").compile("sgd", CROSSENTROPY, accumulate_steps=2)
