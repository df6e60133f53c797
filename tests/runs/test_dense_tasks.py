"""Whole runs of segmentation and detection, on scenes made of what dependencies ship."""

import json

import keras
import numpy as np
import pytest
from small_runs import NAME

import keras_mae
from keras_mae.evaluation import coco_metrics

pytestmark = [pytest.mark.runs, pytest.mark.slow, pytest.mark.usefixtures("small_preset")]
FEW = {
    "dataset": "digit_scenes:56",
    "protocol": "scratch",
    "preset": NAME,
    "image_size": (56,),
    "train_examples": 16,
    "batch_size": 8,
    "steps": 4,
    "jit": False,
    "checkpoint_steps": 2,
}


class Cut(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations.numpy() == 3:
            raise RuntimeError("cut")


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    """Twenty scenes held out in place of 500."""
    from keras_mae.data.sources.digit_scenes import DigitScenes

    made = DigitScenes.__init__

    def init(self, *args, **kwargs):
        made(self, *args, **kwargs)
        self.own_parts["validation"] = self.own_parts["validation"][:20]

    monkeypatch.setattr(DigitScenes, "__init__", init)


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_a_run_that_is_cut_ends_as_one_that_is_not(task, tmp_path):
    results = {}
    for name, callbacks in (("whole", []), ("cut", [Cut()])):
        settings = keras_mae.FinetuneSettings(task=task, output_dir=str(tmp_path / name), **FEW)
        if callbacks:
            with pytest.raises(RuntimeError, match="cut"):
                keras_mae.finetune(settings, callbacks)
        results[name] = keras_mae.finetune(settings)
        for seconds in ("training_seconds",):
            del results[name][seconds]
        assert (tmp_path / name / "figures/predictions.png").stat().st_size > 1000
    assert results["whole"] == results["cut"]
    models = [keras.models.load_model(tmp_path / name / "model.keras") for name in results]
    for a, b in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert results["whole"]["heldout_examples"] == 20
    config = json.loads((tmp_path / "whole/config.json").read_text())
    assert config["parts"]["train"]["images"] == 16

    if task == "segment":
        matrix = np.array(results["whole"]["confusion_matrix"])
        assert matrix.sum() == 20 * 56 * 56  # every stored pixel is judged once
        inside, either = matrix.diagonal(), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        expected = (inside / np.maximum(either, 1))[either > 0].mean()
        np.testing.assert_allclose(results["whole"]["mean_iou"], expected, rtol=1e-12)
        assert results["whole"]["class_names"][0] == "background"
    else:
        again = coco_metrics(tmp_path / "whole/heldout.json", tmp_path / "whole/detections.json")
        assert {name: results["whole"][name] for name in again} == again
        truth = json.loads((tmp_path / "whole/heldout.json").read_text())
        assert len(truth["images"]) == 20


def test_a_frozen_encoder_stays_as_it_was(tmp_path):
    encoder = keras_mae.ViTEncoder(
        image_size=56, patch_size=7, hidden_dim=24, num_layers=2, num_heads=2
    )
    encoder.save(tmp_path / "encoder.keras")
    settings = keras_mae.FinetuneSettings(
        task="segment",
        encoder=str(tmp_path / "encoder.keras"),
        output_dir=str(tmp_path / "out"),
        **{**FEW, "protocol": "linear"},
    )
    keras_mae.finetune(settings)
    model = keras.models.load_model(tmp_path / "out/model.keras")
    assert model.head == "linear"
    for a, b in zip(encoder.get_weights(), model.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"protocol": "knn"}, "protocol"),
        ({"mixup": 0.5}, "mixup"),
        ({"crop_area": (0.5, 1.0)}, "crop_area"),
        ({"task": "classify", "head": "pyramid"}, "head"),
        ({"dataset": "mnist5k"}, "task"),
    ],
)
def test_what_does_not_fit_is_named_before_training(changes, name, tmp_path):
    with pytest.raises(ValueError, match=f"`{name}`"):
        keras_mae.finetune(
            keras_mae.FinetuneSettings(
                **{"task": "segment", **FEW, "output_dir": str(tmp_path / "out"), **changes}
            )
        )
    assert not (tmp_path / "out").exists()
