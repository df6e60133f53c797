"""A run directory that the code before the rebuild wrote still opens, is told, and goes on.

`old_run` was written by `scripts/pretrain.py --steps=4 --batch_size=8 --checkpoint_steps=2 --nojit
--probe_images=50 --decoder_num_layers=1` of version 0.1.0, with `OLD` as the preset's architecture;
its figures, its SavedModel and the checkpoint of its last step are left out.
"""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from small_runs import NAME

from keras_mae import PretrainSettings, load_encoder, load_pretrained, presets, pretrain
from keras_mae.models.weights import get_weights

pytestmark = pytest.mark.runs
RUN = Path(__file__).parent / "old_run"
OLD = (28, 1, 7, (16, 1, 2), (8, 1, 2))
SETTINGS = {
    "steps": 4,
    "batch_size": 8,
    "checkpoint_steps": 2,
    "jit": False,
    "probe_images": 50,
    "decoder_num_layers": 1,
}


@pytest.fixture
def old_run(tmp_path, monkeypatch):
    """Return a copy of the directory, and make the preset what it was of."""
    monkeypatch.setitem(presets._TABLE, NAME, OLD)
    shutil.copytree(RUN, tmp_path / "run")
    return tmp_path / "run"


def go_on(directory, **settings):
    return pretrain(PretrainSettings(output_dir=str(directory), **{**SETTINGS, **settings}))


@pytest.mark.slow
def test_its_models_open():
    mae = keras.models.load_model(RUN / "mae.keras")
    encoder = keras.models.load_model(RUN / "encoder.keras")
    assert (mae.encoder.hidden_dim, mae.mask_ratio) == (16, 0.75)
    assert mae.get_config()["masking"]["class_name"] == "RandomMasking"
    assert mae.optimizer.iterations == 4
    images = np.random.default_rng(0).normal(size=(2, 28, 28, 1)).astype("float32")
    expected = encoder(images)
    assert expected.shape == (2, 17, 16)
    np.testing.assert_array_equal(mae.encoder(images), expected)
    np.testing.assert_array_equal(load_encoder(str(RUN))(images), expected)
    found = load_pretrained(RUN)
    weights, others = get_weights(found), get_weights(mae)
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(value, others[name], err_msg=name)
    assert (encoder.mean, encoder.std) == (mae.mean, mae.std)


def test_it_has_ended_for_the_same_settings(old_run, capsys):
    files = {path: path.stat().st_mtime_ns for path in old_run.rglob("*")}
    assert go_on(old_run) == json.loads((RUN / "results.json").read_text())
    out = capsys.readouterr().out
    assert "This run has ended" in out and "encoder, pre-trained" in out
    assert {path: path.stat().st_mtime_ns for path in old_run.rglob("*")} == files


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, settings, was, now",
    [
        ("seed", {"seed": 1}, "0", "1"),
        ("mask_ratio", {"mask_ratio": (0.5,)}, r"\[0.75\]", r"\[0.5\]"),
        ("ema", {"ema": 0.9}, "0.0", "0.9"),  # there was no such setting
        ("early_stopping", {"early_stopping": 3}, "None", "3"),
    ],
)
def test_another_run_is_refused_with_both_values(old_run, name, settings, was, now):
    with pytest.raises(ValueError, match=f"`output_dir`.* {name} was {was} and is {now}"):
        go_on(old_run, **settings)


@pytest.mark.slow
def test_cut_back_to_its_first_checkpoint_it_goes_on_to_its_end(old_run, no_figures, capsys):
    for name in ("results.json", "mae.keras", "encoder.keras"):
        (old_run / name).unlink()
    results = go_on(old_run, probe=False)
    assert "Going on after step 2." in capsys.readouterr().out
    before = json.loads((RUN / "results.json").read_text())
    for name in ("heldout_loss", "mean_predictor_loss"):
        assert results[name] == pytest.approx(before[name], rel=1e-5)
    models = [keras.models.load_model(d / "mae.keras") for d in (RUN, old_run)]
    for old, new in zip(models[0].variables, models[1].variables, strict=True):
        x, y = np.array(old), np.array(new)
        if old.path.endswith("query_key_value/bias"):
            # A key's bias has a gradient of 0 but for rounding, which Adam blows up.
            x, y = (np.delete(v.reshape(3, -1), 1, axis=0) for v in (x, y))
        # Within rounding: it was written on another machine.
        np.testing.assert_allclose(y, x, atol=1e-6, err_msg=old.path)
