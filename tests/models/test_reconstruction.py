"""`reconstruct`: its dictionary, and where the hidden patches' statistics come from."""

import numpy as np
import pytest
from test_autoencoder import loss_by_hand, pixels_of
from tiny import GRID, N, images, noise, shake, tiny

from keras_mae.layers import patchify, unpatchify
from keras_mae.models import normalize_patches
from keras_mae.models.reconstruction import restore_pixels


@pytest.mark.slow
@pytest.mark.parametrize("norm_pix_loss", [False, True])
@pytest.mark.parametrize("masking", ["random", "block", "grid"])
def test_the_dictionary(masking, norm_pix_loss):
    model = shake(tiny(masking=masking, norm_pix_loss=norm_pix_loss))
    x, numbers = images(), noise(model)
    result = model.reconstruct(x, noise=numbers)
    assert result["prediction"].shape == (4, N, 8)
    np.testing.assert_array_equal(np.sum(result["mask"], axis=1), 18)
    assert set(np.unique(result["mask"])) == {0, 1}
    assert float(result["loss"]) == pytest.approx(loss_by_hand(model, x, result), rel=1e-5)
    hidden = pixels_of(result["mask"])
    np.testing.assert_array_equal(result["masked_image"], np.where(hidden, 0, x))
    # Visible patches to the last bit; hidden ones are not the image's.
    np.testing.assert_array_equal(np.asarray(result["reconstruction"])[~hidden], x[~hidden])
    assert (np.asarray(result["reconstruction"])[hidden] != x[hidden]).mean() > 0.99
    if not norm_pix_loss:
        rebuilt = unpatchify(result["prediction"], 2, (8, 12)).numpy()
        np.testing.assert_array_equal(np.asarray(result["reconstruction"])[hidden], rebuilt[hidden])
    # The same function as a call's.
    called = model(x, noise=numbers)
    np.testing.assert_allclose(called["prediction"], result["prediction"], atol=1e-6)
    np.testing.assert_array_equal(called["mask"], result["mask"])


def test_seed_fixes_the_masks():
    model = tiny()
    masks = [model.reconstruct(images(), seed=seed)["mask"].numpy() for seed in (0, 0, 1)]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


def test_visible_statistics_use_visible_patches_only():
    model = shake(tiny())
    x, numbers = images(), noise(model)
    result = model.reconstruct(x, noise=numbers)
    hidden = pixels_of(result["mask"])
    # Other means and deviations of the hidden patches: not a pixel of the rebuilt ones moves.
    other = np.where(hidden, 5 * x + 3, x).astype("float32")
    rebuilt = model.reconstruct(other, noise=numbers)["reconstruction"]
    np.testing.assert_array_equal(rebuilt, result["reconstruction"])
    oracle = model.reconstruct(other, noise=numbers, statistics="oracle")["reconstruction"]
    assert np.abs(oracle - rebuilt).max() > 1


def test_oracle_statistics_with_a_perfect_prediction_give_the_image_back():
    patches = patchify(images(), 2)
    mask = np.ones((4, N), "float32")
    mask[:, :6] = 0
    pixels = restore_pixels(normalize_patches(patches), patches, mask, GRID, oracle=True)
    np.testing.assert_allclose(pixels, patches, atol=1e-5)


def test_visible_statistics_by_hand():
    """A 1 x 3 grid, patches of two values; the middle one is hidden, then the last two."""
    patches = np.array([[[0.0, 2.0], [7.0, 9.0], [4.0, 8.0]]], "float32")
    zeros = np.zeros((1, 3, 2), "float32")
    middle = restore_pixels(zeros, patches, np.array([[0, 1.0, 0]], "float32"), (1, 3), False)
    # Both neighbours are one patch away: the mean of means 1 and 6.
    np.testing.assert_allclose(middle[0, 1], [3.5, 3.5], rtol=1e-6)
    last = restore_pixels(zeros + 1, patches, np.array([[0, 1.0, 1.0]], "float32"), (1, 3), False)
    # The first patch's mean, 1, and deviation, sqrt(2), wherever the hidden ones are.
    np.testing.assert_allclose(last[0, 1:], 1 + np.sqrt(2), rtol=1e-5)
    first = restore_pixels(zeros, patches, np.array([[1.0, 0, 0]], "float32"), (1, 3), False)
    # Distances 1 and 2: weights 1 and 1/4 of means 8 and 6.
    np.testing.assert_allclose(first[0, 0], (8 + 6 / 4) / 1.25, rtol=1e-6)


def test_a_broken_prediction_stays_in_the_hidden_patches():
    model = tiny(norm_pix_loss=False)
    model.decoder.prediction.bias.assign([np.inf] * 8)
    x = images()
    result = model.reconstruct(x)
    visible = ~pixels_of(result["mask"])
    np.testing.assert_array_equal(np.asarray(result["reconstruction"])[visible], x[visible])


@pytest.mark.slow
def test_mixed_precision_gives_float32_and_the_same_mask():
    # Numbers that are all the same in half precision.
    numbers = np.stack([np.random.default_rng(i).permutation(N) for i in range(4)])
    numbers = (0.5 + 1e-5 * numbers).astype("float32")
    masks = []
    for dtype in ("float32", "mixed_bfloat16"):
        model = tiny(dtype=dtype)
        result = model.reconstruct(images(), noise=numbers)
        assert all(value.dtype == "float32" for value in result.values())
        np.testing.assert_array_equal(model(images(), noise=numbers)["mask"], result["mask"])
        masks.append(result["mask"])
    np.testing.assert_array_equal(*masks)


def test_errors():
    model = tiny()
    with pytest.raises(ValueError, match="`statistics` must be 'visible' or 'oracle'.*'true'"):
        model.reconstruct(images(), statistics="true")
    with pytest.raises(ValueError, match="`images` must be floats"):
        model.reconstruct(np.zeros((1, 8, 12, 2), "int32"))
    with pytest.raises(ValueError, match="`images` must have the shape"):
        model.reconstruct(images()[0])
