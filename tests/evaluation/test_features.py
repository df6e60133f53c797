import numpy as np
import pytest

from keras_mae.evaluation.comparison import compare_features, format_table
from keras_mae.evaluation.features import extract_features, pool_tokens, raw_pixels


def test_pooling_takes_the_class_token_or_the_mean_of_the_others():
    tokens = np.array([[[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]]])
    np.testing.assert_array_equal(pool_tokens(tokens, "token"), [[9, 9]])
    np.testing.assert_array_equal(pool_tokens(tokens, "mean"), [[2, 3]])
    np.testing.assert_array_equal(pool_tokens(tokens, "both"), [[9, 9, 2, 3]])
    with pytest.raises(ValueError, match="`pooling` must be one of .* Received: 'max'"):
        pool_tokens(tokens, "max")


def test_features_keep_order_over_a_partial_last_batch():
    batches = [(np.arange(4.0).reshape(2, 2, 1, 1), [0, 1]), (np.full((1, 2, 1, 1), 9.0), [2])]
    features, labels = extract_features(lambda x: x.reshape(len(x), 2, 1), batches, "mean")
    np.testing.assert_array_equal(features[:, 0], [1, 3, 9])
    np.testing.assert_array_equal(labels, [0, 1, 2])
    pixels, labels = raw_pixels(batches)
    np.testing.assert_array_equal(pixels, [[0, 1], [2, 3], [9, 9]])


def test_large_images_are_shrunk_to_compare_their_pixels():
    images = np.repeat(np.arange(4.0), 16)[None, :, None, None] * np.ones((1, 64, 40, 3))
    pixels, _ = raw_pixels([(images.astype("float32"), [0])])
    assert pixels.shape == (1, 32 * 32 * 3)
    rows = pixels.reshape(32, 32, 3)[:, 5, 1]
    np.testing.assert_allclose(rows[[2, 12, 20, 29]], [0, 1, 2, 3], atol=1e-5)


def test_comparison_tells_separable_features_from_noise():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    good = np.eye(3)[labels] + 0.1 * rng.normal(size=(300, 3))
    noise = rng.normal(size=(300, 3))

    def halves(x):
        x = x.astype("float32")
        return (x[:200], labels[:200]), (x[200:], labels[200:])

    results = compare_features({"good": halves(good), "noise": halves(noise)}, 3)
    assert min(results["good"].values()) > 0.99
    assert max(results["noise"].values()) < 0.6
    table = format_table({"a": {"linear_probe": 0.5, "knn": 1}})
    assert table.split()[-3:] == ["a", "50.0%", "100.0%"]


def test_the_probe_is_fixed_by_its_seed():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(80, 6)).astype("float32"), rng.integers(0, 4, 80)
    sets = {"x": ((x[:60], y[:60]), (x[60:], y[60:]))}
    assert compare_features(sets, 4, seed=3) == compare_features(sets, 4, seed=3)
