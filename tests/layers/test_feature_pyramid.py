"""The feature pyramid: each level by NumPy, and where it lies over the image."""

import math

import numpy as np
import pytest

from keras_mae.layers import FeaturePyramid

ROWS, COLUMNS, DIM, FILTERS = 3, 5, 8, 6
RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(2, 1 + ROWS * COLUMNS, DIM)).astype("float32")


def shaken(scales, num_blocks=1, **arguments):
    """Return a pyramid of a 3 x 5 grid whose weights are all random, and the weights by part."""
    layer = FeaturePyramid(
        (ROWS * 4, COLUMNS * 4), 4, FILTERS, scales, num_blocks, name="pyramid", **arguments
    )
    layer.build((None, 1 + ROWS * COLUMNS, num_blocks * DIM))
    layer.set_weights([RNG.normal(size=w.shape) for w in layer.get_weights()])
    return layer, {name: part.get_weights() for name, part in layer.named_parts.items()}


def norm(x, gamma, beta):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * gamma + beta


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def twice(x, kernel, bias):
    """A transposed convolution of 2 x 2 with step 2: each value becomes 2 x 2 values."""
    batch, rows, columns, _ = x.shape
    out = np.zeros((batch, 2 * rows, 2 * columns, kernel.shape[2]))
    for i in range(2):
        for j in range(2):
            out[:, i::2, j::2] = x @ kernel[i, j].T + bias
    return out


def conv_3(x, kernel):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = x.shape[1:3]
    return sum(
        padded[:, i : i + rows, j : j + columns] @ kernel[i, j] for i in range(3) for j in range(3)
    )


def half(x):
    """The maximum of each 2 x 2 values; at the odd border, of those that are there."""
    rows, columns = -(-x.shape[1] // 2), -(-x.shape[2] // 2)
    out = np.zeros((len(x), rows, columns, x.shape[3]))
    for i in range(rows):
        for j in range(columns):
            out[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2))
    return out


def finish(x, weights, name):
    x = norm(x @ weights[f"{name}_conv_1"][0][0, 0], *weights[f"{name}_norm_1"])
    return norm(conv_3(x, weights[f"{name}_conv_3"][0]), *weights[f"{name}_norm_3"])


def test_each_level_is_what_numpy_computes():
    layer, weights = shaken((4, 2, 1, 0.5, 0.25))
    patches = TOKENS[:, 1:].reshape(2, ROWS, COLUMNS, DIM).astype("float64")
    once = twice(patches, *weights["x4_up_0"])
    fine = twice(gelu(norm(once, *weights["x4_up_norm"])), *weights["x4_up_1"])
    expected = {
        "P0": finish(fine, weights, "x4"),
        "P1": finish(twice(patches, *weights["x2_up_0"]), weights, "x2"),
        "P2": finish(patches, weights, "x1"),
        "P3": finish(half(patches), weights, "half"),
    }
    expected["P4"] = expected["P3"][:, ::2, ::2]
    found = layer(TOKENS)
    assert list(found) == list(expected)
    for level, values in expected.items():
        np.testing.assert_allclose(found[level], values, atol=2e-4, err_msg=level)


def test_blocks_side_by_side_are_first_mapped_to_one():
    layer, weights = shaken((1,), num_blocks=2)
    wide = np.concatenate([TOKENS, TOKENS[:, ::-1]], axis=-1)
    kernel, bias = weights["fuse"]
    patches = (wide[:, 1:].astype("float64") @ kernel + bias).reshape(2, ROWS, COLUMNS, DIM)
    np.testing.assert_allclose(layer(wide)["P2"], finish(patches, weights, "x1"), atol=2e-4)


def test_a_patch_changes_its_own_place():
    layer, _ = shaken((2, 1, 0.5))
    for row, column in ((0, 4), (2, 1)):
        moved = TOKENS.copy()
        moved[:, 1 + row * COLUMNS + column] += 1
        for level, still in layer(TOKENS).items():
            changed = np.abs(layer(moved)[level] - still).max((0, 3))
            scale = 4 / 2 ** int(level[1:])
            rows, columns = np.nonzero(changed > 1e-6)
            # A convolution of 3 x 3 carries it one value further.
            assert rows.min() >= int(row * scale) - 1 and rows.max() <= (row + 1) * scale + 0.5
            assert columns.min() >= int(column * scale) - 1
            assert columns.max() <= (column + 1) * scale + 0.5


@pytest.mark.parametrize(
    "patch,strides",
    [
        (16, {"P2": 4, "P3": 8, "P4": 16, "P5": 32, "P6": 64}),
        (8, {"P1": 2, "P2": 4, "P3": 8, "P4": 16, "P5": 32}),
        (14, {"P2": 3.5, "P3": 7, "P4": 14, "P5": 28, "P6": 56}),
    ],
)
def test_levels_are_named_after_their_strides(patch, strides):
    layer = FeaturePyramid((4 * patch, 6 * patch), patch)
    assert layer.strides == {level: (stride, stride) for level, stride in strides.items()}
    shapes = layer.compute_output_shape((None, 25, 12))
    finest, coarsest = list(shapes.values())[:: len(shapes) - 1]
    assert (finest, coarsest) == ((None, 16, 24, 256), (None, 1, 2, 256))


@pytest.mark.parametrize(
    "name,arguments",
    [
        ("image_size", {"image_size": 30}),
        ("filters", {"filters": 0}),
        ("num_blocks", {"num_blocks": 0}),
        ("scales", {"scales": ()}),
        ("scales", {"scales": (3,)}),
        ("scales", {"scales": (8,)}),
        ("scales", {"scales": (1, 1)}),
        ("scales", {"scales": (1, 0.25)}),
        ("scales", {"scales": 2}),
        ("scales", {"patch_size": 2}),
    ],
)
def test_arguments_that_do_not_fit_raise(name, arguments):
    with pytest.raises(ValueError, match=f"`{name}`"):
        FeaturePyramid(**{"image_size": 32, **arguments})


def test_tokens_of_another_width_raise():
    with pytest.raises(ValueError, match="`tokens`"):
        FeaturePyramid(32, num_blocks=2).build((None, 5, 9))
