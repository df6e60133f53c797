"""Handles: decoded when wanted, no more than needed."""

import io

import numpy as np
import pytest

from keras_mae.data.handle import Handle


def jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.fixture
def large(picture):
    return jpeg(picture(243, 322), quality=95)


def test_a_crop_that_need_not_be_exact_is_decoded_smaller(large):
    whole = Handle(jpeg=large, size=(243, 322)).whole()
    assert whole.shape == (243, 322, 3)
    for least, part in (((30, 20), 4), ((15, 20), 8), ((60, 80), 2), ((61, 80), 1)):
        picture = Handle(jpeg=large, size=(243, 322))
        crop = picture.crop([80, 96, 120, 160], least)
        assert crop.shape == (120 // part, 160 // part, 3)
        # Each pixel is the mean of those that it stands for, but for JPEG's own rounding.
        box = whole[80:200, 96:256].astype("float32")
        means = box.reshape(120 // part, part, 160 // part, part, 3).mean(axis=(1, 3))
        assert np.abs(crop - means).mean() < 2
    # Where all pixels are there anyway, none is left out.
    assert Handle(whole).crop([80, 96, 120, 160], (15, 20)).shape == (120, 160, 3)
    assert Handle(jpeg=large, size=(243, 322)).crop([80, 96, 120, 160]).shape == (120, 160, 3)


def test_boxes_at_the_border_stay_inside(large):
    for part in (2, 4, 8):
        picture = Handle(jpeg=large, size=(243, 322))
        crop = picture.crop([243 - 8 * part, 322 - 9 * part, 8 * part, 9 * part], (8, 9))
        assert crop.shape == (8, 9, 3)


def test_what_simplejpeg_refuses_is_decoded_otherwise(large):
    cut = large[: len(large) // 2]
    black = np.zeros((243, 322, 3), "uint8")
    for crop in (lambda p: p.crop([0, 0, 100, 100], (10, 10)), lambda p: p.crop([0, 0, 100, 100])):
        found = crop(Handle(jpeg=cut, size=(243, 322), otherwise=lambda: black))
        assert found.shape == (100, 100, 3) and not found.any()
    with pytest.raises(ValueError, match="Premature"):
        Handle(jpeg=cut, size=(243, 322)).whole()
