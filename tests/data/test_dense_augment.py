"""Boxes and label maps go where their pixels go."""

import numpy as np
import pytest
import tensorflow as tf

from keras_mae.data import augment
from keras_mae.data.dense_augment import Placement, fitted, flip_boxes, jittered

HEIGHT, WIDTH = 60, 90
# left, top, right, bottom; apart from one another, two of them at the border
BOXES = np.array([[0, 0, 25, 30], [40, 12, 60, 48], [70, 25, 90, 60]], "float32")


def painted():
    """An image with a box of each colour, and its label map: 0 is the ground, box k is k + 1."""
    image = np.zeros((HEIGHT, WIDTH, 3), "float32")
    labels = np.zeros((HEIGHT, WIDTH), "uint8")
    for number, (left, top, right, bottom) in enumerate(BOXES.astype(int)):
        image[top:bottom, left:right, number] = 255
        labels[top:bottom, left:right] = number + 1
    return image, labels


def bounds(mask):
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.slow
@pytest.mark.parametrize("flips", augment.FLIPS)
def test_boxes_and_maps_lie_where_their_pixels_lie(flips):
    image, labels = painted()
    random = np.random.default_rng(0)
    seen = 0
    for uniforms in random.random((40, 4)).astype("float32"):
        turned = augment.random_flip(image, uniforms[0], flips)
        turned_labels = augment.random_flip(labels[..., None], uniforms[0], flips)[..., 0]
        boxes = flip_boxes(BOXES, (HEIGHT, WIDTH), uniforms[0], flips)
        place = jittered(tf.shape(turned)[:2], (64, 80), uniforms[1:], (0.4, 2.0))
        canvas = place.image(turned, np.zeros(3, "float32"), "bilinear").numpy()
        placed = place.label_map(turned_labels).numpy()
        moved, is_target = (value.numpy() for value in place.boxes(boxes))
        for number in range(3):
            mask = canvas[..., number] > 127
            assert np.mean(mask == (placed == number + 1)) > 0.97
            if is_target[number] and mask.any():
                assert np.abs(bounds(mask) - moved[number]).max() <= 1.01
                assert np.abs(bounds(placed == number + 1) - moved[number]).max() <= 0.51
                seen += 1
    assert seen > 60


def test_what_lies_around_the_image_is_the_fill_and_void():
    image, labels = painted()
    place = Placement((100, 100), tf.constant(1.0), tf.constant([20.0, 5.0]))
    fill = np.array([10, 20, 30], "float32")
    canvas = place.image(tf.constant(image), fill, "bicubic").numpy()
    np.testing.assert_allclose(canvas[20:80, 5:95], image, atol=1e-3)
    np.testing.assert_allclose(canvas[:20], np.broadcast_to(fill, (20, 100, 3)), atol=1e-4)
    placed = place.label_map(labels).numpy()
    np.testing.assert_array_equal(placed[20:80, 5:95], labels)
    assert placed.dtype == np.int32
    placed[20:80, 5:95] = 255
    assert (placed == 255).all()


def test_a_fitted_image_is_as_large_as_can_be_at_the_top_left():
    place = fitted(tf.constant([60, 90]), (120, 150))
    assert float(place.scale) == pytest.approx(150 / 90)
    boxes, is_target = place.boxes(tf.constant([[9.0, 6.0, 90.0, 60.0]]))
    np.testing.assert_allclose(boxes, [[15, 10, 150, 100]], rtol=1e-6)
    assert bool(is_target[0])


def test_boxes_are_cut_and_those_of_which_little_is_left_are_no_targets():
    # Twice as large, moved 10 to the left and 4 down, on 40 x 40 pixels.
    place = Placement((40, 40), tf.constant(2.0), tf.constant([4.0, -10.0]))
    boxes = [
        [0, 0, 10, 10],  # -10..10 x 4..24: half of it is left
        [0, 0, 5.6, 10],  # -10..1.2: a little more than a tenth is left
        [0, 0, 5.5, 10],  # -10..1: a pixel wide, but less than a tenth
        [24.6, 0, 25.2, 10],  # 39.2..40.4: .8 of a pixel is left
        [30, 0, 40, 10],  # beyond the border
        [6, 1, 6.4, 9],  # inside, .8 of a pixel wide
    ]
    cut, is_target = place.boxes(tf.constant(boxes))
    assert is_target.numpy().tolist() == [True, True, False, False, False, False]
    np.testing.assert_allclose(cut[0], [0, 4, 10, 24])
    np.testing.assert_allclose(cut[1], [0, 4, 1.2, 24], rtol=1e-5)


def test_scales_and_places_cover_their_ranges():
    size = tf.constant([50, 100])

    def placed(*uniforms):
        return jittered(size, (100, 100), np.float32(uniforms), (0.5, 2.0))

    small, large = placed(0, 1, 0.5), placed(1, 1, 0.5)
    assert float(small.scale) == 0.5 and float(large.scale) == 2.0
    np.testing.assert_allclose(small.corner, [75, 25])  # a lower border, the middle
    np.testing.assert_allclose(large.corner, [0, -50])  # as high as the canvas; cut on both sides


def test_a_tiny_image_of_a_large_one_is_antialiased():
    """A chessboard of single pixels becomes grey, not black or white."""
    board = np.indices((64, 64)).sum(0)[..., None] % 2 * 255.0
    image = fitted(tf.constant([64, 64]), (8, 8)).image(board, np.zeros(1, "float32"), "bilinear")
    assert np.abs(image.numpy() - 127.5).max() < 12
