"""Augmentations: worked out by hand, and against Pillow."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_mae.data import augment, evaluation_transform, load_source, pretrain_dataset


def box(height, width, first, rest=0.5, **arguments):
    uniforms = np.full((10, 4), rest, np.float32)
    uniforms[0] = first
    return augment.random_crop_boxes([[height, width]], uniforms[None], **arguments)[0]


def test_crop_box_by_hand():
    # Area .2 + .8 * .0625 = .25 of 100 x 100, aspect 1 (half of a log range around 1): 50 x 50;
    # 51 places each way: floor(.5 * 51) = 25, floor(.99 * 51) = 50.
    assert box(100, 100, [0.0625, 0.5, 0.5, 0.99]).tolist() == [25, 50, 50, 50]
    # Aspect 4/3: width sqrt(2500 * 4/3) = 57.7, height sqrt(2500 / (4/3)) = 43.3.
    assert box(100, 100, [0.0625, 1.0, 0, 0]).tolist() == [0, 0, 43, 58]
    # A target twice as wide as high: width sqrt(2500 * 2) = 70.7, height 35.4.
    assert box(100, 100, [0.0625, 0.5, 0, 0], target=2.0).tolist() == [0, 0, 35, 71]


def test_crop_box_takes_the_first_that_fits():
    # The first try, all of the area at aspect 4/3, is wider than the image.
    assert box(100, 100, [1.0, 1.0, 0, 0], 0.0).tolist()[2:] == [52, 39]


def test_crop_box_falls_back_to_the_middle():
    # 10 x 1000: no try fits; the largest box of aspect 4/3 is 10 x 13, in the middle.
    assert box(10, 1000, [1.0, 1.0, 0, 0], 1.0).tolist() == [0, 494, 10, 13]
    assert box(1000, 9, [1.0, 1.0, 0, 0], 1.0).tolist() == [494, 0, 12, 9]
    assert box(1, 1, [0.0, 0.5, 0, 0]).tolist() == [0, 0, 1, 1]


def test_crop_boxes_stay_inside_and_cover_the_range():
    rng = np.random.RandomState(0)
    uniforms = rng.random_sample((200, 10, 4)).astype("float32")
    boxes = augment.random_crop_boxes([[75, 100]] * 200, uniforms)
    assert (boxes[7:9] == augment.random_crop_boxes([[75, 100]] * 2, uniforms[7:9])).all()
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 75).all() and (left + width <= 100).all()
    area, aspect = height * width / 7500, width / height
    assert 0.19 < area.min() < 0.25 and 0.9 < area.max() <= 1
    assert 0.73 < aspect.min() < 0.8 and 1.25 < aspect.max() < 1.36


def test_shift_moves_and_pads_with_black():
    image = np.arange(1, 13, dtype="uint8").reshape(3, 4, 1)
    shifted = augment.random_shift(image, np.array([0.0, 0.99], "float32"), pixels=1)
    # Up by one in the padded image: the picture moves down; and to the left.
    assert shifted[..., 0].tolist() == [[0, 0, 0, 0], [2, 3, 4, 0], [6, 7, 8, 0]]
    assert np.array_equal(augment.random_shift(image, np.array([0.5, 0.5], "float32")), image)


def test_flip_is_left_and_right():
    image = np.arange(6, dtype="uint8").reshape(2, 3, 1)
    assert augment.random_flip(image, 0.4)[..., 0].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert np.array_equal(augment.random_flip(image, 0.5), image)


@pytest.mark.parametrize(
    ("flips", "ways"), [("none", 1), ("horizontal", 2), ("both", 4), ("dihedral", 8)]
)
def test_each_way_of_flipping_has_its_share_of_the_uniforms(flips, ways):
    image = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    seen = {}
    for uniform in (np.arange(80, dtype=np.float32) + 0.5) / 80:
        flipped = augment.random_flip(image, uniform, flips)
        assert sorted(flipped.ravel()) == list(range(6))
        seen[flipped.tobytes(), flipped.shape] = seen.get((flipped.tobytes(), flipped.shape), 0) + 1
    assert list(seen.values()) == [80 // ways] * ways
    turned = [shape for _, shape in seen if shape == (3, 2, 1)]
    assert len(turned) == (4 if flips == "dihedral" else 0)


@pytest.mark.slow
def test_flips_crop_areas_and_aspects_reach_the_images(make_folder):
    """A ramp from left to right says which way an image lies, and how much of it is seen."""
    folder = make_folder(0)
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 1, 3))
    for number in range(4):
        Image.fromarray(ramp).save(folder / f"{number}.png")
    source = load_source(f"folder:{folder}")
    settings = {"image_size": 32, "batch_size": 4, "mean": (0.0,) * 3, "std": (1.0,) * 3}

    def images(**views):
        dataset = pretrain_dataset(source, augmentation="crop", **settings, **views)
        return np.concatenate(list(dataset.take(10).as_numpy_iterator()))[..., 0]

    rise = {
        flips: np.sign(x[:, 16, 31] - x[:, 16, 0]) + 3 * np.sign(x[:, 31, 16] - x[:, 0, 16])
        for flips in ("none", "horizontal", "both", "dihedral")
        for x in [images(flips=flips)]
    }
    assert set(rise["none"]) == {1}
    assert set(rise["horizontal"]) == set(rise["both"]) == {-1, 1}
    assert set(rise["dihedral"]) == {-1, 1, -3, 3}  # the ramp also goes up and down

    def span(**views):
        x = images(flips="none", **views)
        return x[:, 16, 31] - x[:, 16, 0]

    assert span(crop_area=(1, 1), crop_aspect=(1, 1)).min() > 0.95
    small = span(crop_area=(0.25, 0.25), crop_aspect=(1, 1))
    np.testing.assert_allclose(small, 0.5, atol=0.03)  # half of the width
    wide = span(crop_area=(0.25, 0.25), crop_aspect=(4, 4))
    assert wide.min() > 0.95  # all of the width, a quarter of the height


@pytest.mark.parametrize(
    "views",
    [{"flips": "up"}, {"crop_area": (0, 1)}, {"crop_area": (0.5, 0.2)}, {"crop_aspect": (2, 1)}],
)
def test_views_that_do_not_fit_are_named(make_folder, views):
    source = load_source(f"folder:{make_folder(2)}")
    with pytest.raises(ValueError, match=f"`{next(iter(views))}`"):
        pretrain_dataset(
            source, image_size=8, batch_size=2, mean=source.mean, std=source.std, **views
        )


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_bicubic_is_pillows(picture, mode):
    image = picture(90, 120).convert(mode)
    pixels = np.asarray(image).reshape(90, 120, -1)
    pillows = np.asarray(image.resize((40, 32), Image.Resampling.BICUBIC)).reshape(32, 40, -1)
    ours = augment.resize_image(pixels, (32, 40), "bicubic")
    assert ours.dtype == np.uint8 and np.array_equal(ours, pillows)
    # Of more than 8 bits nothing is rounded: Pillow rounds once a direction.
    floats = augment.resize_image(pixels.astype("float32"), (32, 40), "bicubic")
    assert floats.dtype == np.float32 and (floats % 1 != 0).mean() > 0.9
    assert np.abs(floats - pillows).max() < 1.5 and floats.min() >= 0 and floats.max() <= 255


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
def test_bilinear_is_tensorflows_to_a_half(channels, dtype):
    image = np.random.RandomState(0).randint(0, 256, (30, 40, channels)).astype(dtype)
    for size in ((24, 50), (61, 17)):
        ours = augment.resize_image(image, size, "bilinear")
        theirs = tf.image.resize(image.astype("float32"), size, "bilinear").numpy()
        assert ours.dtype == dtype and ours.shape == (*size, channels)
        limit = 1.0 if dtype == "uint8" else 0.05
        assert np.abs(ours - theirs).max() <= limit


def test_evaluation_is_resize_and_centre_crop(picture):
    image = picture(70, 100)
    ours = evaluation_transform(np.asarray(image), 56)
    # 56 * 256 / 224 = 64; 100 * 64 // 70 = 91; the middle: (64 - 56) // 2, (91 - 56) // 2.
    resized = np.asarray(image.resize((91, 64), Image.Resampling.BICUBIC), np.float32) / 255
    assert ours.shape == (56, 56, 3)
    np.testing.assert_array_equal(ours, resized[4:60, 17:73])


@pytest.mark.parametrize("size", [(60, 80), (80, 60), (1000, 7), (7, 1000), (5, 5)])
@pytest.mark.parametrize("wanted", [(32, 64), (64, 32), 28])
def test_evaluation_gives_the_wanted_size(size, wanted):
    image = np.full((*size, 1), 51, np.uint8)
    result = evaluation_transform(image, wanted)
    assert result.shape == (*augment.check_image_size(wanted), 1)
    np.testing.assert_allclose(result, 0.2, atol=1e-3)


def test_evaluation_leaves_the_wanted_size_as_it_is():
    image = np.random.RandomState(0).randint(0, 256, (28, 28, 1), dtype=np.uint8)
    result = evaluation_transform(image, 28)
    assert np.array_equal(result, image.astype(np.float32) / 255)


@pytest.mark.parametrize("size", [0, -1, (28,), (28, 0), "x", None])
def test_image_size_that_does_not_fit(size):
    with pytest.raises(ValueError, match="`image_size`"):
        augment.check_image_size(size)
