import numpy as np
import pytest

from keras_mae.evaluation.features import extract_features, raw_pixels
from keras_mae.layers.pooling import pool_tokens


def test_pooling_takes_the_class_token_or_the_mean_of_the_others():
    tokens = np.array([[[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]]])
    np.testing.assert_array_equal(pool_tokens(tokens, "token"), [[9, 9]])
    np.testing.assert_array_equal(pool_tokens(tokens, "mean"), [[2, 3]])
    np.testing.assert_array_equal(pool_tokens(tokens, "both"), [[9, 9, 2, 3]])
    with pytest.raises(ValueError, match="`pooling`"):
        pool_tokens(tokens, "max")


def test_features_keep_order_over_a_partial_last_batch():
    batches = [(np.arange(4.0).reshape(2, 2, 1, 1), [0, 1]), (np.full((1, 2, 1, 1), 9.0), [2])]
    tokens = extract_features(lambda x: pool_tokens(x.reshape(len(x), 2, 1), "mean"), batches)
    np.testing.assert_array_equal(tokens[0][:, 0], [1, 3, 9])
    np.testing.assert_array_equal(tokens[1], [0, 1, 2])
    pixels, labels = extract_features(raw_pixels, batches)
    np.testing.assert_array_equal(pixels, [[0, 1], [2, 3], [9, 9]])
    assert (pixels.dtype, labels.dtype) == (np.float32, np.int64)


def test_large_images_are_shrunk_to_compare_their_pixels():
    images = np.repeat(np.arange(4.0), 16)[None, :, None, None] * np.ones((1, 64, 40, 3))
    pixels = raw_pixels(images.astype("float32"))
    assert pixels.shape == (1, 32 * 32 * 3)
    rows = pixels.reshape(32, 32, 3)[:, 5, 1]
    np.testing.assert_allclose(rows[[2, 12, 20, 29]], [0, 1, 2, 3], atol=1e-5)
