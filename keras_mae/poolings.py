"""Names of poolings, for settings and layers alike: nothing heavy is imported here."""

import re

POOLINGS = ("token", "mean", "both", "mean_std", "grid:N")
POOLING_HELP = (
    "The class token, the mean of the patches' tokens, or both side by side; mean_std: their mean "
    "and deviation; grid:N: the means of N x N parts of the image."
)
_GRID = re.compile(r"grid:([1-9][0-9]{0,2})")


def is_pooling(pooling: object) -> bool:
    """Return whether `pooling` is one of the `POOLINGS`, with a number for N."""
    return grid_cells(pooling) is not None or (pooling in POOLINGS and pooling != POOLINGS[-1])


def grid_cells(pooling: object) -> int | None:
    """Return the N of "grid:N", or None."""
    found = _GRID.fullmatch(pooling) if isinstance(pooling, str) else None
    return int(found[1]) if found else None


def check_pooling(pooling: object) -> None:
    """Raise a ValueError unless `pooling` is one of the `POOLINGS`."""
    if not is_pooling(pooling):
        raise ValueError(
            f"`pooling` must be one of {list(POOLINGS)}, such as grid:3. Received: {pooling!r}"
        )


def pooling_words(pooling: str) -> str:
    """Return what a pooling takes, in words, such as "class token and mean"."""
    if cells := grid_cells(pooling):
        return f"{cells} x {cells} grid of means"
    return {
        "token": "class token",
        "both": "class token and mean",
        "mean_std": "mean and deviation",
    }.get(pooling, pooling)
