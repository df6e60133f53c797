"""The position table, against a formula written out in scalars."""

import math

import numpy as np
import pytest

from keras_mae.layers import PositionTable, sincos_positions


def position(row, column, dim):
    """One row of the table: [sin column | cos column | sin row | cos row]."""
    values = []
    for place in (column, row):
        angles = [place / 10000 ** (i / (dim / 4)) for i in range(dim // 4)]
        values += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    return values


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (7, 2)])
def test_table_by_formula(grid):
    table = sincos_positions(16, grid)
    assert table.shape == (1 + grid[0] * grid[1], 16)
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table[0], 0)
    for row in range(grid[0]):
        for column in range(grid[1]):
            expected = position(row, column, 16)
            np.testing.assert_allclose(table[1 + row * grid[1] + column], expected, atol=1e-6)


def test_a_number_by_hand():
    # D = 8: two frequencies, 1 and 1/100. Patch (row 0, column 2) of a 2 x 3 grid is row 3.
    expected = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02), 0, 0, 1, 1]
    np.testing.assert_allclose(sincos_positions(8, (2, 3))[3], expected, atol=1e-7)


def test_all_rows_differ():
    table = sincos_positions(32, (14, 14))
    assert len(np.unique(table, axis=0)) == 197


def test_width_must_be_a_multiple_of_four():
    with pytest.raises(ValueError, match="`hidden_dim` must be a multiple of 4.*Received: 6"):
        sincos_positions(6, (2, 2))


def test_layer_adds_the_rows_of_the_ids():
    table = sincos_positions(8, (2, 3))
    layer = PositionTable((2, 3))
    tokens = np.random.default_rng(0).normal(size=(2, 7, 8)).astype("float32")
    np.testing.assert_allclose(layer(tokens), tokens + table, rtol=1e-6)

    ids = np.array([[4, 0], [1, 5]], "int32")
    output = layer(tokens[:, :3], ids)
    for image in range(2):
        rows = table[[0, *(1 + ids[image])]]
        np.testing.assert_allclose(output[image], tokens[image, :3] + rows, rtol=1e-6)


def test_table_is_trained_only_when_learned():
    for learned in (False, True):
        layer = PositionTable((2, 2), learned=learned)
        layer.build((None, 5, 8))
        assert bool(layer.trainable_weights) == learned
        np.testing.assert_array_equal(layer.table, sincos_positions(8, (2, 2)))


def test_tokens_between_the_first_and_the_patches_get_no_row():
    table = sincos_positions(8, (2, 3)) + 1
    layer = PositionTable((2, 3))
    layer.build((None, 9, 8))
    layer.table.assign(table)
    tokens = np.random.default_rng(0).normal(size=(2, 9, 8)).astype("float32")
    rows = np.concatenate([table[:1], np.zeros((2, 8)), table[1:]])
    np.testing.assert_allclose(layer(tokens), tokens + rows, rtol=1e-5)
    ids = np.array([[4, 0], [1, 5]], "int32")
    output = layer(tokens[:, :5], ids)
    for image in range(2):
        rows = np.concatenate([table[:1], np.zeros((2, 8)), table[1 + ids[image]]])
        np.testing.assert_allclose(output[image], tokens[image, :5] + rows, rtol=1e-5)
