import numpy as np
import pytest

from keras_mae.layers import sincos_positions
from keras_mae.layers.resampling import is_sincos, resize_positions


def test_sincos_tables_are_computed_anew():
    table = sincos_positions(16, (4, 6))
    assert is_sincos(table, (4, 6)) and not is_sincos(table, (6, 4))
    np.testing.assert_array_equal(
        resize_positions(table, (4, 6), (5, 3)), sincos_positions(16, (5, 3))
    )
    assert is_sincos(table.astype("float16"), (4, 6))


@pytest.mark.parametrize("grid,new_grid", [((4, 4), (7, 7)), ((4, 6), (3, 9)), ((8, 5), (2, 2))])
def test_learned_tables_are_resampled_as_pytorch_does(grid, new_grid):
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).normal(size=(1 + grid[0] * grid[1], 6)).astype("float32")
    patches = torch.from_numpy(table[1:]).reshape(1, *grid, 6).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(patches, size=new_grid, mode="bicubic")
    expected = expected.permute(0, 2, 3, 1).reshape(-1, 6).numpy()
    found = resize_positions(table, grid, new_grid)
    np.testing.assert_array_equal(found[0], table[0])
    np.testing.assert_allclose(found[1:], expected, atol=1e-5)


def test_a_constant_stays_constant_and_the_same_grid_the_same():
    table = np.full((1 + 12, 4), 3.0, "float32")
    np.testing.assert_allclose(resize_positions(table, (3, 4), (5, 2)), 3.0, rtol=1e-6)
    learned = np.random.default_rng(0).normal(size=(13, 4)).astype("float32")
    np.testing.assert_array_equal(resize_positions(learned, (3, 4), (3, 4)), learned)


def test_a_table_of_another_grid_raises():
    with pytest.raises(ValueError, match="`table` must have a row for the class token"):
        resize_positions(np.zeros((10, 4)), (2, 4), (3, 3))
