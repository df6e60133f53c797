"""Going on from weights: after each change the same picture gives the same tokens."""

import keras
import numpy as np
import pytest

from keras_mae import MaskedAutoencoder, ViTClassifier, ViTEncoder
from keras_mae.files import save_model
from keras_mae.interop.adapt import Inputs, Start
from keras_mae.pixels import normalize

SIZES = {"patch_size": 4, "hidden_dim": 16, "num_layers": 2, "num_heads": 2}
DECODER = {"decoder_hidden_dim": 8, "decoder_num_layers": 1, "decoder_num_heads": 2}
COLOUR = {"channels": 3, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
GREY = {"channels": 1, "mean": (0.3,), "std": (0.1,)}


def inputs(channels, mean, std, value_range=(0.0, 255.0)):
    return Inputs(channels, mean, std, value_range)


def start(tmp_path, model):
    """The `Start` of a model's file, its weights moved away from zeros and ones."""
    rng = np.random.default_rng(0)
    model.set_weights([w + 0.05 * rng.normal(size=w.shape) for w in model.get_weights()])
    save_model(model, tmp_path / "start.keras")
    return Start(tmp_path / "start.keras")


def autoencoder(**changes):
    return MaskedAutoencoder(**{**SIZES, **DECODER, **COLOUR, "image_size": 16, **changes})


def tokens(model, values):
    """Tokens of an image of stored values `(H, W, C)`."""
    encoder = getattr(model, "encoder", model)
    images = normalize(
        values[None].astype("float32"), encoder.mean, encoder.std, encoder.value_range
    )
    return np.asarray(encoder(np.asarray(images)))


@pytest.fixture
def picture():
    return np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype("float32")


@pytest.mark.slow
def test_the_same_images_give_the_same_model(tmp_path, picture):
    begun = start(tmp_path, autoencoder())
    model, lines = begun.autoencoder(inputs(**COLOUR))
    assert lines == []
    np.testing.assert_array_equal(tokens(model, picture), tokens(begun.model, picture))
    noise = np.linspace(0, 1, 16, dtype="float32")[None]
    image = np.asarray(normalize(picture[None], model.mean, model.std))
    for old, new in zip(
        begun.model(image, noise=noise).values(), model(image, noise=noise).values(), strict=True
    ):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_other_statistics_change_no_token_and_no_predicted_pixel(tmp_path, picture, norm_pix_loss):
    begun = start(tmp_path, autoencoder(norm_pix_loss=norm_pix_loss))
    other = inputs(3, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    model, lines = begun.autoencoder(other, norm_pix_loss=norm_pix_loss)
    assert model.mean == other.mean and any("statistics" in line for line in lines)
    np.testing.assert_allclose(
        tokens(model, picture), tokens(begun.model, picture), rtol=0, atol=1e-5
    )
    if norm_pix_loss:
        return
    noise = np.linspace(0, 1, 16, dtype="float32")[None]

    def pixels(model):
        image = np.asarray(normalize(picture[None], model.mean, model.std))
        prediction = np.asarray(model(image, noise=noise)["prediction"]).reshape(16, 16, 3)
        return prediction * np.array(model.std) + np.array(model.mean)

    np.testing.assert_allclose(pixels(model), pixels(begun.model), atol=1e-5)


@pytest.mark.slow
def test_grey_and_colour_stand_for_each_other(tmp_path):
    grey = np.random.default_rng(1).integers(0, 256, (16, 16, 1)).astype("float32")
    colour = np.repeat(grey, 3, axis=2)
    begun = start(tmp_path, autoencoder())
    model, lines = begun.autoencoder(inputs(**GREY))
    assert model.encoder.channels == 1 and any("3 -> 1" in line for line in lines)
    np.testing.assert_allclose(tokens(model, grey), tokens(begun.model, colour), atol=1e-5)
    begun = start(tmp_path, autoencoder(**GREY))
    model, lines = begun.autoencoder(inputs(**COLOUR))
    assert model.encoder.channels == 3 and any("1 -> 3" in line for line in lines)
    np.testing.assert_allclose(tokens(model, colour), tokens(begun.model, grey), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "mapped"),
    [
        # The same values: each is mapped as it was.
        ((0.0, 4095.0), (0.0, 8191.0), lambda x: x),
        ((-1024.0, 3071.0), (0.0, 4095.0), lambda x: x),
        # 8 bits and more: the same place in the range.
        ((0.0, 255.0), (0.0, 4095.0), lambda x: x / 255 * 4095),
    ],
)
def test_another_value_range(tmp_path, old, new, mapped):
    begun = start(tmp_path, autoencoder(**GREY, value_range=old))
    model, lines = begun.autoencoder(inputs(**GREY, value_range=new))
    values = np.random.default_rng(1).uniform(max(0, old[0]), 255, (16, 16, 1))
    np.testing.assert_allclose(
        tokens(model, mapped(values)), tokens(begun.model, values), rtol=0, atol=2e-5
    )
    assert any("range" in line for line in lines) == (mapped(1.0) == 1.0)


@pytest.mark.slow
def test_more_channels_by_word(tmp_path, picture):
    begun = start(tmp_path, autoencoder())
    five = inputs(5, (0.5,) * 5, (0.25,) * 5)
    with pytest.raises(ValueError, match="`init_channels`"):
        begun.autoencoder(five)
    # Taken in turn: bands 0 and 3 stand for red, 1 and 4 for green, 2 for blue.
    model, lines = begun.autoencoder(five, init_channels="repeat")
    bands = picture[..., [0, 1, 2, 0, 1]]
    np.testing.assert_allclose(tokens(model, bands), tokens(begun.model, picture), atol=1e-5)
    assert any("3 -> 5, repeat" in line for line in lines)
    # The mean of all: a grey picture is what it was.
    model, _ = begun.autoencoder(five, init_channels="mean")
    same = np.repeat(picture[..., :1], 5, axis=2)
    grey = np.repeat(picture[..., :1], 3, axis=2)
    np.testing.assert_allclose(tokens(model, same), tokens(begun.model, grey), atol=1e-5)
    # New: all but the first and last layer is kept.
    model, _ = begun.autoencoder(five, init_channels="new")
    for new, old in zip(
        model.encoder.blocks[0].weights, begun.encoder.blocks[0].weights, strict=True
    ):
        np.testing.assert_array_equal(new, old)


@pytest.mark.slow
def test_another_grid_is_said_and_positions_follow(tmp_path):
    begun = start(tmp_path, autoencoder())
    model, lines = begun.autoencoder(inputs(**COLOUR), image_size=(8, 32))
    assert model.encoder.grid_size == (2, 8)  # as many patches, in another shape
    assert any("4 x 4" in line and "2 x 8" in line for line in lines)


@pytest.mark.slow
def test_an_encoder_or_a_classifier_gets_a_new_decoder(tmp_path, picture):
    encoder = ViTEncoder(**SIZES, **COLOUR, image_size=16)
    begun = start(tmp_path, encoder)
    model, lines = begun.autoencoder(inputs(**COLOUR), **DECODER)
    assert any(line.startswith("decoder: new") for line in lines)
    np.testing.assert_array_equal(tokens(model, picture), tokens(begun.encoder, picture))
    begun = start(tmp_path, ViTClassifier(ViTEncoder(**SIZES, **COLOUR, image_size=16), 3))
    model, lines = begun.autoencoder(inputs(**COLOUR), **DECODER)
    assert any("head" in line and "left out" in line for line in lines)
    # Another decoder than the file's is asked for.
    begun = start(tmp_path, autoencoder())
    model, lines = begun.autoencoder(inputs(**COLOUR), decoder_num_layers=2)
    assert any(line.startswith("decoder: new") for line in lines)
    np.testing.assert_array_equal(tokens(model, picture), tokens(begun.encoder, picture))


@pytest.mark.slow
def test_sizes_of_a_preset_are_compared_and_both_numbers_told(tmp_path):
    begun = start(tmp_path, autoencoder())
    with pytest.raises(ValueError, match=r"`preset`.*hidden_dim=96.*16"):
        begun.check_preset("mae_vit_mini_patch4")
    assert begun.preset is None
    keras.utils.set_random_seed(0)
    own = start(tmp_path, MaskedAutoencoder.from_preset("mae_vit_mini_patch4"))
    own.check_preset("mae_vit_mini_patch4")
    assert own.preset == "mae_vit_mini_patch4" and own.digest != begun.digest
