"""Models of any sensor: its channels, its value range, and what they make of both."""

import json
import zipfile

import keras
import numpy as np
import pytest
from tiny import TINY, tiny

from keras_mae import MaskedAutoencoder, ViTClassifier, ViTEncoder
from keras_mae.models.inputs import check_normalised
from keras_mae.pixels import denormalize, normalize

TWELVE_BITS = (0.0, 4095.0)


def sensor(channels, **overrides):
    """Return a tiny model whose values of 0..4095 are images of -.5 to 1.5."""
    statistics = {"mean": (0.25,) * channels, "std": (0.5,) * channels}
    return tiny(channels=channels, value_range=TWELVE_BITS, **statistics, **overrides)


def values(channels, count=4):
    """Smooth values of 0..4095, float32 `(count, 8, 12, channels)`."""
    image, row, column, band = np.indices((count, 8, 12, channels))
    return np.round(4095 * np.sin(0.3 * row + 0.2 * column + image + band) ** 2).astype("float32")


def normalised(model, pixels):
    return normalize(pixels, model.mean, model.std, model.value_range)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_any_number_of_channels_trains_and_is_rebuilt(channels):
    model = sensor(channels)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    images = normalised(model, values(channels))
    history = model.fit(images, epochs=30, batch_size=4, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    result = model.reconstruct(images)
    assert result["prediction"].shape == (4, 24, 4 * channels)
    assert result["reconstruction"].shape == images.shape
    # Visible patches are the image's own, to the last bit.
    visible = np.asarray(result["masked_image"]) != 0
    np.testing.assert_array_equal(np.asarray(result["reconstruction"])[visible], images[visible])


def test_loss_and_rebuilt_values_by_hand():
    """A decoder that says 0 everywhere, on bands of the lowest and of the highest value."""
    model = sensor(12, norm_pix_loss=False)
    for weight in model.decoder.prediction.weights:
        weight.assign(np.zeros(weight.shape))
    pixels = np.zeros((2, 8, 12, 12), "float32")
    pixels[..., 6:] = 4095
    result = model.reconstruct(normalised(model, pixels))
    # Six bands are (0 - .25) / .5 = -.5 everywhere, six (1 - .25) / .5 = 1.5: (.25 + 2.25) / 2.
    assert float(result["loss"]) == pytest.approx(1.25, rel=1e-6)
    rebuilt = denormalize(result["reconstruction"], model.mean, model.std, model.value_range)
    # 0 is the mean, a quarter of the range; visible patches are as they were.
    assert set(np.unique(np.round(rebuilt, 2))) == {0, 1023.75, 4095}
    hidden = np.isclose(rebuilt, 1023.75).all(axis=-1)
    assert hidden.sum() == 2 * 18 * 4
    np.testing.assert_allclose(rebuilt[~hidden], pixels[~hidden], atol=1e-3)


def test_a_preset_for_twelve_bands():
    sizes = {k: v for k, v in TINY.items() if k != "channels"}
    model = MaskedAutoencoder.from_preset(
        "mae_vit_mini_patch4", **sizes, channels=12, value_range=(0, 4095)
    )
    assert model.value_range == model.encoder.value_range == TWELVE_BITS
    assert model.mean == (0.5,) * 12
    assert model(np.zeros((1, 8, 12, 12), "float32"))["prediction"].shape == (1, 24, 48)


def test_the_range_goes_where_the_encoder_goes(tmp_path):
    model = tiny(value_range=(-1024, 3071))
    model.save(tmp_path / "mae.keras")
    loaded = keras.saving.load_model(tmp_path / "mae.keras")
    assert loaded.value_range == (-1024.0, 3071.0)
    assert loaded.get_config() == model.get_config()
    classifier = ViTClassifier(loaded, 3, image_size=(4, 4))
    assert classifier.encoder.value_range == (-1024.0, 3071.0)
    assert loaded.encoder.adapted(value_range=(0, 1)).value_range == (0.0, 1.0)


def forget(path, keys):
    """Take keys out of all configs in a `.keras` file, as in files that older versions wrote."""

    def without(value):
        if isinstance(value, dict):
            return {key: without(v) for key, v in value.items() if key not in keys}
        return [without(v) for v in value] if isinstance(value, list) else value

    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(content["config.json"])
    assert all(key in content["config.json"].decode() for key in keys)
    content["config.json"] = json.dumps(without(config)).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def test_older_files_are_of_pixels_0_255_and_have_no_names(tmp_path):
    model = tiny()
    head = ViTClassifier(model, 2, class_names=["a", "b"])
    for name, saved, keys in (
        ("mae", model, ["value_range"]),
        ("classifier", head, ["value_range", "class_names"]),
    ):
        path = tmp_path / f"{name}.keras"
        saved.save(path)
        forget(path, keys)
        loaded = keras.saving.load_model(path)
        assert loaded.encoder.value_range == (0.0, 255.0)
        assert getattr(loaded, "class_names", None) is None


@pytest.mark.parametrize("wrong", [(255, 0), (0, 0), (0,), 255, (0, float("inf"))])
def test_ranges_that_do_not_fit(wrong):
    config = {key: value for key, value in TINY.items() if not key.startswith("decoder_")}
    with pytest.raises(ValueError, match="`value_range`"):
        ViTEncoder(**config, value_range=wrong)


def test_images_that_are_not_normalised_are_seen():
    statistics = ((0.5,), (0.25,))
    check_normalised(np.full((1, 2, 2, 1), 2.0), *statistics, TWELVE_BITS)
    with pytest.raises(ValueError, match="`x`.*4095"):
        check_normalised(np.full((1, 2, 2, 1), 4000.0), *statistics, TWELVE_BITS)


def test_bright_spots_of_a_dark_sensor_are_normalised_images():
    """The highest value of a sensor that is dark nearly everywhere is (1 - .01) / .01 = 99."""
    check_normalised(np.full((1, 2, 2, 1), 99.0), (0.01,), (0.01,), TWELVE_BITS)
    with pytest.raises(ValueError, match="`x`"):
        check_normalised(np.full((1, 2, 2, 1), 4000.0), (0.01,), (0.01,), TWELVE_BITS)
