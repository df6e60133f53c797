"""Training in half precision: what stays in float32, and that the loss falls."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import images, shake, tiny

MIXED = ["mixed_bfloat16", "mixed_float16"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", *MIXED])
def test_loss_falls_and_stays_finite(dtype, tmp_path):
    model = tiny(num_layers=1, decoder_num_layers=1, masking="grid", dtype=dtype)
    model.compile(keras.optimizers.AdamW(0.01))
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (dtype == "mixed_float16")
    data = tf.data.Dataset.from_tensors(images(8)).repeat(10)
    losses = model.fit(data, epochs=5, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]
    assert all(weight.dtype == "float32" for weight in model.trainable_weights)

    model.save(tmp_path / "mae.keras")
    loaded = keras.saving.load_model(tmp_path / "mae.keras")
    assert loaded.dtype_policy.name == dtype
    assert type(loaded.optimizer) is type(model.optimizer)
    assert float(loaded.compute_loss(x=images())) == float(model.compute_loss(x=images()))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", MIXED)
@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_target_pixels_are_not_rounded(dtype, norm_pix_loss):
    """A difference that half precision has no digits for is in the target, and in the loss."""
    x = images()
    fine = x + np.where(np.indices(x.shape)[2] % 2, 1e-5, -1e-5).astype("float32") + 2
    assert np.asarray(tf.cast(fine, dtype.removeprefix("mixed_"))).std() != fine.std()
    model = tiny(dtype=dtype, norm_pix_loss=norm_pix_loss)
    ids = np.tile(np.arange(24, dtype="int32"), (4, 1))
    target = model._target(tf.constant(fine), ids)
    reference = tiny(norm_pix_loss=norm_pix_loss)._target(tf.constant(fine), ids)
    assert target.dtype == "float32"
    np.testing.assert_array_equal(target, reference)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", MIXED)
def test_loss_does_not_overflow(dtype):
    """Errors of 1,000: their squares are above 65,504, the greatest number of float16."""
    model = tiny(dtype=dtype, norm_pix_loss=False)
    model.decoder.prediction.bias.assign([1000.0] * 8)
    loss = model.compute_loss(x=images())
    assert loss.dtype == "float32"
    assert float(loss) == pytest.approx(1e6, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", MIXED)
def test_loss_is_near_that_of_float32(dtype):
    reference = shake(tiny())
    mixed = tiny(dtype=dtype)
    mixed.set_weights(reference.get_weights())
    expected = float(reference.compute_loss(x=images()))
    assert float(mixed.compute_loss(x=images())) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("dtype", MIXED)
def test_policy_reaches_every_layer(dtype):
    model = tiny(dtype=dtype, decoder_attention="cross")
    for layer in model._flatten_layers():
        if layer is not model.masking:  # integers
            assert layer.dtype_policy.name == dtype, layer.path
