"""What trades time for memory changes no number: accumulation, recomputing; and XLA on replicas."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import images, shake, tiny

from keras_mae.layers import MaskRatioSchedule
from keras_mae.models.steps import mean_over_parts

SCHEDULE = {"mask_ratio": MaskRatioSchedule(0.5, 0.75, total_steps=2, num_levels=2)}


def trained(batch=6, data=None, steps=2, model_options=None, **options):
    """Train a few steps; return the losses of each, and the weights."""
    keras.utils.set_random_seed(0)
    model = shake(tiny(num_layers=1, decoder_num_layers=1, seed=3, **(model_options or {})))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), **options)
    if data is None:
        data = tf.data.Dataset.from_tensors(images(batch)).repeat()
    losses = []
    log = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: losses.append(logs))
    for _ in range(steps):  # an epoch a step: the log is a running mean
        model.fit(data, steps_per_epoch=1, verbose=0, callbacks=[log])
    return [log["loss"] for log in losses], model.get_weights()


@functools.cache
def plain(batch=6, attention="self"):
    """Train without any of it: what several tests compare with."""
    return trained(batch, jit_compile=False, model_options={"decoder_attention": attention})


def assert_same(one, other, tolerance=1e-5):
    np.testing.assert_allclose(one[0], other[0], rtol=tolerance)
    for weight, expected in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(weight, expected, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accumulate_steps", "jit_compile"),
    [(2, True), (4, False)],  # 4 does not divide 6: it becomes 6
)
def test_accumulated_step_is_that_of_the_large_batch(accumulate_steps, jit_compile):
    parts = trained(accumulate_steps=accumulate_steps, jit_compile=jit_compile)
    assert_same(parts, plain())


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_all_of_it_on_two_replicas_is_one_device(replicas, jit_compile):
    data = tf.data.Dataset.from_tensor_slices(images(8)).batch(8, drop_remainder=True).repeat()
    with replicas.scope():
        model = shake(tiny(num_layers=1, decoder_num_layers=1, seed=3))
        model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9),
            jit_compile=jit_compile,
            accumulate_steps=2,
            recompute=True,
        )
    assert model._jit_gradients == jit_compile
    losses = [model.fit(data, steps_per_epoch=1, verbose=0).history["loss"][0] for _ in range(2)]
    assert_same((losses, model.get_weights()), plain(batch=8))


@pytest.mark.slow
def test_accumulation_with_schedule_and_recomputing():
    options = {"jit_compile": False, "model_options": SCHEDULE}
    assert_same(trained(accumulate_steps=3, recompute=True, **options), trained(**options))


@pytest.mark.slow
def test_accumulation_of_batches_of_unknown_size():
    def data():
        return tf.data.Dataset.from_tensor_slices(images(7)).batch(7)

    assert_same(
        trained(data=data(), steps=1, accumulate_steps=3), trained(data=data(), steps=1), 1e-5
    )
    with pytest.raises(ValueError, match="`accumulate_steps` of 3 with XLA needs batches of one"):
        trained(data=data(), steps=1, accumulate_steps=3, jit_compile=True)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [8, 7, 1])
@pytest.mark.parametrize("known", [True, False])
def test_parts_are_small_and_their_mean_counts_rows(rows, known):
    """The mean of squares and its slope, of numbers 1..n; no part has more than a third."""
    variable = tf.Variable(2.0)
    sizes = []

    def function(batch):
        x = batch["x"]
        tf.py_function(lambda n: sizes.append(int(n)), [tf.shape(x)[0]], [])
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(variable * x**2)
        return loss, [tape.gradient(loss, variable)], tf.stack([x, 2 * x], axis=1)

    signature = [tf.TensorSpec([rows if known else None])]
    numbers = np.arange(1, rows + 1, dtype="float32")
    loss, (gradient,), outputs = tf.function(
        lambda x: mean_over_parts(function, {"x": x, "y": None}, 3, [variable], (2,)),
        input_signature=signature,
    )(numbers)
    np.testing.assert_array_equal(outputs, np.stack([numbers, 2 * numbers], axis=1))
    assert float(gradient) == pytest.approx(np.mean(numbers**2), rel=1e-6)
    assert float(loss) == pytest.approx(2 * np.mean(numbers**2), rel=1e-6)
    assert sum(sizes) == rows
    assert max(sizes) <= -(-rows // 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "jit_compile"), [("self", True), ("cross", False), ("masked", False)]
)
def test_recomputing_changes_no_number(attention, jit_compile):
    options = {"jit_compile": jit_compile, "model_options": {"decoder_attention": attention}}
    assert_same(trained(recompute=True, **options), plain(attention=attention))


@pytest.mark.slow
def test_recomputing_runs_the_blocks_again():
    def softmaxes(recompute):
        model = tiny()
        model.compile(keras.optimizers.SGD(0.1), recompute=recompute)
        step = tf.function(lambda x: model.train_step(x)["loss"])
        graph = step.get_concrete_function(tf.TensorSpec((4, 8, 12, 2))).graph
        return sum(op.type == "Softmax" for op in graph.get_operations())

    # Each of the four blocks has one, and another for its gradient; and once more where the whole
    # block is computed again.
    assert (softmaxes(False), softmaxes(True)) == (8, 12)


@pytest.mark.slow
def test_models_are_saved_with_both(tmp_path):
    model = tiny(num_layers=1, decoder_num_layers=1)
    model.compile(keras.optimizers.SGD(0.1), accumulate_steps=2, recompute=True)
    model.save(tmp_path / "mae.keras")
    loaded = keras.saving.load_model(tmp_path / "mae.keras")
    assert (loaded.accumulate_steps, loaded.recompute) == (2, True)


def test_bad_number_of_parts():
    with pytest.raises(ValueError, match="`accumulate_steps` must be an int of at least 1.*0"):
        tiny().compile("sgd", accumulate_steps=0)
