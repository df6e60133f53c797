import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_runs import NAME

from keras_mae.data import load_source
from keras_mae.errors import NonFiniteLossError
from keras_mae.settings import FinetuneSettings, PretrainSettings
from keras_mae.tasks.pretrain import pretrain

SHORT = {"steps": 30, "batch_size": 64, "jit": False, "probe_images": 100}

pytestmark = [pytest.mark.runs, pytest.mark.usefixtures("small_preset")]


@pytest.fixture(scope="module")
def run(small_preset, tmp_path_factory):
    """A short run on the digits, and what it returned."""
    directory = tmp_path_factory.mktemp("run") / "out"
    settings = PretrainSettings(**SHORT, output_dir=str(directory))
    return directory, pretrain(settings)


@pytest.mark.slow
def test_the_output_directory_is_whole(run):
    directory, _ = run
    files = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}
    assert {
        "config.json",
        "metrics.jsonl",
        "results.json",
        "index.html",
        "mae.keras",
        "encoder.keras",
        "encoder/1/saved_model.pb",
        "figures/reconstructions.png",
        "figures/loss.png",
    } <= files
    assert not [name for name in files if name.startswith(".")]


@pytest.mark.slow
def test_the_page_shows_what_came_out(run):
    directory, results = run
    page = (directory / "index.html").read_text()
    assert "<h1>Pre-training: mnist5k</h1>" in page
    assert f"Loss on held-out images: {results['heldout_loss']:.4f}" in page
    assert f">{results['accuracy']['raw pixels']['knn']:.1%}</td>" in page
    assert page.count("data:image/png;base64,") == 1 and page.count("<polyline") == 2
    assert (
        '<td class="short">batch_size</td><td class="short">64</td>' in page
        and 'href="mae.keras"' in page
    )


@pytest.mark.slow
def test_config_says_all_that_fixes_the_run(run):
    """Complete settings: a recipe may change, and the run is what it was."""
    config = json.loads((run[0] / "config.json").read_text())
    assert config["settings"]["batch_size"] == 64 and config["settings"]["seed"] == 0
    assert config["run"]["preset"] == "mae_vit_mini_patch4"
    assert config["run"]["base_learning_rate"] == 8e-3
    assert config["run"]["total_steps"] == 30
    assert "output_dir" not in config["run"]
    assert config["model"]["mask_ratio"] == 0.75
    assert config["environment"]["tensorflow"] == tf.__version__


def test_metrics_have_each_interval_and_the_loss_falls(no_figures, tmp_path):
    """The whole way of a run, but for what takes longest: accuracies and figures."""
    settings = PretrainSettings(**SHORT, probe=False, output_dir=str(tmp_path / "out"))
    run = tmp_path / "out", pretrain(settings)
    lines = [json.loads(line) for line in (run[0] / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == [10, 20, 30]
    assert training[-1]["loss"] < training[0]["loss"]
    assert lines[-1]["val_loss"] == pytest.approx(run[1]["heldout_loss"], rel=1e-6)


@pytest.mark.slow
def test_results_compare_three_sets_of_features(run):
    directory, results = run
    assert json.loads((directory / "results.json").read_text()) == results
    accuracy = results["accuracy"]
    assert list(accuracy) == ["raw pixels", "encoder, random init", "encoder, pre-trained"]
    # The probe that fine-tuning has with --protocol=linear.
    probe = FinetuneSettings(protocol="linear").with_recipe((28, 28), 100)
    about = results["probe"]
    assert (about["train"], about["heldout"], about["k"]) == (100, 100, 20)
    assert (about["views"], about["steps"]) == (probe.feature_views, probe.total_steps(100))
    assert accuracy["raw pixels"]["knn"] > 0.6  # 100 digits are enough for that


@pytest.mark.slow
def test_encoder_saved_model_and_autoencoder_agree(run):
    directory, _ = run
    mae = keras.models.load_model(directory / "mae.keras")
    encoder = keras.models.load_model(directory / "encoder.keras")
    served = tf.saved_model.load(directory / "encoder" / "1")
    source = load_source("mnist5k")
    assert (encoder.mean, encoder.std) == (source.mean, source.std)
    images = np.random.default_rng(0).normal(size=(3, 28, 28, 1)).astype("float32")
    np.testing.assert_array_equal(mae.encoder(images), encoder(images))
    np.testing.assert_allclose(served.serve(images), encoder(images), atol=1e-5)


@pytest.mark.slow
def test_a_run_that_has_ended_is_shown_again_and_other_settings_are_refused(run, capsys):
    directory, results = run
    same = {**SHORT, "output_dir": str(directory)}
    files = {p: p.stat().st_mtime_ns for p in directory.rglob("*")}
    assert pretrain(PretrainSettings(**same, keep=5)) == results
    out = capsys.readouterr().out
    assert "This run has ended" in out and "Accuracy on held-out images" in out
    assert {p: p.stat().st_mtime_ns for p in directory.rglob("*")} == files
    with pytest.raises(ValueError, match="seed was 0 and is 1; weight_decay was 0.05 and is 0.1"):
        pretrain(PretrainSettings(**same, seed=1, weight_decay=0.1))
    with pytest.raises(ValueError, match="`output_dir`"):
        pretrain(PretrainSettings(**same, resume="never"))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_does_not(no_figures, tmp_path):
    def weights(name, seed):
        directory = tmp_path / name
        settings = PretrainSettings(
            dataset="photos",
            preset=NAME,
            probe_images=50,
            steps=2,
            batch_size=8,
            jit=False,
            seed=seed,
            output_dir=str(directory),
        )
        results = pretrain(settings)
        assert "accuracy" not in results  # no labels
        model = keras.models.load_model(directory / "mae.keras")
        assert model.encoder.channels == 3
        return [np.array(v) for v in model.weights]

    first, again, other = weights("a", 5), weights("b", 5), weights("c", 6)
    for x, y in zip(first, again, strict=True):
        np.testing.assert_array_equal(x, y)
    assert any(not np.array_equal(x, y) for x, y in zip(first, other, strict=True))


@pytest.mark.slow
def test_a_loss_of_nan_stops_the_run_and_keeps_what_was_good(tmp_path):
    settings = PretrainSettings(
        dataset="photos",
        preset=NAME,
        probe_images=50,
        steps=20,
        batch_size=8,
        base_learning_rate=1e30,
        warmup_epochs=0,
        jit=False,
        output_dir=str(tmp_path / "run"),
    )
    with pytest.raises(NonFiniteLossError, match=r"The loss of step \d+ is (nan|inf)"):
        pretrain(settings)
    assert (tmp_path / "run" / "config.json").exists()
    assert not (tmp_path / "run" / "mae.keras").exists()  # no epoch was good


@pytest.mark.parametrize(
    "name, settings",
    [
        ("mask_ratio", {"mask_ratio": (0.999,)}),  # keeps no patch
        ("image_size", {"image_size": (30,)}),
        ("batch_size", {"batch_size": 4001}),  # there are 4,000
        ("dataset", {"dataset": "folder:nowhere"}),
        ("masking", {"masking": "nowhere:Masking"}),
    ],
)
def test_a_setting_that_does_not_fit_leaves_no_directory(tmp_path, name, settings):
    with pytest.raises(ValueError, match=f"`{name}`"):
        pretrain(PretrainSettings(steps=1, output_dir=str(tmp_path / "run"), **settings))
    assert not (tmp_path / "run").exists()


PLAIN = {"batch_size": 8, "jit": False, "probe": False, "probe_images": 50}


@pytest.mark.slow
def test_early_stopping_and_a_users_callback(no_figures, tmp_path):
    class Count(keras.callbacks.Callback):
        batches = 0

        def on_train_batch_end(self, batch, logs=None):
            self.batches += 1

    count = Count()
    # Four epochs of two steps, and a loss that does not fall.
    settings = {**PLAIN, "batch_size": 2000, "steps": 8, "base_learning_rate": 1e-30}
    settings.update(early_stopping=1, output_dir=str(tmp_path / "run"))
    results = pretrain(PretrainSettings(**settings), [count])
    assert results["stopped_early_at_step"] == count.batches == 4
    assert pretrain(PretrainSettings(**settings)) == results  # it has ended
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [line["val_loss"] for line in map(json.loads, lines) if "val_loss" in line]
    assert losses == [losses[0]] * 2 and results["heldout_loss"] == losses[0]


@pytest.mark.slow
def test_averaged_weights_are_validated_and_kept(no_figures, tmp_path):
    settings = {**PLAIN, "steps": 2, "ema": 0.75, "base_learning_rate": 0.1, "warmup_epochs": 0}
    settings.update(checkpoint_steps=1, output_dir=str(tmp_path / "run"))
    results = pretrain(PretrainSettings(**settings))
    model = keras.models.load_model(tmp_path / "run" / "mae.keras")
    arrays = []
    for step in (1, 2):
        with np.load(tmp_path / "run" / "checkpoints" / f"step_{step:08d}.npz") as file:
            arrays.append([file[f"model/{i}"] for i in range(len(model.variables))])
    for variable, first, second in zip(model.variables, *arrays, strict=True):
        if variable.trainable:
            # The average starts as the weights after the first step.
            expected = 0.75 * first + 0.25 * second
            np.testing.assert_allclose(variable, expected, rtol=1e-5, atol=1e-7)
    moved = [np.abs(x - y).max() for x, y in zip(*arrays, strict=True)]
    assert max(moved) > 1e-4
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["val_loss"] == pytest.approx(results["heldout_loss"], rel=1e-6)


@pytest.mark.slow
def test_a_run_starts_from_weights_and_holds_the_encoder(small_preset, no_figures, tmp_path):
    few = {"steps": 4, "batch_size": 16, "jit": False, "probe": False}
    pretrain(PretrainSettings(output_dir=str(tmp_path / "first"), seed=1, **few))
    given = keras.models.load_model(tmp_path / "first/mae.keras", compile=False)
    settings = PretrainSettings(
        init=str(tmp_path / "first"),
        output_dir=str(tmp_path / "second"),
        freeze_encoder_steps=4,
        **few,
    )
    pretrain(settings)
    trained = keras.models.load_model(tmp_path / "second/mae.keras", compile=False)
    for old, new in zip(given.encoder.weights, trained.encoder.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    moved = [
        not np.array_equal(old, new)
        for old, new in zip(given.decoder.weights, trained.decoder.weights, strict=True)
    ]
    assert sum(moved) > len(moved) // 2
    config = json.loads((tmp_path / "second/config.json").read_text())
    assert config["run"]["init_digest"] and config["adapted"] == []
    # Another start is another run.
    with pytest.raises(ValueError, match="init_digest"):
        pretrain(dataclasses.replace(settings, init=str(tmp_path / "second")))
    # One step more, and the encoder moves too.
    free = dataclasses.replace(settings, freeze_encoder_steps=3, output_dir=str(tmp_path / "third"))
    pretrain(free)
    trained = keras.models.load_model(tmp_path / "third/mae.keras", compile=False)
    assert not np.array_equal(
        given.encoder.blocks[0].weights[2], trained.encoder.blocks[0].weights[2]
    )


@pytest.mark.slow
def test_a_second_leg_that_is_cut_ends_as_one_that_is_not(small_preset, no_figures, tmp_path):
    few = {"steps": 6, "batch_size": 16, "jit": False, "probe": False, "checkpoint_steps": 2}

    class Cut(keras.callbacks.Callback):
        def __init__(self, step):
            super().__init__()
            self.left = step

        def on_train_batch_end(self, batch, logs=None):
            self.left -= 1
            if not self.left:
                raise RuntimeError("cut")

    for name, callbacks in (("whole", []), ("cut", [Cut(3)])):
        settings = PretrainSettings(output_dir=str(tmp_path / name), **few)
        pretrain(settings)
        first = (tmp_path / name / "metrics.jsonl").read_bytes()
        longer = dataclasses.replace(settings, extend_steps=6)
        if callbacks:
            with pytest.raises(RuntimeError, match="cut"):
                pretrain(longer, callbacks)
        results = pretrain(longer)
        assert results["total_steps"] == 12
        assert (tmp_path / name / "metrics.jsonl").read_bytes().startswith(first)
        assert (tmp_path / name / "leg_1/mae.keras").exists()
        assert pretrain(longer) == results  # nothing is left to do
        assert pretrain(settings) == results
    whole, cut = (
        keras.models.load_model(tmp_path / name / "mae.keras", compile=False).get_weights()
        for name in ("whole", "cut")
    )
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(a, b)
