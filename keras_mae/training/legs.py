"""A run that has ended and goes on: legs, each with a warm-up and a cosine of its own.

`legs.json` in the output directory says where each leg ends, in steps from the first one's start.
What a leg has written is moved to `leg_1`, `leg_2`, ...; the curve in `metrics.jsonl` goes on.
"""

import json
import os
import shutil
from pathlib import Path

from keras_mae.files import write_json
from keras_mae.training.checkpoints import Checkpoints

LEGS = "legs.json"
# What stays where it is: the curve, the list of broken images, what a resume needs.
_STAYS = (
    *("metrics.jsonl", "checkpoints", "config.json", LEGS),
    *("tensorboard", "wandb", "wandb.json"),
)


def ends_of_legs(directory: str | Path, first: int, more: int, argument: str) -> list[int]:
    """Return where each leg of a run ends, the last one the one to be trained now.

    Nothing is written.

    Args:
        directory: the output directory, which may not be there yet.
        first: int, steps of the first leg.
        more: int, steps after the first leg's end that the run shall have; 0 for what it has.
        argument: str, the setting that `more` is of, for errors.
    Returns:
        list of ints, growing.
    Raises:
        ValueError: if a leg is to be added to one that has not ended, or whose last checkpoint is
            gone.
    """
    directory = Path(directory)
    ends = _read(directory / LEGS) or [first]
    results = _read(directory / "results.json")
    if not more:
        return ends
    if len(ends) == 1 and results is not None:
        ends = [results.get("stopped_early_at_step", ends[0])]
    end = ends[0] + more
    if end <= ends[-1]:
        return ends
    if results is None or results.get("total_steps", ends[0]) < ends[-1]:
        raise ValueError(
            f"`{argument}` must be given for a run that has ended. Received: {directory}, which "
            f"{'holds none' if not directory.exists() else 'has not ended'}. The same command "
            "without it comes first."
        )
    step = Checkpoints(directory / "checkpoints").last_step()
    if step != ends[-1]:
        raise ValueError(
            f"`{argument}` must be given for a run whose last checkpoint is there. Received: "
            f"{directory}, which ended at step {ends[-1]:,}; its newest checkpoint is of {step}"
        )
    return [*ends, end]


def begin_leg(directory: Path, ends: list[int]) -> None:
    """Note the legs of a run, and move what earlier ones have written, before the next begins.

    It may be cut at any place, and called again.

    Args:
        directory: `Path`, the output directory.
        ends: see `ends_of_legs`.
    """
    if len(ends) == 1:
        return
    if _read(directory / LEGS) != ends:
        write_json(directory / LEGS, ends)
    results = _read(directory / "results.json")
    if results is None or results.get("total_steps", ends[0]) >= ends[-1]:
        return
    past = [end for end in ends if end <= results.get("total_steps", ends[0])]
    archive = directory / f"leg_{max(1, len(past))}"
    archive.mkdir(exist_ok=True)
    shutil.copy(directory / "config.json", archive / "config.json")
    # The results last: while they are there, this is not done.
    names = sorted(os.listdir(directory), key=lambda name: name == "results.json")
    for name in names:
        if name not in _STAYS and not name.startswith(("leg_", "skipped")):
            os.replace(directory / name, archive / name)


def _read(path):
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
