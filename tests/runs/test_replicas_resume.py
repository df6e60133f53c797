"""A run on two replicas (logical CPUs), cut and gone on with; and as on a TPU."""

import json
import shutil

import keras
import numpy as np
import pytest
from small_runs import NAME
from tpu_stubs import tpu_stubs

from keras_mae.data import eval_dataset, load_source
from keras_mae.settings.pretrain import PretrainSettings
from keras_mae.tasks import pretrain as runs
from keras_mae.training import loop

pytestmark = [pytest.mark.runs, pytest.mark.slow, pytest.mark.usefixtures("small_preset")]


@pytest.fixture
def run(replicas, monkeypatch):
    """Return a function that pre-trains on the test session's two replicas."""
    monkeypatch.setattr(loop, "make_strategy", lambda *_: replicas)

    def pretrain(directory, **settings):
        defaults = {"steps": 8, "batch_size": 16, "jit": False, "decoder_num_layers": 1}
        settings = {**defaults, "probe_images": 50, **settings}
        return runs.pretrain(PretrainSettings(output_dir=str(directory), **settings))

    return pretrain


def test_cut_within_an_epoch_and_gone_on_with(run, no_figures, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole, dataset="photos", preset=NAME, checkpoint_steps=3)
    shutil.copytree(whole, cut)
    # As if it had died after the checkpoint of step 6.
    (cut / "results.json").unlink()
    (cut / "checkpoints" / "step_00000008.npz").unlink()
    run(cut, dataset="photos", preset=NAME, checkpoint_steps=3)
    models = [keras.models.load_model(directory / "mae.keras") for directory in (whole, cut)]
    for weight, other in zip(*(model.variables for model in models), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6, err_msg=weight.path)
    logs = [
        [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        for directory in (whole, cut)
    ]
    # The loss of the last line is the mean over steps before and after the cut.
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]] == [8, 8]
    assert logs[0][0]["loss"] == pytest.approx(logs[1][0]["loss"], rel=1e-6)
    assert logs[0][1]["val_loss"] == pytest.approx(logs[1][1]["val_loss"], rel=1e-6)


def test_as_on_a_tpu_with_labelled_images_each_validated_once(replicas, tmp_path, monkeypatch):
    """The way of --strategy=tpu, but for the TPU: two CPUs take the place of its cores."""
    calls = tpu_stubs(monkeypatch, replicas)
    settings = PretrainSettings(
        strategy="tpu",
        tpu="local",
        steps=2,
        batch_size=16,
        decoder_num_layers=1,
        probe_images=77,  # in batches of 250: both replicas' shares are filled up
        jit=False,
        output_dir=str(tmp_path / "run"),
    )
    results = runs.pretrain(settings)
    assert calls == ["resolve local", "connect", "initialize"]
    assert list(results["accuracy"]) == [
        "raw pixels",
        "encoder, random init",
        "encoder, pre-trained",
    ]

    model = keras.models.load_model(tmp_path / "run" / "mae.keras")  # on one device
    heldout = runs._at_most(load_source("mnist5k").split()[1], 77)
    images = eval_dataset(
        heldout, image_size=28, batch_size=250, mean=model.mean, std=model.std, with_labels=False
    )
    expected = model.evaluate(images, verbose=0)
    assert results["heldout_loss"] == pytest.approx(expected, rel=1e-6)
