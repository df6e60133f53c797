"""Masking: which patches are kept, in what order, and how many exactly."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mae.layers import (
    GridMasking,
    MaskingStrategy,
    PatchMasking,
    RandomMasking,
    keep_lowest,
    num_kept,
    removed_mask,
)

GRIDS = [(7, 7), (14, 14), (5, 8)]
STRATEGIES = ["random", "block", "grid"]


def draw(masking, grid, ratio, batch=64, seed=0):
    """Return (keep_ids, removed_ids) as NumPy arrays, and the layer."""
    layer = PatchMasking(grid, masking, ratio)
    noise = np.random.default_rng(seed).uniform(size=(batch, layer.noise_size))
    keep_ids, removed_ids = layer(noise.astype("float32"))
    return keep_ids.numpy(), removed_ids.numpy(), layer


def kept_grids(masking, grid, ratio, **kwargs):
    """Return bool `(batch, rows, columns)`: true where a patch is kept."""
    _, removed_ids, _ = draw(masking, grid, ratio, **kwargs)
    mask = removed_mask(removed_ids, grid[0] * grid[1]).numpy()
    return (mask == 0).reshape(-1, *grid)


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("masking", STRATEGIES)
@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.5, 0.6, 0.75, 0.9])
def test_kept_and_removed_are_a_permutation_of_exact_sizes(masking, grid, ratio):
    keep_ids, removed_ids, layer = draw(masking, grid, ratio)
    num_patches = grid[0] * grid[1]
    kept = int(num_patches * (1 - ratio))
    assert keep_ids.shape == (64, kept) == (64, layer.num_keep)
    assert removed_ids.shape == (64, num_patches - kept)
    both = np.concatenate([keep_ids, removed_ids], axis=1)
    np.testing.assert_array_equal(np.sort(both, axis=1), np.tile(np.arange(num_patches), (64, 1)))


def test_num_kept():
    for patches, ratio, kept in [(196, 0.75, 49), (49, 0.75, 12), (256, 0.6, 102), (2, 0.5, 1)]:
        assert num_kept(patches, ratio) == kept


@pytest.mark.parametrize("ratio", [0, 1, 1.0, -0.5, 75, float("nan"), "0.75", None, True])
def test_num_kept_names_the_ratio(ratio):
    with pytest.raises(ValueError, match=r"`mask_ratio` must be .*Received: "):
        num_kept(16, ratio)


def test_num_kept_refuses_to_keep_nothing():
    with pytest.raises(ValueError, match="16 patches. Received: 0.95, which keeps 0"):
        num_kept(16, 0.95)
    with pytest.raises(ValueError, match="`mask_ratio` must keep at least 1"):
        PatchMasking((1, 1), "random", 0.5)


def test_random_keeps_the_lowest_noise_in_its_order():
    noise = np.array([[0.3, 0.9, 0.1, 0.7, 0.2, 0.8]], "float32")
    keep_ids, removed_ids = PatchMasking((2, 3), "random", 0.5)(noise)
    np.testing.assert_array_equal(keep_ids, [[2, 4, 0]])
    np.testing.assert_array_equal(removed_ids, [[3, 5, 1]])


def test_ties_keep_the_first_in_every_mode():
    scores = tf.zeros((2, 6))
    for function in (keep_lowest, tf.function(keep_lowest, jit_compile=True)):
        keep_ids, removed_ids = function(scores, 2)
        np.testing.assert_array_equal(keep_ids, [[0, 1]] * 2)
        np.testing.assert_array_equal(removed_ids, [[2, 3, 4, 5]] * 2)


def test_removed_mask():
    removed_ids = np.array([[3, 1], [0, 2]], "int32")
    np.testing.assert_array_equal(removed_mask(removed_ids, 4), [[0, 1, 0, 1], [1, 0, 1, 0]])


def test_random_is_uniform_over_patches():
    kept = kept_grids("random", (4, 5), 0.75, batch=4000)
    error = np.sqrt(0.25 * 0.75 / 4000)
    np.testing.assert_allclose(kept.mean(axis=0), 0.25, atol=5 * error)


@pytest.mark.slow
@pytest.mark.parametrize("masking", STRATEGIES)
def test_same_noise_same_mask_in_every_mode(masking):
    layer = PatchMasking((14, 14), masking, 0.75)
    noise = np.random.default_rng(0).uniform(size=(32, layer.noise_size)).astype("float32")
    expected = [ids.numpy() for ids in layer(noise)]
    for jit in (False, True):
        ids = tf.function(layer, jit_compile=jit)(tf.constant(noise))
        np.testing.assert_array_equal(ids[0], expected[0])
        np.testing.assert_array_equal(ids[1], expected[1])


def all_offsets(size):
    places = (np.arange(size) + 0.5) / size
    return np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2).astype("float32")


def grid_masks(grid, ratio):
    """Return kept `(offsets, rows, columns)` for all offsets of the Bayer matrix."""
    keep_ids, _ = PatchMasking(grid, "grid", ratio)(all_offsets(16))
    kept = 1 - removed_mask(keep_ids, grid[0] * grid[1]).numpy()
    return (kept == 0).reshape(-1, *grid)


def test_grid_at_three_quarters_keeps_one_of_every_two_by_two():
    kept = grid_masks((14, 14), 0.75)
    squares = kept.reshape(-1, 7, 2, 7, 2).sum(axis=(2, 4))
    np.testing.assert_array_equal(squares, 1)
    # The same corner of every square in an image; all four corners occur.
    assert len(np.unique(kept.reshape(len(kept), -1), axis=0)) == 4


def test_grid_at_a_half_is_a_checkerboard():
    kept = grid_masks((14, 14), 0.5)
    np.testing.assert_array_equal(kept[:, 1:], ~kept[:, :-1])
    np.testing.assert_array_equal(kept[:, :, 1:], ~kept[:, :, :-1])


def test_grid_of_a_sixteenth_keeps_one_of_every_four_by_four():
    kept = grid_masks((16, 16), 15 / 16)
    np.testing.assert_array_equal(kept.reshape(-1, 4, 4, 4, 4).sum(axis=(2, 4)), 1)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("ratio", [0.4, 0.6, 0.75])
def test_grid_is_evenly_spread_at_other_ratios_and_odd_grids(grid, ratio):
    """Every window holds nearly its share of the kept patches; random windows vary far more."""

    def deviation(masking):
        kept = kept_grids(masking, grid, ratio, batch=256)
        windows = np.lib.stride_tricks.sliding_window_view(kept, (4, 4), axis=(1, 2))
        return windows.sum(axis=(-2, -1)).std()

    assert deviation("grid") < 0.7 * deviation("random")


def test_grid_without_random_offset():
    layer = PatchMasking((4, 4), GridMasking(random_offset=False), 0.75)
    keep_ids, _ = layer(np.random.default_rng(0).uniform(size=(5, 2)).astype("float32"))
    np.testing.assert_array_equal(np.sort(keep_ids, axis=1), [[0, 2, 8, 10]] * 5)


class Rows(MaskingStrategy):
    """Keeps rows from the top: a user's own."""

    def noise_size(self, grid_size):
        return 1

    def scores(self, noise, grid_size, num_keep):
        return 0 * noise + np.arange(grid_size[0] * grid_size[1], dtype="float32")


def test_own_strategy():
    keep_ids, removed_ids, layer = draw(Rows(), (4, 3), 0.5)
    assert layer.noise_size == 1
    np.testing.assert_array_equal(keep_ids, [range(6)] * 64)
    np.testing.assert_array_equal(removed_ids, [range(6, 12)] * 64)


class WrongShape(MaskingStrategy):
    def scores(self, noise, grid_size, num_keep):
        return noise[:, 1:]


class ScoresOnly:
    def scores(self, noise, grid_size, num_keep):
        return noise


@pytest.mark.parametrize("masking", ["blocks", None, 3, RandomMasking, ScoresOnly(), {"a": 1}])
def test_what_is_no_masking(masking):
    with pytest.raises(ValueError, match=r"`masking` must be one of \['block', 'grid', 'random'\]"):
        PatchMasking((4, 4), masking)


def test_errors_of_a_call():
    with pytest.raises(ValueError, match=r"`masking` must score each of the 16 patches.*\(2, 15\)"):
        PatchMasking((4, 4), WrongShape())(np.zeros((2, 16), "float32"))
    layer = PatchMasking((4, 4))
    with pytest.raises(ValueError, match=r"`noise` must have the shape \(batch, 16\).*\(2, 15\)"):
        layer(np.zeros((2, 15), "float32"))
    for num_keep in (0, 16):
        with pytest.raises(ValueError, match="`num_keep` must be from 1 to 15"):
            layer(np.zeros((2, 16), "float32"), num_keep=num_keep)
    with pytest.raises(NotImplementedError, match="MaskingStrategy must implement `scores`"):
        PatchMasking((4, 4), MaskingStrategy())(np.zeros((2, 16), "float32"))


def test_a_masking_of_ones_own_is_named_by_module_and_class(tmp_path, monkeypatch):
    """Also one that is not registered with Keras; a file never imports a module by itself."""
    (tmp_path / "my_masking.py").write_text(
        "from keras_mae.layers import MaskingStrategy\n\n\n"
        "class Checker(MaskingStrategy):\n"
        "    def scores(self, noise, grid_size, num_keep):\n"
        "        rows, columns = np.indices(grid_size)\n"
        "        return 0 * noise + ((rows + columns) % 2).reshape(1, -1).astype('float32')\n"
    )
    source = tmp_path / "my_masking.py"
    source.write_text("import numpy as np\n\n" + source.read_text())
    monkeypatch.chdir(tmp_path)
    layer = PatchMasking((4, 4), "my_masking:Checker", 0.5)
    keep_ids, _ = layer(np.zeros((1, 16), "float32"))
    assert sorted(np.asarray(keep_ids)[0]) == [0, 2, 5, 7, 8, 10, 13, 15]
    model = keras.Sequential([keras.Input((16,)), layer])
    model.save("model.keras")
    loaded = keras.saving.load_model("model.keras").layers[0].masking
    assert type(loaded) is type(layer.masking)
    config = layer.get_config()
    config["masking"] = {**config["masking"], "registered_name": "nobody>Knows"}
    for masking in (config["masking"], "my_masking:Missing", "my_masking:np"):
        with pytest.raises(ValueError, match="`masking`"):
            PatchMasking((4, 4), masking)
