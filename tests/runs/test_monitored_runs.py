"""Monitors in whole runs: they change no weight, and survive a cut; what they see."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from read_boards import scalars, written
from small_runs import NAME

from keras_mae.data import eval_dataset, load_source
from keras_mae.settings.pretrain import PretrainSettings
from keras_mae.tasks.pretrain import pretrain
from keras_mae.testing import kills
from keras_mae.training import loop

pytestmark = [pytest.mark.runs, pytest.mark.slow, pytest.mark.usefixtures("small_preset")]

# Six steps of 16; measured before the first and after each second.
FEW = {"steps": 6, "batch_size": 16, "jit": False, "probe": False, "probe_images": 60}
EVERY = {"monitor_every": 2 * 16 / 4000}


def run(directory, callbacks=(), monitors=None, **settings):
    settings = {**FEW, **EVERY, **settings}
    return pretrain(PretrainSettings(output_dir=str(directory), **settings), callbacks, monitors)


def lines_of(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def measured(directory):
    return [line for line in lines_of(directory) if any(n.startswith("monitor_") for n in line)]


def figures(directory):
    return {path.name: path.read_bytes() for path in directory.glob("figures/monitor/*")}


class Cut(keras.callbacks.Callback):
    """End a run within the step after `step`, as if its process had died."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("cut")


@pytest.mark.parametrize("more", [{}, {"ema": 0.5}], ids=["weights", "averages"])
def test_monitors_change_no_weight_and_no_loss(no_figures, tmp_path, more):
    results = run(tmp_path / "with", **more)
    assert "monitor" not in run(tmp_path / "without", **{**more, "monitor_every": 0})
    assert not (tmp_path / "without/figures/monitor").exists()
    assert [line["step"] for line in measured(tmp_path / "with")] == [0, 2, 4, 6]
    assert set(results["monitor"]["last"]) == {
        f"monitor_{name}" for name in ("knn", "probe", "rankme", "variance")
    }
    logs = []
    for name in ("with", "without"):
        lines = [{**line, "images_per_second": 0} for line in lines_of(tmp_path / name)]
        logs.append([line for line in lines if "loss" in line or "val_loss" in line])
        with np.load(tmp_path / name / "checkpoints/step_00000006.npz") as file:
            logs[-1] += [(key, file[key].tobytes()) for key in file.files]
    assert logs[0] == logs[1]


def test_a_run_that_is_cut_has_each_step_once_here_and_on_boards(no_figures, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    settings = {"checkpoint_steps": 3, "tensorboard": True, "wandb": True}
    run(tmp_path / "whole", checkpoint_steps=3)
    with pytest.raises(RuntimeError, match="cut"):
        run(tmp_path / "cut", [Cut(4)], **settings)
    # Step 4 was measured and lies behind the checkpoint of step 3.
    assert list(figures(tmp_path / "cut")) and measured(tmp_path / "cut")[-1]["step"] == 4
    run(tmp_path / "cut", **settings)
    assert kills.differences(tmp_path / "whole", tmp_path / "cut") == []
    assert figures(tmp_path / "whole") == figures(tmp_path / "cut")
    assert [line["step"] for line in measured(tmp_path / "cut")] == [0, 2, 4, 6]

    lines = lines_of(tmp_path / "cut")
    events = scalars(tmp_path / "cut/tensorboard")
    for name in ("monitor_knn", "monitor_rankme", "val_loss", "loss"):
        expected = [(line["step"], pytest.approx(line[name])) for line in lines if name in line]
        assert events[name] == expected
    assert [step for step, _ in events["monitor_reconstructions"]] == [0, 2, 4, 6]
    rows, config, identity = written(tmp_path / "cut")
    assert identity == json.loads((tmp_path / "cut/wandb.json").read_text())["id"]
    assert config["batch_size"] == 16 and "total_steps" in config["run"]
    steps = sorted({line["step"] for line in lines})
    assert [row["_step"] for row in rows] == steps
    together = {step: {} for step in steps}
    for line in lines:
        together[line["step"]].update(line)
    for row in rows:
        for name in ("monitor_probe", "val_loss", "loss"):
            assert row.get(name) == together[row["_step"]].get(name)
        assert ("monitor_reconstructions/path" in row) == (row["_step"] % 2 == 0)


def test_it_may_be_measured_at_other_steps_when_it_goes_on(no_figures, tmp_path):
    with pytest.raises(RuntimeError, match="cut"):
        run(tmp_path, [Cut(4)], checkpoint_steps=3)
    run(tmp_path, checkpoint_steps=3, monitor_every=3 * 16 / 4000)
    # Step 4 is behind the checkpoint.
    assert [line["step"] for line in measured(tmp_path)] == [0, 2, 6]
    assert sorted(figures(tmp_path)) == [f"step_0000000{step}.png" for step in (0, 2, 6)]
    assert (tmp_path / "figures/monitor.webp").exists()
    assert (tmp_path / "figures/monitor.png").exists()


def number(features):
    """Return a number that most changes of features change: their own sum is 0, by the norm."""
    features = np.asarray(features, "float64")
    return float(np.sum(features * np.arange(features.shape[1])))


def seen(predict, sample):
    return number(predict(next(iter(sample.heldout))[0]))


def expected(directory, images=16):
    """Return what `seen` is of a run's final model."""
    model = keras.models.load_model(directory / "mae.keras")
    heldout = load_source("mnist5k").split()[1]
    heldout = heldout.subset(np.random.default_rng(0).permutation(heldout.num_examples)[:60])
    pixels = {"image_size": 28, "mean": model.mean, "std": model.std}
    batch, _ = next(iter(eval_dataset(heldout, batch_size=images, **pixels)))
    return number(np.mean(model.encoder(batch)[:, 1:], axis=1))


def test_averages_are_measured_where_they_are_validated(no_figures, tmp_path):
    strong = {"ema": 0.9, "base_learning_rate": 0.1, "warmup_epochs": 0}
    results = run(tmp_path, monitors={"seen": seen}, **strong)
    assert results["monitor"]["last"]["monitor_seen"] == pytest.approx(expected(tmp_path), rel=1e-4)


def test_replicas_are_measured_on_one_device(replicas, no_figures, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "make_strategy", lambda *_: replicas)
    results = run(tmp_path, monitors={"seen": seen}, ema=0.9)
    assert [line["step"] for line in measured(tmp_path)] == [0, 2, 4, 6]
    # Batches are as large as a replica's, of 8.
    assert results["monitor"]["last"]["monitor_seen"] == pytest.approx(
        expected(tmp_path, images=8), rel=1e-4
    )


def test_images_without_labels_have_rank_and_variance(no_figures, tmp_path):
    results = run(tmp_path, dataset="photos", preset=NAME, monitor_every=0.05)
    assert set(results["monitor"]["last"]) == {"monitor_rankme", "monitor_variance"}
    assert results["monitor"]["curve"]["name"] == "monitor_rankme"


def test_monitors_are_found_by_name_and_one_that_fails_ends_nothing(
    no_figures, tmp_path, monkeypatch, capsys
):
    page = (Path(__file__).parents[2] / "docs" / "seeing.md").read_text()
    (example,) = re.findall(r"```python\n(# my_monitors.py\n.*?)```", page, re.DOTALL)
    broken = "\n\ndef broken(predict, sample):\n    raise RuntimeError('of mine')\n"
    (tmp_path / "my_monitors.py").write_text(example + broken)
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "run", monitor=("my_monitors:classes_apart", "my_monitors:broken"))
    ratios = [line["monitor_classes_apart_ratio"] for line in measured(tmp_path / "run")]
    assert len(ratios) == 4 and min(ratios) > 0
    assert capsys.readouterr().out.count("`broken` failed") == 1
    with pytest.raises(ValueError, match="`monitor`"):
        run(tmp_path / "other", monitor=("my_monitors:absent",))
    for monitors in ({"knn": seen}, {"": seen}, {"mine": 3}):
        with pytest.raises(ValueError, match="`monitors`"):
            run(tmp_path / "other", monitors=monitors)
    assert not (tmp_path / "other").exists()


def test_the_curve_and_the_frames_of_a_second_leg_go_on(no_figures, tmp_path):
    run(tmp_path)
    run(tmp_path, extend_steps=4)
    assert [line["step"] for line in measured(tmp_path)] == [0, 2, 4, 6, 8, 10]
    from PIL import Image

    with Image.open(tmp_path / "figures/monitor.webp") as image:
        assert image.n_frames == 6
