"""The encoder: what reaches it, and in what order."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import TINY, N, images, shake

from keras_mae import ViTClassifier, ViTEncoder
from keras_mae.layers import patchify, sincos_positions
from keras_mae.models.weights import assign_weights, get_weights

CONFIG = {key: value for key, value in TINY.items() if not key.startswith("decoder_")}
KEEP_IDS = np.array([[3, 20, 0, 7], [11, 5, 23, 1]], "int32")


@pytest.fixture(scope="module")
def encoder():
    return shake(ViTEncoder(**CONFIG))


def hidden(shape=(2, 8, 12, 2)):
    """True at the pixels of the patches that `KEEP_IDS` leaves out."""
    mask = np.ones(shape, bool)
    for image, ids in enumerate(KEEP_IDS):
        for row, column in zip(*np.divmod(ids, 6), strict=True):
            mask[image, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = False
    return mask


def test_naive_recomputation(encoder):
    """Embed, add positions, put the class token first, run the blocks, normalise."""
    x = patchify(images(2), 2).numpy()
    kernel, bias = (np.asarray(w) for w in encoder.patch_embedding.weights)
    tokens = x @ kernel + bias + sincos_positions(16, (4, 6))[1:]
    class_token = np.tile(np.asarray(encoder.class_token), (2, 1, 1))
    tokens = np.concatenate([class_token, tokens], axis=1).astype("float32")
    for block in encoder.blocks:
        tokens = block(tokens)
    np.testing.assert_allclose(encoder(images(2)), encoder.norm(tokens), atol=1e-5)


def test_all_patches_in_order_are_the_whole_image(encoder):
    ids = np.tile(np.arange(N, dtype="int32"), (2, 1))
    np.testing.assert_allclose(encoder(images(2), keep_ids=ids), encoder(images(2)), atol=1e-5)


def test_tokens_of_the_last_blocks_lie_side_by_side(encoder):
    """They are those of the encoder cut short after each of the blocks, through its final norm."""
    wide = np.asarray(encoder(images(), last_blocks=2))
    config = {**encoder.get_config(), "num_layers": encoder.num_layers - 1}
    short = ViTEncoder.from_config(config)
    whole = get_weights(encoder)
    assign_weights(short, {name: whole[name] for name in get_weights(short)}, short.grid_size)
    np.testing.assert_allclose(wide[..., : encoder.hidden_dim], short(images()), atol=1e-6)
    np.testing.assert_array_equal(wide[..., encoder.hidden_dim :], encoder(images()))
    inputs = keras.Input(images().shape[1:])
    model = keras.Model(inputs, encoder(inputs, last_blocks=2))
    assert model.output_shape == (None, *wide.shape[1:])
    np.testing.assert_array_equal(model(images()), wide)
    for wrong in (0, encoder.num_layers + 1, 1.5, 2.0, True):
        with pytest.raises(ValueError, match="`last_blocks` must be an int from 1 to"):
            encoder(images(), last_blocks=wrong)


def test_order_of_kept_patches_is_order_of_tokens(encoder):
    order = np.array([2, 0, 3, 1])
    latent = encoder(images(2), keep_ids=KEEP_IDS).numpy()
    other = encoder(images(2), keep_ids=KEEP_IDS[:, order]).numpy()
    np.testing.assert_allclose(other[:, 1:], latent[:, 1:][:, order], atol=1e-5)
    np.testing.assert_allclose(other[:, 0], latent[:, 0], atol=1e-5)


def test_hidden_pixels_have_no_gradient(encoder):
    x = tf.constant(images(2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        # Not the sum of all: LayerNorm's outputs sum to a constant.
        value = tf.reduce_sum(encoder(x, keep_ids=KEEP_IDS)[..., 0])
    gradient = tape.gradient(value, x).numpy()
    np.testing.assert_array_equal(gradient[hidden()], 0)
    assert (gradient[~hidden()] != 0).mean() > 0.99


def test_hidden_pixels_have_no_influence(encoder):
    x = images(2)
    latent = encoder(x, keep_ids=KEEP_IDS).numpy()
    np.testing.assert_array_equal(
        encoder(np.where(hidden(), 1e3, x).astype("float32"), keep_ids=KEEP_IDS), latent
    )
    x[~hidden()] += 0.1
    assert (encoder(x, keep_ids=KEEP_IDS).numpy() != latent).mean() > 0.9


def test_images_do_not_see_each_other(encoder):
    both = encoder(images(2)).numpy()
    np.testing.assert_allclose(encoder(images(2)[1:]), both[1:], atol=1e-5)


def test_inference_is_deterministic_and_training_drops_paths():
    encoder = shake(ViTEncoder(**CONFIG, drop_path=0.9))
    np.testing.assert_array_equal(encoder(images()), encoder(images()))
    first, second = encoder(images(), training=True), encoder(images(), training=True)
    assert (np.asarray(first) != np.asarray(second)).any()


def test_drop_path_grows_with_depth():
    encoder = ViTEncoder(**{**CONFIG, "num_layers": 4}, drop_path=0.3)
    np.testing.assert_allclose([block.drop_path for block in encoder.blocks], [0, 0.1, 0.2, 0.3])
    seeds = [d.seed for b in encoder.blocks for d in (b.attention_drop, b.mlp_drop)]
    assert len(set(seeds)) == 8


def test_initialisation():
    encoder = ViTEncoder(**{**CONFIG, "hidden_dim": 256, "num_layers": 1})
    assert 0.015 < np.std(encoder.class_token) < 0.025
    for weight in encoder.trainable_weights:
        if weight.path.endswith("bias"):
            np.testing.assert_array_equal(weight, 0)
        if weight.path.endswith("kernel"):
            limit = np.sqrt(6 / sum(weight.shape))
            assert 0.9 * limit < np.abs(weight).max() <= limit


def test_pixel_statistics():
    assert ViTEncoder(**{**CONFIG, "channels": 3}).mean == (0.485, 0.456, 0.406)
    assert ViTEncoder(**{**CONFIG, "channels": 3}).std == (0.229, 0.224, 0.225)
    assert ViTEncoder(**CONFIG).mean == (0.5, 0.5)
    assert ViTEncoder(**CONFIG, mean=[0.1, 0.2], std=[1, 2]).get_config()["std"] == (1.0, 2.0)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"image_size": (9, 12)}, "`image_size` must be a multiple.*height 9"),
        ({"image_size": "8"}, "`image_size` must be a positive int"),
        ({"patch_size": 5}, "`image_size` must be a multiple of `patch_size`"),
        ({"patch_size": 0}, "`patch_size` must be a positive int"),
        ({"channels": 0}, "`channels` must be an int of at least 1"),
        ({"num_layers": 0}, "`num_layers` must be an int of at least 1"),
        ({"num_heads": 3}, "`num_heads` must divide `hidden_dim`, 16. Received: 3"),
        ({"num_heads": 0}, "`num_heads` must be an int of at least 1"),
        ({"hidden_dim": 18}, "`hidden_dim` must be a multiple of 4.*18"),
        ({"hidden_dim": 16.0}, "`hidden_dim` must be an int"),
        ({"mlp_dim": 0}, "`mlp_dim` must be an int of at least 1. Received: 0"),
        ({"drop_path": 1.0}, "`drop_path` must be a float"),
        ({"mean": (0.5,)}, "`mean` must hold one number for each of the 2 channels"),
        ({"mean": 0.5}, "`mean` must hold one number for each of the 2 channels.*0.5"),
        ({"std": (1, 0)}, "`std` must hold one positive number"),
        ({"dtype": "half"}, "`dtype` must be a Keras dtype policy of floats"),
    ],
)
def test_arguments_that_do_not_fit(overrides, message):
    with pytest.raises(ValueError, match=message):
        ViTEncoder(**{**CONFIG, **overrides})


@pytest.mark.parametrize(
    "wrong, message",
    [
        (np.zeros((2, 8, 8, 2), "float32"), r"`images` must have the shape.*\(8, 12, 2\)"),
        (np.zeros((2, 12, 8, 2), "float32"), "`images` must have the shape"),
        (np.zeros((8, 12, 2), "float32"), "`images` must have the shape"),
        (np.zeros((2, 8, 12, 3), "float32"), "`images` must have the shape"),
        (np.zeros((2, 8, 12, 2), "uint16"), "`images` must be floats.*uint16"),
    ],
)
def test_images_that_do_not_fit(encoder, wrong, message):
    with pytest.raises(ValueError, match=message):
        encoder(wrong)


PARTS = {"layer_scale": 0.1, "pre_norm": True, "num_class_tokens": 3, "num_registers": 2}


def test_class_tokens_registers_and_a_norm_before_the_blocks():
    """Registers take part and are not returned; the first token and patches have positions."""
    encoder = shake(ViTEncoder(**CONFIG, **PARTS))
    table = np.asarray(encoder.positions.table)
    patches = encoder.patch_embedding(patchify(images(2), 2)).numpy() + table[1:]
    before = np.concatenate([encoder.class_token, encoder.register_tokens], axis=1)
    before[0, 0] += table[0]
    tokens = np.concatenate([np.tile(before, (2, 1, 1)), patches], axis=1)
    tokens = encoder.input_norm(tokens)
    for block in encoder.blocks:
        tokens = block(tokens)
    tokens = np.delete(tokens, [3, 4], axis=1)
    np.testing.assert_allclose(encoder(images(2)), encoder.norm(tokens), atol=1e-5)
    ids = np.tile(np.arange(N, dtype="int32"), (2, 1))
    np.testing.assert_allclose(encoder(images(2), keep_ids=ids), encoder(images(2)), atol=1e-5)
    assert encoder(images(2), keep_ids=KEEP_IDS).shape == (2, 3 + 4, 16)
    without = get_weights(encoder)
    without["encoder.register_tokens"] = 0 * without["encoder.register_tokens"]
    other = ViTEncoder(**CONFIG, **PARTS)
    assign_weights(other, without, other.grid_size)
    assert np.abs(other(images(2)) - encoder(images(2))).max() > 1e-3


def test_a_config_from_before_these_parts_is_of_a_plain_encoder():
    old = {key: value for key, value in ViTEncoder(**CONFIG).get_config().items()}
    for name in PARTS:
        del old[name]
    assert set(get_weights(ViTEncoder.from_config(old))) == set(get_weights(ViTEncoder(**CONFIG)))


@pytest.mark.parametrize("name", ["layer_scale", "num_class_tokens", "num_registers"])
def test_parts_that_do_not_fit_raise(name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        ViTEncoder(**CONFIG, **{name: "many"})
    with pytest.raises(ValueError, match=f"`{name}`"):
        ViTEncoder(**CONFIG, **{name: True})


def test_all_parts_but_the_last_block_are_frozen():
    encoder = ViTEncoder(**CONFIG, **PARTS)
    classifier = ViTClassifier(encoder, 3, trainable_blocks=1)
    trained = {variable.path for variable in classifier.encoder.trainable_variables}
    assert trained == {variable.path for variable in classifier.encoder.blocks[-1].variables}
    assert len(encoder.no_weight_decay) == 2
    features = np.asarray(encoder(images(2)))
    head = [np.asarray(weight) for weight in classifier.head.weights]
    # Of several class tokens the mean is pooled.
    expected = features[:, :3].mean(axis=1) @ head[0] + head[1]
    np.testing.assert_allclose(classifier(images(2)), expected, atol=1e-6)
    mean = ViTClassifier(encoder, 3, pooling="mean", head_norm=None, seed=0)
    head = [np.asarray(weight) for weight in mean.head.weights]
    expected = features[:, 3:].mean(axis=1) @ head[0] + head[1]
    np.testing.assert_allclose(mean(images(2)), expected, atol=1e-6)
