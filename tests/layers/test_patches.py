"""Patches: their order by hand, and that nothing is lost."""

import numpy as np
import pytest

from keras_mae.layers import PatchEmbedding, gather_tokens, patchify, unpatchify


def test_patchify_by_hand():
    # Rows of 8 pixels; patches of 2 rows and 4 columns; one channel.
    image = np.arange(4 * 8).reshape(1, 4, 8, 1)
    expected = [
        [0, 1, 2, 3, 8, 9, 10, 11],
        [4, 5, 6, 7, 12, 13, 14, 15],
        [16, 17, 18, 19, 24, 25, 26, 27],
        [20, 21, 22, 23, 28, 29, 30, 31],
    ]
    np.testing.assert_array_equal(patchify(image, (2, 4))[0], expected)


def test_channels_come_last_in_a_patch():
    image = np.arange(2 * 4 * 3).reshape(1, 2, 4, 3)
    # (row 0, column 0, three channels), (row 0, column 1, ...), then row 1.
    expected = [0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17]
    np.testing.assert_array_equal(patchify(image, 2)[0, 0], expected)


@pytest.mark.parametrize(
    "shape, patch", [((2, 8, 12, 3), 4), ((1, 6, 4, 1), (3, 2)), ((3, 5, 8, 2), (1, 4))]
)
def test_unpatchify_is_the_inverse(shape, patch):
    images = np.random.default_rng(0).normal(size=shape).astype("float32")
    patches = patchify(images, patch)
    np.testing.assert_array_equal(unpatchify(patches, patch, shape[1:3]), images)


@pytest.mark.parametrize(
    "shape, patch, message",
    [
        ((1, 9, 8, 1), 4, "height 9"),
        ((1, 8, 9, 1), 4, "width 9"),
        ((8, 8, 1), 4, "`images` must have the shape"),
        ((1, 8, 8, 1), 0, "`patch_size` must be"),
    ],
)
def test_patchify_errors(shape, patch, message):
    with pytest.raises(ValueError, match=message):
        patchify(np.zeros(shape), patch)


def test_unpatchify_errors():
    with pytest.raises(ValueError, match=r"`patches` must hold 4 patches.*\(1, 5, 16\)"):
        unpatchify(np.zeros((1, 5, 16)), 4, 8)
    with pytest.raises(ValueError, match=r"multiple of 16 values.*\(1, 4, 17\)"):
        unpatchify(np.zeros((1, 4, 17)), 4, 8)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_gather_tokens(dtype):
    tokens = np.arange(2 * 3 * 2).reshape(2, 3, 2)
    ids = np.array([[2, 0], [1, 1]], dtype)
    expected = [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
    np.testing.assert_array_equal(gather_tokens(tokens, ids), expected)


def test_gather_tokens_of_one_sequence_for_a_batch():
    table = np.arange(6).reshape(1, 3, 2)
    ids = np.array([[2, 0], [1, 1]], "int32")
    expected = [[[4, 5], [0, 1]], [[2, 3], [2, 3]]]
    np.testing.assert_array_equal(gather_tokens(table, ids), expected)


def test_patch_embedding_is_linear_with_xavier_kernel():
    layer = PatchEmbedding(6)
    patches = np.random.default_rng(0).normal(size=(2, 3, 12)).astype("float32")
    output = layer(patches)
    kernel, bias = (np.asarray(w) for w in layer.weights)
    np.testing.assert_allclose(output, patches @ kernel + bias, rtol=1e-5, atol=1e-6)
    limit = np.sqrt(6 / (12 + 6))
    assert 0.8 * limit < np.abs(kernel).max() <= limit
    assert not bias.any()
