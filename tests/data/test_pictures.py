"""Pictures of a person's own: what is read of them, what is said, and masks drawn by hand."""

import numpy as np
import pytest
from PIL import Image

from keras_mae.data.augment import fit_inside
from keras_mae.data.pictures import View, check_pixels, read_mask, read_pictures

COLOUR = View((8, 8), 3, (0.0,) * 3, (1.0,) * 3)
GREY = View((8, 8), 1, (0.0,), (1.0,))


def write(path, pixels):
    Image.fromarray(np.asarray(pixels, "uint8")).save(path)
    return str(path)


def test_a_picture_of_the_models_size_is_what_it_is(tmp_path):
    pixels = np.arange(192).reshape(8, 8, 3)
    found = read_pictures([write(tmp_path / "a.png", pixels)], COLOUR)
    np.testing.assert_allclose(found.images[0], pixels / 255, atol=1e-6)
    assert found.notes == [] and found.names[0].endswith("a.png")


def test_colour_for_a_grey_model_is_said(tmp_path):
    path = write(tmp_path / "a.png", np.full((8, 8, 3), (255, 0, 0)))
    found = read_pictures([path], GREY)
    np.testing.assert_allclose(found.images, 76 / 255, atol=1e-6)  # red by ITU-R 601-2
    assert len(found.notes) == 1 and "in colour" in found.notes[0] and "a.png" in found.notes[0]
    grey = write(tmp_path / "b.png", np.full((8, 8), 7))
    assert "grey" in read_pictures([grey], COLOUR).notes[0]
    assert read_pictures([path, path], GREY).notes[0].startswith("2 pictures")


def test_the_middle_is_cut_out_or_all_is_seen(tmp_path):
    # White bars at the left and the right, which a crop does not have.
    pixels = np.zeros((16, 32, 3))
    pixels[:, :4] = pixels[:, -4:] = 255
    path = write(tmp_path / "wide.png", pixels)
    cropped = read_pictures([path], COLOUR)
    assert cropped.images.max() < 0.1 and "--resize=fit" in cropped.notes[0]
    fitted = read_pictures([path], View((8, 8), 3, (0.5,) * 3, (1.0,) * 3, resize="fit"))
    image = fitted.images[0]
    # 8 x 4 pixels of picture; above and below the mean, a normalised 0.
    np.testing.assert_allclose(image[[0, 1, 6, 7]], 0, atol=1e-6)
    np.testing.assert_allclose(image[2:6, [0, 7]], 0.5, atol=0.1)  # by a bicubic kernel
    np.testing.assert_allclose(image[2:6, 2:6], -0.5, atol=0.1)
    assert "mean colour" in fitted.notes[0]


def test_all_of_an_image_fits_in_its_proportions():
    placed = fit_inside(np.full((2, 4, 1), 9.0), (6, 4), 1)
    np.testing.assert_allclose(
        placed[..., 0], [[1] * 4, [1] * 4, [9] * 4, [9] * 4, [1] * 4, [1] * 4]
    )


def test_folders_and_data_sets_are_spread_over(tmp_path):
    for i in range(9):
        write(tmp_path / f"{i}.png", np.full((8, 8, 3), i))
    (tmp_path / "8.png").write_bytes(b"no image")
    found = read_pictures([str(tmp_path)], COLOUR, most=3)
    assert found.names == ["0.png", "4.png"]
    assert any("8.png" in note and "Left out" in note for note in found.notes)
    assert read_pictures([f"folder:{tmp_path}"], COLOUR, most=3).names == found.names
    digits = read_pictures(["mnist5k"], View((28, 28), 1, (0.0,), (1.0,)), most=2)
    assert digits.images.shape == (2, 28, 28, 1) and digits.images.max() == 1
    assert digits.notes == ["mnist5k: 2 of 5,000 images, spread over all."]


@pytest.mark.parametrize("name", ["nowhere.png", "nowhere", "nosuch:thing", "broken.png", "empty"])
def test_what_is_no_picture_is_named(tmp_path, name):
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    given = name if ":" in name else str(tmp_path / name)
    with pytest.raises(ValueError, match="`image`"):
        read_pictures([given], COLOUR)


def test_a_folder_of_broken_images_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="`image`"):
        read_pictures([str(tmp_path)], COLOUR)


@pytest.mark.parametrize(
    "text, hidden",
    [("1", [1]), ("16", [16]), ("3, 7,9-11", [3, 7, 9, 10, 11]), ("2-3,3", [2, 3])],
)
def test_patches_are_counted_from_one_row_by_row(text, hidden):
    mask = read_mask(text, COLOUR, (2, 2))
    assert (np.flatnonzero(mask) + 1).tolist() == hidden


@pytest.mark.parametrize("text", ["0", "17", "1-16", "5-3", "x", "", "1,,2", "nowhere.png"])
def test_masks_that_cannot_be_are_refused(text):
    with pytest.raises(ValueError, match="`mask`"):
        read_mask(text, COLOUR, (2, 2))


def test_a_mask_is_bright_where_patches_are_hidden(tmp_path):
    drawn = np.zeros((8, 8))
    drawn[:2, :2] = 255  # all of the first patch
    drawn[2:4, 4] = 255  # half of patch 7
    drawn[6, 7] = 255  # a quarter of patch 16
    drawn[4:6, 0:2] = 120  # grey: below half of the brightest
    expected = [1, 7]
    for name, pixels in (("a.png", drawn), ("b.png", drawn // 255)):  # 0 and 1 are a mask, too
        path = write(tmp_path / name, pixels)
        assert (np.flatnonzero(read_mask(path, COLOUR, (2, 2))) + 1).tolist() == expected
    black = write(tmp_path / "black.png", np.zeros((8, 8)))
    with pytest.raises(ValueError, match="`mask`"):
        read_mask(black, COLOUR, (2, 2))


def test_a_mask_is_cut_as_its_picture(tmp_path):
    """The left half of a wide picture is the left half of its middle; fitted, it has borders."""
    drawn = np.zeros((64, 128))
    drawn[:, :64] = 255
    path = write(tmp_path / "wide.png", drawn)
    crop = read_mask(path, COLOUR, (2, 2)).reshape(4, 4)
    np.testing.assert_array_equal(crop, [[1, 1, 0, 0]] * 4)
    fit = read_mask(path, View((8, 8), 3, (0.5,) * 3, (1.0,) * 3, resize="fit"), (2, 2))
    np.testing.assert_array_equal(fit.reshape(4, 4), [[0] * 4, [1, 1, 0, 0], [1, 1, 0, 0], [0] * 4])


def test_large_pictures_are_refused_by_their_header(tmp_path):
    path = write(tmp_path / "a.png", np.zeros((10, 20)))
    check_pixels(path, 200)
    with pytest.raises(ValueError, match="`image`"):
        check_pixels(path, 199)
    with pytest.raises(ValueError, match="`image`"):
        check_pixels(tmp_path / "none.png", 199)


def test_a_geometry_that_is_none_is_refused():
    with pytest.raises(ValueError, match="`resize`"):
        View((8, 8), 3, (0.0,) * 3, (1.0,) * 3, resize="stretch")
