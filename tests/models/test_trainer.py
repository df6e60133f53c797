"""Compile, fit, evaluate, save and resume."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import images, shake
from tiny import tiny as tiny_model

from keras_mae.layers import MaskRatioSchedule
from keras_mae.pixels import normalize
from keras_mae.training import make_adamw


def tiny(**overrides):
    return tiny_model(num_layers=1, decoder_num_layers=1, **overrides)


def steps(model, count=4, batch=8):
    """Train `count` steps on one batch; return the losses."""
    dataset = tf.data.Dataset.from_tensors(images(batch)).repeat()
    losses = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(logs["loss"])
    )
    for _ in range(count):  # an epoch a step: the log is a running mean
        model.fit(dataset, steps_per_epoch=1, callbacks=[callback], verbose=0)
    return losses


def compiled(model, run_eagerly=True):
    """Compile; to run eagerly, as a graph takes longer to make than a few steps."""
    model.compile(keras.optimizers.AdamW(0.01), run_eagerly=run_eagerly)
    return model


@pytest.mark.slow
def test_loss_falls():
    losses = steps(compiled(tiny(masking="grid"), run_eagerly=False), count=40)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.slow
def test_a_step_equals_one_by_hand():
    model = shake(tiny())
    before = [w.numpy() for w in model.trainable_variables]
    x = images()
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x=x)
    gradients = tape.gradient(loss, [w.value for w in model.trainable_variables])
    model.seed_generator.state.assign([0, 0])
    model.compile(keras.optimizers.SGD(0.1))
    assert model.train_on_batch(x) == pytest.approx(float(loss), rel=1e-5)
    for weight, start, gradient in zip(model.trainable_variables, before, gradients, strict=True):
        np.testing.assert_allclose(weight, start - 0.1 * gradient, atol=1e-5)


@pytest.mark.slow
def test_each_step_has_a_mask_of_its_own_and_a_seed_repeats_them():
    def losses(seed):
        keras.utils.set_random_seed(0)
        model = tiny(seed=seed)  # not trained: losses differ by their masks only
        return [float(model.compute_loss(x=images())) for _ in range(3)]

    first = losses(1)
    assert len(set(first)) == 3
    assert losses(1) == first
    assert losses(2) != first


@pytest.mark.slow
def test_evaluation_repeats_its_masks_and_leaves_training_alone():
    model = compiled(tiny())
    model.compute_loss(x=images())
    first = model.evaluate(images(), batch_size=2, verbose=0)
    assert model.evaluate(images(), batch_size=2, verbose=0) == first
    assert model.seed_generator.state.numpy().tolist() == [0, 1]


@pytest.mark.slow
def test_validation_in_fit_is_evaluate():
    model = compiled(tiny())
    history = model.fit(images(), validation_data=(images(4, seed=9), None), verbose=0).history
    expected = model.evaluate(images(4, seed=9), verbose=0)
    assert history["val_loss"] == [pytest.approx(expected, rel=1e-6)]


@pytest.mark.slow
def test_mean_loss_of_uneven_batches_counts_images():
    model = compiled(tiny())
    x = images(6)
    whole = model.evaluate(x, batch_size=4, verbose=0)
    model.test_seed_generator.state.assign([model.seed, 0])
    four, two = (float(model.compute_loss(x=part, training=False)) for part in (x[:4], x[4:]))
    assert whole == pytest.approx((4 * four + 2 * two) / 6, rel=1e-5)


@pytest.mark.slow
def test_saved_and_loaded_model_goes_on_as_if_never_stopped(tmp_path):
    straight = compiled(tiny(seed=7))
    straight.save(tmp_path / "start.keras")
    expected = steps(straight, count=4)

    model = keras.saving.load_model(tmp_path / "start.keras")
    first = steps(model, count=2)
    model.save(tmp_path / "middle.keras")
    loaded = keras.saving.load_model(tmp_path / "middle.keras")
    assert loaded.optimizer.iterations == 2
    assert first + steps(loaded, count=2) == expected
    assert loaded.evaluate(images(), verbose=0) == straight.evaluate(images(), verbose=0)


@pytest.mark.slow
def test_weights_alone_carry_the_state_too(tmp_path):
    model = tiny()
    for _ in range(3):
        model.compute_loss(x=images())
    model.save_weights(tmp_path / "mae.weights.h5")
    other = tiny()
    other.load_weights(tmp_path / "mae.weights.h5")
    assert other.seed_generator.state.numpy().tolist() == [0, 3]


@pytest.mark.slow
def test_schedule_of_the_mask_ratio():
    """The number kept at each step, and not one trace more than for a fixed ratio."""
    schedule = MaskRatioSchedule(0.25, 0.75, total_steps=6, num_levels=3)
    model = compiled(tiny(mask_ratio=schedule), run_eagerly=False)
    assert model._num_kept == [18, 12, 6]
    traced, ran = [], []
    call = model._loss

    def loss(batch, num_keep, training=True):
        traced.append((num_keep, training))
        tf.py_function(lambda: ran.append(num_keep), [], [])
        return call(batch, num_keep, training)

    model._loss = loss
    steps(model, count=8)
    assert ran == [18, 18, 12, 12, 6, 6, 6, 6]
    assert traced == [(18, True), (12, True), (6, True)]
    model.evaluate(images(), verbose=0)
    assert traced[3:] == [(6, False)]  # the last ratio
    np.testing.assert_array_equal(np.sum(model.reconstruct(images())["mask"], axis=1), 18)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loss", "loss_weights", "metrics", "weighted_metrics"])
def test_compile_takes_no_loss_and_no_metrics(name):
    with pytest.raises(ValueError, match=f"`{name}` must not be given: MaskedAutoencoder computes"):
        tiny().compile("adam", **{name: ["mse"]})


def batches(x):
    yield (x,)


class Batches(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.x, np.zeros(len(self.x))


FEEDS = {
    "array": lambda x: x,
    "dataset": lambda x: tf.data.Dataset.from_tensor_slices(x).batch(2),
    "labelled": lambda x: tf.data.Dataset.from_tensor_slices((x, x[:, 0])).batch(2),
    "generator": batches,
    "PyDataset": Batches,
}
WRONG = {
    "0..255": (np.abs(images()) * 255, "`x` must hold normalised images.*Received: values up to"),
    "uint16": (np.abs(images() * 255).astype("uint16"), "`images` must be floats.*uint16"),
    "NaN": (images() * np.nan, "`x` must hold normalised images.*nan"),
    "channels": (images()[..., :1], r"`images` must have the shape.*\(8, 12, 2\)"),
    "size": (images()[:, :6], "`images` must have the shape"),
}


@pytest.mark.slow
@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("wrong", WRONG)
def test_images_that_do_not_fit_stop_fit_before_any_step(feed, wrong):
    model = compiled(tiny())
    before = model.get_weights()
    x, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        model.fit(FEEDS[feed](x), verbose=0)
    assert model.optimizer.iterations == 0
    assert model.seed_generator.state.numpy().tolist() == [0, 0]
    for weight, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_validation_images_are_checked_too():
    model = compiled(tiny())
    with pytest.raises(ValueError, match="`x` must hold normalised images"):
        model.fit(images(), validation_data=(images() * 255, np.zeros(4)), verbose=0)


@pytest.mark.slow
def test_checking_a_generator_loses_no_batch():
    model = compiled(tiny())
    seen = []

    def generator():
        for index in range(3):
            seen.append(index)
            yield (images(4, seed=index),)

    model.fit(generator(), steps_per_epoch=3, verbose=0)
    assert seen == [0, 1, 2]
    assert model.optimizer.iterations == 3


@pytest.mark.slow
def test_nothing_is_traced_again_after_the_first_step():
    """Not for another epoch, another call of `fit`, or a schedule's other ratios."""
    schedule = MaskRatioSchedule(0.5, 0.75, total_steps=8)
    model = tiny(mask_ratio=schedule)
    traced = []

    def counting(step):
        def counted(data):
            traced.append(step.__name__)  # Python runs while a graph is traced, and not again
            return step(data)

        return counted

    model.train_step, model.test_step = counting(model.train_step), counting(model.test_step)
    model.compile(make_adamw(model, keras.optimizers.schedules.CosineDecay(1e-3, 8)))
    for _ in range(2):
        model.fit(images(8), batch_size=4, epochs=2, validation_data=[images(8)], verbose=0)
    assert int(model.optimizer.iterations) == 8
    assert traced == ["train_step", "test_step"]


@pytest.mark.slow
def test_bytes_are_normalised_in_the_step():
    """Images of uint8 are worth what they are normalised, in training too."""
    pixels = np.random.RandomState(1).randint(0, 256, (4, 8, 12, 2), dtype=np.uint8)
    losses, weights, outputs = [], [], []
    for turned in (lambda x: x, lambda x: normalize(x.astype("float32"), (0.3, 0.6), (0.2, 0.5))):
        keras.utils.set_random_seed(0)
        model = compiled(tiny(mean=(0.3, 0.6), std=(0.2, 0.5)))
        given = turned(pixels)
        outputs.append([model(given)["prediction"], model.encoder(given)])
        losses.append(model.fit(given, batch_size=4, epochs=3, verbose=0).history["loss"])
        losses[-1] += [model.evaluate(given, verbose=0), float(model.reconstruct(given)["loss"])]
        weights.append(model.get_weights())
    np.testing.assert_allclose(*losses, rtol=1e-6)
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    for ours, theirs in zip(*outputs, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_bytes_of_a_deeper_sensor_are_refused():
    """Nobody could tell whether 255 is the end of its range."""
    with pytest.raises(ValueError, match="where that range is 0 to 255, uint8. Received: .*uint8"):
        tiny(value_range=(0, 4095))(np.zeros((1, 8, 12, 2), "uint8"))
