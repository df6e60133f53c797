"""Block-wise masking: BEiT's rectangles, recomputed one image and one rectangle at a time."""

import math

import numpy as np
import pytest

from keras_mae.layers import BlockMasking, PatchMasking, removed_mask


def draw(strategy, grid, ratio, batch, seed=0):
    layer = PatchMasking(grid, strategy, ratio)
    noise = np.random.default_rng(seed).uniform(size=(batch, layer.noise_size)).astype("float32")
    _, removed_ids = layer(noise)
    mask = removed_mask(removed_ids, grid[0] * grid[1]).numpy().reshape(-1, *grid)
    return mask == 1, noise, layer


def rectangles(noise, grid, strategy, num_remove):
    """Replay one image: yield (removed before, top, left, height, width, missing)."""
    rows, columns = grid
    removed = np.zeros(grid, bool)
    for area, aspect, top, left in noise[rows * columns :].reshape(-1, 4):
        missing = num_remove - removed.sum()
        least = strategy.min_area * rows * columns
        area = least + area * max(missing - least, 0)
        aspect = math.exp((2 * aspect - 1) * math.log(1 / strategy.min_aspect))
        height = min(max(round(math.sqrt(area * aspect)), 1), rows)
        width = min(max(round(math.sqrt(area / aspect)), 1), columns)
        top, left = int(top * (rows - height + 1)), int(left * (columns - width + 1))
        yield removed.copy(), top, left, height, width, missing
        for row in range(top, top + height):
            for column in range(left, left + width):
                if not removed[row, column] and missing > 0:
                    removed[row, column] = True
                    missing -= 1


def replay(noise, grid, strategy, num_remove):
    """The mask of one image, and how many patches no rectangle reached."""
    # The state before one rectangle more, of whatever kind, is the state after all.
    numbers = np.concatenate([noise, np.zeros(4, noise.dtype)])
    *_, (removed, *_, missing) = rectangles(numbers, grid, strategy, num_remove)
    return removed, missing


@pytest.mark.parametrize("grid, ratio", [((14, 14), 0.4), ((14, 14), 0.75), ((5, 8), 0.6)])
def test_masks_equal_a_replay_rectangle_by_rectangle(grid, ratio):
    strategy = BlockMasking()
    masks, noise, layer = draw(strategy, grid, ratio, batch=20)
    num_remove = grid[0] * grid[1] - layer.num_keep
    for mask, numbers in zip(masks, noise, strict=True):
        expected, missing = replay(numbers, grid, strategy, num_remove)
        assert missing == 0
        np.testing.assert_array_equal(mask, expected)


def test_rectangles_follow_beit():
    """Areas from 16 of 196 patches to what is missing; aspects log-uniform in [.3, 1 / .3]."""
    strategy = BlockMasking()
    _, noise, layer = draw(strategy, (14, 14), 0.6, batch=400)
    num_remove = 196 - layer.num_keep
    firsts = [next(rectangles(numbers, (14, 14), strategy, num_remove)) for numbers in noise]
    sizes = np.array([(height, width) for _, _, _, height, width, _ in firsts])
    areas, aspects = sizes.prod(axis=1), np.log(sizes[:, 0] / sizes[:, 1])
    # Sides are rounded: an area of 16 may come out as 12, an aspect a little outside.
    assert 9 <= areas.min() <= 20
    assert 100 <= areas.max() <= num_remove + 14
    assert abs(areas.mean() - (16 + num_remove) / 2) < 10
    assert abs(np.median(aspects)) < 0.15
    assert np.abs(aspects).max() < math.log(1 / 0.3) + 0.3
    # Log-uniform: half of the aspects lie within half of the range.
    assert abs((np.abs(aspects) < 0.5 * math.log(1 / 0.3)).mean() - 0.5) < 0.1


def components(mask):
    """How many 4-connected regions a mask has."""
    left, count = {tuple(p) for p in np.argwhere(mask)}, 0
    while left:
        count += 1
        stack = [left.pop()]
        while stack:
            row, column = stack.pop()
            for step in (
                (row - 1, column),
                (row + 1, column),
                (row, column - 1),
                (row, column + 1),
            ):
                if step in left:
                    left.remove(step)
                    stack.append(step)
    return count


def test_removed_patches_form_few_regions():
    counts = {
        name: np.mean([components(mask) for mask in draw(name, (14, 14), 0.5, batch=50)[0]])
        for name in ("block", "random")
    }
    assert counts["block"] < 3
    assert counts["random"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("ratio, share", [(0.4, 0), (0.6, 0), (0.75, 1e-3), (0.9, 0.02)])
def test_how_many_patches_are_left_to_chance(ratio, share):
    """The figures of the docstring: scores of 1 and more are those that a rectangle removed."""
    strategy, grid = BlockMasking(), (14, 14)
    size = (2000, strategy.noise_size(grid))
    noise = np.random.default_rng(0).uniform(size=size).astype("float32")
    num_keep = int(196 * (1 - ratio))
    removed = (strategy.scores(noise, grid, num_keep).numpy() >= 1).sum(axis=1)
    missing = 196 - num_keep - removed
    assert missing.min() >= 0
    assert missing.mean() / 196 <= share


def test_patches_left_to_chance_complete_the_count():
    # One small rectangle cannot remove three quarters: the rest is random, the count exact.
    strategy = BlockMasking(min_area=0.01, num_rectangles=1)
    masks, _, _ = draw(strategy, (8, 8), 0.75, batch=50)
    np.testing.assert_array_equal(masks.sum(axis=(1, 2)), 48)
    assert len(np.unique(masks.reshape(50, -1), axis=0)) == 50


def test_every_place_is_reached_and_opposite_ones_alike():
    # Rectangles reach corners less often than the middle, as in BEiT.
    masks, _, _ = draw("block", (7, 7), 0.5, batch=2000)
    rates = masks.mean(axis=0)
    assert rates.min() > 0.1 and rates.max() < 0.9
    np.testing.assert_allclose(rates, rates[::-1, ::-1], atol=0.06)


@pytest.mark.parametrize(
    "name, value", [("min_area", 0), ("min_area", 2), ("min_aspect", 0), ("min_aspect", 1.5)]
)
def test_errors(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be in \(0, 1\]. Received: {value}"):
        BlockMasking(**{name: value})
    with pytest.raises(ValueError, match="`num_rectangles` must be an int of at least 1"):
        BlockMasking(num_rectangles=0)
