"""Boards: where a run's curves and figures can be followed while it trains.

A board gets every line of `metrics.jsonl`, and figures. However often a run is cut, no step is
there twice, and none is missing: a run that goes on shows its boards again what its directory has.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from keras_mae.settings.run import RunSettings

# The setting that turns a board on -> MODULE:CLASS.
BOARDS = {
    "tensorboard": "keras_mae.training.tensorboard:TensorBoardLog",
    "wandb": "keras_mae.training.wandb:WandbLog",
}


class Board:
    """One place. A subclass overrides what it needs.

    Args:
        directory: `Path`, the output directory of the run.
        config: dict, what the run's `config.json` holds.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any]) -> None:
        """Open it."""

    def write(self, step: int, **values: Any) -> None:
        """Take a line of `metrics.jsonl`."""

    def image(self, step: int, name: str, path: Path) -> None:
        """Take a figure: `path` is a PNG file."""

    def close(self, failed: bool = False) -> None:
        """Write all that is left. `failed`: whether an error or a signal ends the run."""


class Boards:
    """All boards of a run. One that fails is told of once and left out: the run goes on.

    Args:
        boards: dict of name to a function without arguments that opens a `Board`.
    """

    def __init__(self, boards: Mapping[str, Any]) -> None:
        self._open: dict[str, Board] = {}
        for name, make in boards.items():
            try:
                self._open[name] = make()
            except Exception as error:
                self._tell(name, error)

    def show_again(
        self, lines: Iterable[Mapping[str, Any]], images: Iterable[tuple[int, str, Path]]
    ) -> None:
        """Show what a run's directory holds, in the order of its steps.

        Args:
            lines: of `metrics.jsonl`.
            images: (step, name, path) each.
        """
        shown: list[tuple[int, Callable[[], None]]] = []
        shown += [(line["step"], partial(self.write, **line)) for line in lines]
        shown += [(image[0], partial(self.image, *image)) for image in images]
        for _, show in sorted(shown, key=lambda item: item[0]):
            show()

    def write(self, step: int, **values: Any) -> None:
        self._each(lambda board: board.write(step, **values))

    def image(self, step: int, name: str, path: Path) -> None:
        self._each(lambda board: board.image(step, name, path))

    def close(self, failed: bool = False) -> None:
        self._each(lambda board: board.close(failed))
        self._open.clear()

    def _each(self, call):
        for name, board in [*self._open.items()]:
            try:
                call(board)
            except Exception as error:
                del self._open[name]
                self._tell(name, error)

    def _tell(self, name, error):
        print(f"--{name} failed, and the run goes on without it: {type(error).__name__}: {error}")


def check_boards(settings: RunSettings) -> None:
    """Raise an ImportError that names the extra, if a board's package is not installed."""
    for name in _wanted(settings):
        if importlib.util.find_spec(name) is None:
            raise ImportError(
                f"--{name} needs the package {name}, which is not installed. Install it with: "
                f'pip install -e ".[{name}]"'
            )


def open_boards(settings: RunSettings, directory: Path, config: Mapping[str, Any]) -> Boards:
    """Return the `Boards` that settings turn on.

    Args:
        settings: a `RunSettings`.
        directory, config: see `Board`.
    """

    def opener(place):
        module, _, name = place.partition(":")
        return lambda: getattr(importlib.import_module(module), name)(directory, config)

    return Boards({name: opener(BOARDS[name]) for name in _wanted(settings)})


def _wanted(settings):
    return [name for name in BOARDS if getattr(settings, name)]
