import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from keras_mae.data.mixing import cutmix, mix, mixup, random_erasing
from keras_mae.data.randaugment import RandAugment

BLACK, WHITE = np.zeros((4, 6, 1), "float32"), np.ones((4, 6, 1), "float32")
IMAGES, LABELS = np.stack([BLACK, WHITE]), np.eye(2, dtype="float32")


def test_mixup_by_hand():
    images, labels = mixup(IMAGES, LABELS, tf.constant(0.75))
    np.testing.assert_allclose(images[0], np.full((4, 6, 1), 0.25))
    np.testing.assert_allclose(images[1], np.full((4, 6, 1), 0.75))
    np.testing.assert_allclose(labels, [[0.75, 0.25], [0.25, 0.75]])


def test_cutmix_by_hand():
    # A box of half the sides, 2 x 3, centred at (2, 3).
    images, labels = cutmix(IMAGES, LABELS, tf.constant(0.75), tf.constant([0.5, 0.5]))
    expected = np.zeros((4, 6))
    expected[1:3, 2:5] = 1
    np.testing.assert_array_equal(images[0][..., 0], expected)
    np.testing.assert_array_equal(images[1][..., 0], 1 - expected)
    np.testing.assert_allclose(labels, [[0.75, 0.25], [0.25, 0.75]])


def test_cutmix_labels_follow_the_pixels_where_the_box_sticks_out():
    # Centred at the corner (0, 0), a quarter of the box is inside: 1 row of 2 columns.
    images, labels = cutmix(IMAGES, LABELS, tf.constant(0.75), tf.constant([0.0, 0.0]))
    own = 1 - float(np.sum(images[0])) / 24
    assert own == pytest.approx(1 - 2 / 24)
    np.testing.assert_allclose(labels[0], [own, 1 - own], rtol=1e-6)


@pytest.mark.slow
def test_mix_draws_from_beta_and_takes_either_kind():
    def own_shares(mixup_alpha, cutmix_alpha):
        found = []
        for i in range(200):
            key = tf.constant([7, i], tf.int64)
            found.append(mix(IMAGES, LABELS, key, mixup_alpha, cutmix_alpha))
        return found

    blended = [bool((x[0].numpy() % 1 != 0).any()) for x, _ in own_shares(0.8, 1.0)]
    assert 60 < sum(blended) < 140  # mixup leaves pixels of neither image
    shares = [float(y[0, 0]) for _, y in own_shares(0.8, 0)]
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.07)
    assert np.var(shares) == pytest.approx(1 / (4 * 2.6), rel=0.25)
    unmixed = mix(IMAGES, LABELS, tf.constant([0, 0], tf.int64), 0, 0)
    assert unmixed[0] is IMAGES


def test_erasing_replaces_one_box():
    uniforms = np.random.default_rng(0).uniform(size=(10, 4)).astype("float32")
    image, noise = np.zeros((20, 30, 3), "float32"), np.ones((20, 30, 3), "float32")
    erased = random_erasing(image, uniforms, noise).numpy()
    rows, columns = np.flatnonzero(erased.any((1, 2))), np.flatnonzero(erased.any((0, 2)))
    assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert 1 / 60 < erased.mean() < 0.36


@pytest.fixture(scope="module")
def photograph():
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(20, 235, size=(8, 10, 3)).astype("uint8"))
    return coarse.resize((60, 48), Image.BICUBIC)


_PILLOW = {
    "auto_contrast": ImageOps.autocontrast,
    "invert": ImageOps.invert,
    "posterize": lambda im: ImageOps.posterize(im, 2),
    "solarize": lambda im: ImageOps.solarize(im, 128),
    "color": lambda im: ImageEnhance.Color(im).enhance(1.45),
    "brightness": lambda im: ImageEnhance.Brightness(im).enhance(1.45),
    "sharpness": lambda im: ImageEnhance.Sharpness(im).enhance(1.45),
    "rotate": lambda im: im.rotate(15, resample=Image.BILINEAR, fillcolor=(9, 9, 9)),
    "translate_x": lambda im: im.transform(
        im.size, Image.AFFINE, (1, 0, 13.5, 0, 1, 0), Image.BILINEAR, fillcolor=(9, 9, 9)
    ),
    "translate_y": lambda im: im.transform(
        im.size, Image.AFFINE, (1, 0, 0, 0, 1, 10.8), Image.BILINEAR, fillcolor=(9, 9, 9)
    ),
}


@pytest.mark.parametrize("name", list(_PILLOW))
def test_operations_are_pillows_at_magnitude_5(photograph, name):
    augment = RandAugment(1, 5, 3, (9.0, 9.0, 9.0))
    names = [operation.__name__[1:] for operation in augment.operations]
    image = np.asarray(photograph, "float32")
    ours = augment.apply(image, names.index(name), tf.constant(0.5), tf.constant(1.0)).numpy()
    difference = np.abs(ours - np.asarray(_PILLOW[name](photograph), "float32"))
    assert np.abs(ours - image).mean() > 1  # something was done
    # Pillow rounds; at the edges of what was moved in it does not blend with the fill.
    assert np.median(difference) < 1.1 and difference.mean() < 2.5


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "color"])
def test_no_magnitude_is_no_change(photograph, name):
    augment = RandAugment(1, 0, 3, (9.0, 9.0, 9.0))
    names = [operation.__name__[1:] for operation in augment.operations]
    image = np.asarray(photograph, "float32")
    same = augment.apply(image, names.index(name), tf.constant(0.0), tf.constant(1.0))
    np.testing.assert_allclose(same, image, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_is_a_function_of_its_key(channels):
    image = np.random.default_rng(0).uniform(0, 255, size=(12, 14, channels)).astype("float32")
    augment = RandAugment(2, 9, channels, (0.0,) * channels)
    graph = tf.function(augment)
    results = []
    for i in range(40):
        key = tf.constant([3, i], tf.int64)
        results.append(graph(image, key).numpy())
        np.testing.assert_array_equal(results[-1], graph(image, key))
        assert results[-1].shape == image.shape
        assert results[-1].min() >= 0 and results[-1].max() <= 255
    changed = [not np.array_equal(r, image) for r in results]
    assert 22 < sum(changed) <= 38  # each of two is applied with a chance of a half: 3 of 4
