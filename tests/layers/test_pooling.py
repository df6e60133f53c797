"""From tokens to a vector: each pooling by hand, and what holds of grids of any size."""

import numpy as np
import pytest

from keras_mae.layers.pooling import check_grid, grid_shares, pool_tokens, pooled_dim
from keras_mae.poolings import is_pooling, pooling_words

RNG = np.random.default_rng(0)


def test_mean_and_deviation_by_hand():
    tokens = np.array([[[9.0, 9.0], [1.0, 2.0], [3.0, 2.0]]])
    np.testing.assert_allclose(pool_tokens(tokens, "mean_std"), [[2, 2, 1, 0]], atol=2e-6)


def test_a_grid_that_divides_the_patches_takes_their_means():
    tokens = np.arange(17.0).reshape(1, 17, 1)  # a class token, then 4 x 4 patches: 1 ... 16
    # Top left: 1, 2, 5, 6.
    np.testing.assert_allclose(pool_tokens(tokens, "grid:2"), [[3.5, 5.5, 11.5, 13.5]])


def test_a_patch_on_a_border_counts_to_both_sides():
    # Three patches in a row, two cells: the middle one is half of each, a third of a cell.
    shares = grid_shares(1, (1, 3))
    np.testing.assert_allclose(shares, [[1 / 3, 1 / 3, 1 / 3]])
    line = grid_shares(2, (2, 3))[0].reshape(2, 3)[0]
    np.testing.assert_allclose(line, [2 / 3, 1 / 3, 0], atol=1e-7)


@pytest.mark.parametrize("cells, grid_size", [(1, (2, 3)), (3, (7, 7)), (2, (3, 5)), (4, (14, 9))])
def test_the_mean_of_all_cells_is_that_of_all_patches(cells, grid_size):
    tokens = RNG.normal(size=(2, 2 + grid_size[0] * grid_size[1], 5)).astype("float32")
    pooled = np.asarray(pool_tokens(tokens, f"grid:{cells}", 2, grid_size))
    assert pooled.shape == (2, pooled_dim(5, f"grid:{cells}"))
    mean = pool_tokens(tokens, "mean", 2)
    np.testing.assert_allclose(pooled.reshape(2, -1, 5).mean(1), mean, atol=1e-6)


def test_a_grid_of_single_patches_is_the_patches():
    tokens = RNG.normal(size=(2, 1 + 6, 4)).astype("float32")
    pooled = pool_tokens(tokens, "grid:2", 1, (2, 3))
    assert pooled.shape == (2, 16)
    whole = pool_tokens(tokens[:, :5], "grid:2")
    np.testing.assert_allclose(whole, tokens[:, 1:5].reshape(2, -1), atol=1e-6)


@pytest.mark.parametrize("pooling", ["max", "grid:", "grid:0", "grid:-1", "grid:2.5", "grid:N", 3])
def test_other_poolings_are_refused(pooling):
    assert not is_pooling(pooling)
    with pytest.raises(ValueError, match="`pooling`"):
        pool_tokens(np.zeros((1, 5, 2)), pooling)


def test_a_grid_finer_than_the_patches_or_of_unknown_patches_is_refused():
    check_grid("grid:4", (4, 6))
    for grid_size in ((4, 6), None):
        with pytest.raises(ValueError, match="`pooling`"):
            check_grid("grid:5", grid_size)
    with pytest.raises(ValueError, match="`pooling`"):
        pool_tokens(np.zeros((1, 6, 2)), "grid:2")  # 5 patches: no square


def test_words():
    assert pooling_words("grid:3") == "3 x 3 grid of means"
    assert pooling_words("both") == "class token and mean"
    assert pooling_words("mean") == "mean"
