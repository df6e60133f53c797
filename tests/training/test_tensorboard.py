import importlib.util
import json

import pytest

from keras_mae.training import tensorboard
from keras_mae.training.tensorboard import TensorBoardLog

pytest.importorskip("tensorboard")


def scalars(directory):
    """Return a dict of name to [(step, value), ...] as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(directory)).Reload()
    return {
        name: [
            (event.step, float(tensor_util.make_ndarray(event.tensor_proto)))
            for event in events.Tensors(name)
        ]
        for name in events.Tags()["tensors"]
    }


def test_a_run_that_goes_on_writes_each_step_once(tmp_path):
    metrics, directory = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    first = TensorBoardLog(directory, metrics)  # no metrics yet
    first.write(step=10, loss=1.0, learning_rate=0.5, images_per_second=8.0)
    first.write(step=20, loss=2.0)  # after the last checkpoint, hence trimmed from metrics.jsonl
    first.close()
    lines = [
        {"step": 10, "loss": 1.0, "learning_rate": 0.5, "images_per_second": 8.0},
        {"step": 15, "epoch": 1, "val_loss": 3.0},
    ]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = TensorBoardLog(directory, metrics)
    again.write(step=20, loss=4.0)
    again.close()
    assert scalars(directory) == {
        "loss": [(10, 1.0), (20, 4.0)],
        "learning_rate": [(10, 0.5)],
        "images_per_second": [(10, 8.0)],
        "val_loss": [(15, 3.0)],
    }


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        tensorboard.importlib.util,
        "find_spec",
        lambda name, *args: None if name == "tensorboard" else find(name, *args),
    )
    with pytest.raises(ImportError, match=r'pip install -e "\.\[tensorboard\]"'):
        TensorBoardLog(tmp_path, tmp_path / "metrics.jsonl")
