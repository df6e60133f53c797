"""Reconstructions of any channels and range: which bands are shown, and how bright."""

import numpy as np
import pytest

from keras_mae import MaskedAutoencoder
from keras_mae.pixels import normalize
from keras_mae.plots import figures

SIZES = {"image_size": 8, "patch_size": 4, "hidden_dim": 8, "num_layers": 1, "num_heads": 2}
SIZES |= {"decoder_hidden_dim": 8, "decoder_num_layers": 1, "decoder_num_heads": 2}


@pytest.fixture
def drawn(monkeypatch):
    """Return a function that draws a figure and returns its pictures, in rows."""
    shown = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: shown.append(figure))

    def draw(channels, value_range, values, **options):
        model = MaskedAutoencoder(
            **SIZES, channels=channels, value_range=value_range, norm_pix_loss=False
        )
        # What is rebuilt is the mean: a normalised 0.
        for weight in model.decoder.prediction.weights:
            weight.assign(np.zeros(weight.shape))
        images = normalize(values.astype("float32"), model.mean, model.std, value_range)
        figures.reconstruction_figure(model, images, "x.png", **options)
        pictures = [axis.images[0].get_array() for axis in shown[-1].axes]
        original, masked, rebuilt = np.split(np.array(pictures), 3)
        return original, masked, rebuilt

    return draw


def ramps(channels, low, high):
    """Return two images, whose pixels are in each band all steps from low to high, shuffled."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(low, high, 2 * 64)
    return np.stack([rng.permutation(ramp).reshape(2, 8, 8) for _ in range(channels)], axis=-1)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_0_255_are_shown_as_they_are(drawn, channels):
    values = ramps(channels, 50, 200)
    original, masked, rebuilt = drawn(channels, (0, 255), values)
    wanted = values[..., 0] if channels == 1 else values
    np.testing.assert_allclose(original, wanted / 255, atol=1e-6)
    for picture in (masked, rebuilt):
        same = np.isclose(picture, original, atol=1e-6)
        # One patch of four is visible.
        assert same.reshape(2, -1).mean(axis=1) == pytest.approx([0.25, 0.25], abs=0.05)
    mean = {1: 0.5, 3: (0.485, 0.456, 0.406)}[channels]
    hidden = ~np.isclose(masked, original, atol=1e-6)
    np.testing.assert_allclose(masked[hidden], 0.5)
    np.testing.assert_allclose(rebuilt[hidden], np.broadcast_to(mean, rebuilt.shape)[hidden])


def test_one_percent_at_each_end_is_black_and_white(drawn):
    values = ramps(2, 1000, 1127)  # 128 values of a band, one apart
    original, masked, rebuilt = drawn(2, (0, 4095), values)
    # Of 128 values in order, 1 % and 99 % lie at 1.27 and 125.73 steps.
    wanted = np.clip((values[..., 0] - 1001.27) / (1125.73 - 1001.27), 0, 1)
    np.testing.assert_allclose(original, wanted, atol=1e-4)
    hidden = masked == 0.5
    # The mean, 2047.5, is far above white: rebuilt patches have the originals' stretch.
    np.testing.assert_array_equal(rebuilt[hidden], 1)
    np.testing.assert_allclose(rebuilt[~hidden], original[~hidden], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "bands, shown",
    [(None, (1, 2, 3)), ((12, 3, 1), (12, 3, 1)), ([5], (5,)), ((2, 2, 2), (2,) * 3)],
)
def test_bands_are_counted_from_one(drawn, bands, shown):
    values = ramps(12, 0, 4095)
    original, _, _ = drawn(12, (0, 4095), values, bands=bands)
    chosen = values[..., [band - 1 for band in shown]]
    black, white = np.percentile(chosen, (1, 99), axis=(0, 1, 2))
    wanted = np.clip((chosen - black) / (white - black), 0, 1)
    np.testing.assert_allclose(original, wanted[..., 0] if len(shown) == 1 else wanted, atol=1e-4)


def test_two_channels_are_shown_by_the_first(drawn):
    original, _, _ = drawn(2, (0, 255), ramps(2, 0, 255))
    assert original.shape == (2, 8, 8)


def test_bands_may_be_chosen_of_pixels_0_255_too(drawn):
    values = ramps(3, 50, 200)
    original, _, _ = drawn(3, (0, 255), values, bands=(3, 2, 1))
    np.testing.assert_allclose(original, values[..., ::-1] / 255, atol=1e-6)


def test_a_band_of_one_value_is_grey(drawn):
    original, _, rebuilt = drawn(1, (-1024, 3071), np.full((2, 8, 8, 1), 100.0))
    np.testing.assert_allclose(original, 0.5)
    assert np.isfinite(rebuilt).all()


@pytest.mark.parametrize("wrong", [(), (1, 2), (0,), (13,), (1, 2, 13), 3, "123", (1.0,), (True,)])
def test_bands_that_are_not_there(wrong):
    with pytest.raises(ValueError, match="`bands`"):
        figures.check_bands(wrong, 12)


def test_a_figure_of_twelve_bands_is_a_png(tmp_path):
    model = MaskedAutoencoder(**SIZES, channels=12, value_range=(0, 4095))
    images = normalize(ramps(12, 0, 4095).astype("float32"), model.mean, model.std, (0, 4095))
    figures.reconstruction_figure(model, images, tmp_path / "x.png", bands=(4, 3, 2))
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
