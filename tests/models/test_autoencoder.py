"""The autoencoder: what it hides, what it predicts, and its loss by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import GRID, TINY, N, images, noise, shake, tiny

from keras_mae.layers import MaskRatioSchedule, patchify
from keras_mae.models import normalize_patches


def pixels_of(mask):
    """Patches' mask `(B, N)` as a bool mask of the pixels `(B, H, W, C)`."""
    mask = np.asarray(mask).reshape(-1, *GRID)
    mask = mask.repeat(2, axis=1).repeat(2, axis=2)
    return np.repeat(mask[..., None], 2, axis=-1) == 1


def loss_by_hand(model, x, result):
    target = patchify(x, 2)
    if model.norm_pix_loss:
        target = normalize_patches(target)
    errors = ((np.asarray(result["prediction"]) - np.asarray(target)) ** 2).mean(axis=-1)
    mask = np.asarray(result["mask"])
    return (errors * mask).sum() / mask.sum()


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["self", "masked", "cross"])
@pytest.mark.parametrize("masking", ["random", "block", "grid"])
def test_hidden_pixels_change_neither_latent_nor_prediction(masking, attention):
    model = shake(tiny(masking=masking, decoder_attention=attention, decoder_num_layers=1))
    x, numbers = images(), noise(model)
    before = model(x, noise=numbers)
    hidden = pixels_of(before["mask"])
    changed = np.where(hidden, np.random.default_rng(0).normal(size=x.shape), x).astype("float32")
    after = model(changed, noise=numbers)
    np.testing.assert_array_equal(after["prediction"], before["prediction"])
    np.testing.assert_array_equal(after["mask"], before["mask"])
    # And visible pixels do change it.
    other = model(np.where(hidden, x, x + 0.5), noise=numbers)["prediction"]
    assert np.abs(other - before["prediction"]).min(axis=-1).max() > 1e-4


def test_hidden_pixels_have_no_gradient():
    model = shake(tiny())
    x = tf.constant(images())
    with tf.GradientTape() as tape:
        tape.watch(x)
        result = model(x, noise=noise(model))
        value = tf.reduce_sum(result["prediction"] ** 2)
    gradient = tape.gradient(value, x).numpy()
    hidden = pixels_of(result["mask"])
    np.testing.assert_array_equal(gradient[hidden], 0)
    assert (gradient[~hidden] != 0).mean() > 0.99


def test_noise_fixes_a_random_mask():
    model = tiny(mask_ratio=0.5)
    numbers = noise(model)
    mask = model(images(), noise=numbers)["mask"]
    order = np.argsort(numbers, axis=1)
    expected = np.ones((4, N))
    np.put_along_axis(expected, order[:, :12], 0, axis=1)
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.slow
def test_without_noise_the_seed_fixes_the_mask():
    masks = [tiny(seed=seed)(images())["mask"].numpy() for seed in (0, 0, 1)]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


@pytest.mark.slow
@pytest.mark.parametrize("norm_pix_loss", [False, True])
@pytest.mark.parametrize("attention", ["self", "masked", "cross"])
def test_training_loss_is_that_of_the_removed_patches(attention, norm_pix_loss):
    """The loss of a step equals the one by hand from a whole prediction with the step's mask."""
    options = {"decoder_attention": attention, "prediction_ratio": 1.0}
    model = shake(tiny(**options, norm_pix_loss=norm_pix_loss, seed=3))
    x = images()
    result = model.reconstruct(x, seed=3)  # the noise of the generator's first draw
    expected = loss_by_hand(model, x, result)
    assert float(model.compute_loss(x=x)) == pytest.approx(expected, rel=1e-5)
    assert float(model.compute_loss(x=x, training=False)) == pytest.approx(expected, rel=1e-5)
    # A second step has another mask.
    assert abs(float(model.compute_loss(x=x)) - expected) > 1e-4


@pytest.mark.slow
def test_share_of_hidden_patches_predicted():
    """Over many draws of the share, the mean loss is that of all hidden patches."""
    model = shake(tiny(decoder_attention="cross", decoder_num_layers=1, masking="grid"))
    assert model.prediction_ratio == pytest.approx(1 / 3)
    predicted = []
    model.decoder.call, call = (
        lambda latent, keep, query, **options: (
            predicted.append(query) or call(latent, keep, query, **options)
        ),
        model.decoder.call,
    )
    for _ in range(20):
        model.compute_loss(x=images())
    ids = np.stack(predicted)
    assert ids.shape == (20, 4, 6)  # a third of 18
    assert all(len(np.unique(row)) == 6 for row in ids.reshape(-1, 6))
    assert len(np.unique(np.sort(ids.reshape(-1, 6), axis=1), axis=0)) > 60


@pytest.mark.slow
def test_labels_are_ignored():
    x = images()
    losses = []
    for data in (x, (x,), (x, np.arange(4))):
        keras.utils.set_random_seed(0)
        model = tiny()
        model.compile("sgd", run_eagerly=True)
        dataset = tf.data.Dataset.from_tensors(data)
        losses.append(model.fit(dataset, verbose=0).history["loss"][0])
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.slow
def test_no_weight_is_without_gradient():
    for attention in ("self", "masked", "cross"):
        model = shake(tiny(decoder_attention=attention))
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=images())
        gradients = tape.gradient(loss, [w.value for w in model.trainable_weights])
        for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
            assert gradient is not None, weight.path
            assert np.abs(gradient).max() > 0, weight.path


@pytest.mark.slow
def test_predict_and_symbolic_call():
    model = shake(tiny())
    result = model.predict(images(), verbose=0)
    assert result["prediction"].shape == (4, N, 8)
    symbolic = keras.Model(x := keras.Input((8, 12, 2)), model(x))
    np.testing.assert_allclose(
        symbolic(images())["prediction"], model(images())["prediction"], atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"mask_ratio": 0}, r"`mask_ratio` must be in \(0, 1\). Received: 0"),
        ({"mask_ratio": 1.0}, r"`mask_ratio` must be in \(0, 1\)"),
        ({"mask_ratio": 75}, r"`mask_ratio` must be in \(0, 1\). Received: 75"),
        ({"mask_ratio": "0.75"}, "`mask_ratio` must be a float"),
        ({"mask_ratio": 0.99}, "`mask_ratio` must keep at least 1.*24 patches.*0.99"),
        ({"mask_ratio": MaskRatioSchedule(0.5, 0.99, 9)}, "`mask_ratio` must keep at least 1"),
        ({"mask_ratio": MaskRatioSchedule(1e-20, 0.5, 9)}, "`mask_ratio` must .*remove at least 1"),
        ({"image_size": 9}, "`image_size` must be a multiple.*height 9"),
        ({"image_size": (8, 12, 2)}, "`image_size` must be a positive int or a pair"),
        ({"patch_size": 3}, "`image_size` must be a multiple of `patch_size`.*divisible by 3"),
        ({"patch_size": 2.5}, "`patch_size` must be a positive int"),
        ({"patch_size": (8, 12)}, "`mask_ratio` must keep at least 1.*of the 1 patches"),
        ({"masking": "blocks"}, r"`masking` must be one of .*'blocks'"),
        ({"num_heads": 3}, "`num_heads` must divide `hidden_dim`, 16. Received: 3"),
        ({"num_heads": -2}, "`num_heads` must be an int of at least 1. Received: -2"),
        ({"decoder_num_heads": 5}, "`decoder_num_heads` must divide `decoder_hidden_dim`, 12"),
        ({"decoder_hidden_dim": 6}, "`decoder_hidden_dim` must be a multiple of 4"),
        ({"decoder_num_layers": 0}, "`decoder_num_layers` must be an int of at least 1"),
        ({"decoder_mlp_dim": 0}, "`decoder_mlp_dim` must be an int of at least 1"),
        ({"decoder_attention": "crossed"}, "`decoder_attention` must be one of"),
        ({"prediction_ratio": 0.5}, "`prediction_ratio` must be .*Received: 0.5"),
        ({"prediction_ratio": 0, "decoder_attention": "cross"}, "`prediction_ratio` must be"),
        ({"prediction_ratio": "a", "decoder_attention": "cross"}, "`prediction_ratio` must be"),
        ({"channels": 1.5}, "`channels` must be an int of at least 1. Received: 1.5"),
        ({"mean": (1, 2, 3)}, "`mean` must hold one number for each of the 2 channels"),
        ({"dtype": "mixed_bfloat"}, "`dtype` must be a Keras dtype policy.*'mixed_bfloat'"),
        ({"seed": 1.5}, "`seed` must be an integer"),
    ],
)
def test_arguments_that_do_not_fit(overrides, message):
    with pytest.raises(ValueError, match=message):
        tiny(**overrides)


@pytest.mark.parametrize("shape", [(1, N), (4, N - 1), (4, N, 1)])
def test_noise_that_does_not_fit(shape):
    model = tiny()
    for function in (model, model.reconstruct):
        with pytest.raises(ValueError, match=r"`noise` must have the shape \(batch, 24\)"):
            function(images(), noise=np.zeros(shape, "float32"))


def test_config_holds_what_was_given():
    config = tiny(mask_ratio=0.6, mean=(0.1, 0.2), seed=4).get_config()
    assert set(TINY) <= set(config)
    assert (config["mask_ratio"], config["mean"], config["seed"]) == (0.6, (0.1, 0.2), 4)
