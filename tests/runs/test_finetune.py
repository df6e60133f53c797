"""Fine-tuning runs on real digits, with an encoder small enough to test with."""

import json
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from keras_mae import MaskedAutoencoder, ViTEmbedder, ViTEncoder, load_encoder, save_pretrained
from keras_mae.data import Source, eval_dataset, load_source
from keras_mae.data.finetune import balanced_subset, finetune_dataset
from keras_mae.models import ViTClassifier
from keras_mae.models.weights import get_weights
from keras_mae.settings.finetune import FinetuneSettings
from keras_mae.tasks.classify import Classify, check_labels
from keras_mae.tasks.encoders import make_encoder
from keras_mae.tasks.finetune import finetune
from keras_mae.training import loop

pytestmark = pytest.mark.runs
SOURCE = load_source("mnist5k")
ALL = {
    "randaugment": (1, 5),
    "mixup": 0.8,
    "cutmix": 1.0,
    "erasing": 0.25,
    "label_smoothing": 0.1,
    "drop_path": 0.2,
    "ema": 0.5,
}


@pytest.fixture(scope="module")
def autoencoder():
    keras.utils.set_random_seed(0)
    return MaskedAutoencoder(
        image_size=28,
        channels=1,
        patch_size=7,
        hidden_dim=16,
        num_layers=2,
        num_heads=2,
        decoder_hidden_dim=8,
        decoder_num_layers=1,
        decoder_num_heads=2,
        mean=SOURCE.mean,
        std=SOURCE.std,
    )


@pytest.fixture(scope="module")
def path(autoencoder, tmp_path_factory):
    """An encoder's file."""
    path = tmp_path_factory.mktemp("encoder") / "encoder.keras"
    autoencoder.encoder.save(path)
    return str(path)


def settings_in(directory, **settings):
    values = {"train_examples": 60, "jit": False, "batch_size": 16, "output_dir": str(directory)}
    return FinetuneSettings(**{**values, **settings})


def run_in(directory, callbacks=(), **settings):
    return finetune(settings_in(directory, **settings), callbacks)


@pytest.fixture
def run(path, tmp_path):
    def start(name="run", **settings):
        return run_in(tmp_path / name, **{"encoder": path, **settings})

    return start


@pytest.fixture(scope="module")
def finished(path, tmp_path_factory):
    """A run that has ended: its results, and what `run_in` was given."""
    arguments = {"directory": tmp_path_factory.mktemp("finished") / "run", "encoder": path}
    arguments.update(steps=12, base_learning_rate=0.05, layer_decay=1.0)
    return run_in(**arguments), arguments


@pytest.mark.slow
def test_a_run_leaves_all_that_was_promised(finished):
    results, arguments = finished
    directory = arguments["directory"]
    assert json.loads((directory / "results.json").read_text()) == results
    assert results["protocol"] == "full" and results["train_examples"] == 60
    assert 0.1 <= results["top1"] <= results["top5"] <= 1
    # Epochs of 4 steps; fewer images than are held out: validated at the end.
    assert results["val_curve"] == [pytest.approx(results["top1"])]
    matrix = np.array(results["confusion_matrix"])
    assert matrix.sum() == 1000 and (matrix.sum(1) == 100).all()
    assert np.trace(matrix) / 1000 == pytest.approx(results["top1"])
    assert Image.open(directory / "figures" / "confusion.png").width > 300
    config = json.loads((directory / "config.json").read_text())
    assert config["run"]["recipe"] == "small" and config["run"]["seed"] == 0
    assert "output_dir" not in config["run"] and "encoder" not in config["run"]
    assert len(config["run"]["encoder_digest"]) == 64

    model = keras.models.load_model(directory / "model.keras")
    assert (model.encoder.mean, model.encoder.std) == (SOURCE.mean, SOURCE.std)
    heldout = SOURCE.split()[1]
    images = (heldout.images[heldout.indices] / 255 - SOURCE.mean[0]) / SOURCE.std[0]
    predicted = model.predict(images.astype("float32"), verbose=0).argmax(1)
    assert (predicted == heldout.labels()).mean() == pytest.approx(results["top1"], abs=0.002)


@pytest.mark.slow
def test_every_epoch_is_validated_where_images_abound(run, tmp_path):
    results = run(train_examples=None, batch_size=500, epochs=3.0)
    assert len(results["val_curve"]) == 3
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if "val_top1" in line]
    assert steps == [8, 16, 24]


class ThroughTheEncoder(Classify):
    """A probe that sees each image through the encoder, whatever the settings say."""

    on_features = property(lambda self: False, lambda self, value: None)


@pytest.mark.slow
def test_the_linear_probe_changes_not_one_bit_of_the_encoder(run, autoencoder, path, tmp_path):
    """Neither on features that are computed once nor through the encoder, to the same end."""
    settings = {"protocol": "linear", "steps": 60, "base_learning_rate": 60.0}
    settings["augmentation"] = "none"
    run("kept", **settings)
    loop.run(ThroughTheEncoder(settings_in(tmp_path / "anew", encoder=path, **settings)))
    before = get_weights(autoencoder.encoder)
    models = [keras.models.load_model(tmp_path / n / "model.keras") for n in ("kept", "anew")]
    for model in models:
        after = get_weights(model)
        for weight, value in before.items():
            np.testing.assert_array_equal(after[weight], value)
        assert set(after) - set(before) == {
            "feature_norm.moving_mean",
            "feature_norm.moving_variance",
            "head.kernel",
            "head.bias",
        }
        assert np.abs(after["feature_norm.moving_mean"]).max() > 0
    kernels = [get_weights(m)["head.kernel"] for m in models]
    np.testing.assert_allclose(kernels[1], kernels[0], atol=1e-3 * np.abs(kernels[0]).max())


@pytest.mark.slow
def test_a_probe_is_trained_on_views_of_each_image(autoencoder, path, tmp_path):
    """They are each image as it is evaluated, then the images of six epochs of augmentation."""
    settings = {"protocol": "linear", "feature_views": 7, "steps": 3}
    settings.update(pooling="mean", pooled_blocks=2)
    probe = Classify(settings_in(tmp_path / "run", encoder=path, **settings))
    loop.run(probe)
    few = balanced_subset(SOURCE.split()[0], 60, seed=0)
    stream = finetune_dataset(
        few, image_size=28, batch_size=60, mean=SOURCE.mean, std=SOURCE.std, num_classes=10
    )
    pixels = {"image_size": 28, "batch_size": 60, "mean": SOURCE.mean, "std": SOURCE.std}
    epochs = [tuple(map(np.asarray, batch)) for batch in stream.take(6)]
    epochs = [(images, labels.argmax(1)) for images, labels in epochs]
    epochs[:0] = [tuple(map(np.asarray, batch)) for batch in eval_dataset(few, **pixels)]
    labels = np.concatenate([labels for _, labels in epochs])
    encoder = autoencoder.encoder
    tokens = np.concatenate([encoder(images, last_blocks=2) for images, _ in epochs])
    np.testing.assert_array_equal(probe.labels, labels)
    np.testing.assert_allclose(probe.features, tokens[:, 1:].mean(1), atol=1e-5)
    assert len(np.unique(probe.features.round(4), axis=0)) > 3 * 60  # they differ


@pytest.mark.slow
@pytest.mark.parametrize(
    "blocks, trained",
    [
        pytest.param(0, (), marks=pytest.mark.slow),
        (0.5, ("encoder.blocks.1.mlp_norm.", "encoder.blocks.1.mlp.")),
        pytest.param(1, ("encoder.blocks.1.",), marks=pytest.mark.slow),
    ],
)
def test_partial_changes_exactly_the_named_blocks(run, autoencoder, tmp_path, blocks, trained):
    results = run(protocol="partial", trainable_blocks=blocks, steps=3, base_learning_rate=1.0)
    assert results["trainable_blocks"] == blocks
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    before, after = get_weights(autoencoder.encoder), get_weights(model)
    for name in set(before) & set(after):
        changed = not np.array_equal(before[name], after[name])
        assert changed == name.startswith(trained), name


@pytest.mark.slow
@pytest.mark.parametrize("feature_views", [2, 0])
def test_a_probe_of_a_grid_keeps_its_whitening(run, path, tmp_path, feature_views, capsys):
    settings = {"protocol": "linear", "pooling": "grid:2", "steps": 4, "train_examples": 40}
    results = run(**settings, whiten=50, feature_views=feature_views)
    assert results["whitened_to"] == 39  # of 40 images
    assert "39 components, not 50" in capsys.readouterr().out
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert (model.whiten, model.pooling) == (50, "grid:2")
    few = balanced_subset(SOURCE.split()[0], 40)
    images = (few.images[few.indices] / 255 - SOURCE.mean[0]) / SOURCE.std[0]
    embedder = ViTEmbedder(load_encoder(path), "grid:2")
    features = np.asarray(model.whitening(embedder(images.astype("float32"))))
    np.testing.assert_allclose(features[:, :39].T @ features[:, :39] / 40, np.eye(39), atol=0.05)
    np.testing.assert_array_equal(features[:, 39:], 0)


@pytest.mark.slow
def test_neighbours_are_found_among_whitened_features(run):
    plain = run(protocol="knn", knn=[5], train_examples=300)
    white = run("white", protocol="knn", knn=[5], train_examples=300, whiten=8)
    assert white["whitened_to"] == 8 and "whitened_to" not in plain
    assert white["top1"] != plain["top1"]


@pytest.mark.slow
def test_neighbours_need_no_training(run, tmp_path):
    results = run(protocol="knn", knn=[3, 1], train_examples=300)
    assert set(results["knn"]) == {"3", "1"} and results["top1"] == results["knn"]["3"]
    assert results["top1"] > 0.3 and results["top5"] is None
    assert not (tmp_path / "run" / "model.keras").exists()


@pytest.mark.slow
def test_scratch_has_the_architecture_and_none_of_the_weights(run, autoencoder, tmp_path):
    run(protocol="scratch", steps=1, base_learning_rate=1e-9)
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    old, new = get_weights(autoencoder.encoder), get_weights(model)
    kernels = [name for name in old if name.endswith("kernel")]
    assert len(kernels) == 1 + 2 * 4
    for name in kernels:
        assert new[name].shape == old[name].shape and np.abs(new[name] - old[name]).max() > 0.1
    settings = FinetuneSettings(protocol="scratch", preset="mae_vit_mini_patch4")
    encoder = make_encoder(settings, SOURCE)
    assert (encoder.hidden_dim, encoder.num_layers, encoder.mean) == (96, 4, SOURCE.mean)


@pytest.mark.slow
def test_the_same_weights_give_the_same_probe_whatever_they_come_from(
    run, autoencoder, path, tmp_path
):
    (tmp_path / "mae").mkdir()
    autoencoder.save(tmp_path / "mae" / "mae.keras")
    save_pretrained(autoencoder.encoder, tmp_path / "hf", format="hf")
    spec = keras.InputSpec(shape=(None, 28, 28, 1), dtype="float32")
    exported = tmp_path / "exported" / "1"
    autoencoder.encoder.export(
        exported, "tf_saved_model", verbose=False, input_signature=[spec]
    )  # without a card: the data set's statistics are taken
    found = {}
    for source in (path, tmp_path / "mae", tmp_path / "hf", exported.parent):
        found[str(source)] = run(
            f"probe_{len(found)}",
            encoder=str(source),
            protocol="linear",
            train_examples=200,
            batch_size=50,
            steps=150,
            base_learning_rate=60.0,
        )["top1"]
    assert found[path] > 0.25
    for name, accuracy in found.items():
        assert accuracy == pytest.approx(found[path], abs=0.0021), name  # rounding may turn a digit


@pytest.mark.slow
def test_a_saved_model_is_fine_tuned(run, autoencoder, tmp_path):
    spec = keras.InputSpec(shape=(None, 28, 28, 1), dtype="float32")
    autoencoder.encoder.export(
        tmp_path / "1", "tf_saved_model", verbose=False, input_signature=[spec]
    )
    arguments = {"encoder": str(tmp_path / "1"), "steps": 2}
    assert run(**arguments)["trainable_blocks"] is None
    for name, value in (("layer_decay", 0.5), ("drop_path", 0.1), ("pooled_blocks", 2)):
        with pytest.raises(ValueError, match=f"`{name}`"):
            run("other", **arguments, **{name: value})
    for protocol in ("partial", "scratch"):
        with pytest.raises(ValueError, match="`protocol`"):
            run("other", **arguments, protocol=protocol)


def cut_back(whole, cut, step):
    """Make `cut` as `whole` was if it had died right after the checkpoint of a step."""
    shutil.copytree(whole, cut)
    for name in ("results.json", "model.keras"):
        (cut / name).unlink()
    for checkpoint in (cut / "checkpoints").iterdir():
        if int(checkpoint.stem[5:]) > step:
            checkpoint.unlink()


def differences(one, other):
    """Return what differs between two finished runs, as a list of strings: empty if nothing."""
    models = [keras.models.load_model(directory / "model.keras") for directory in (one, other)]
    found = [
        x.path
        for x, y in zip(models[0].variables, models[1].variables, strict=True)
        if not np.array_equal(x, y)
    ]
    logs = []
    for directory in (one, other):
        lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
        logs.append([{k: v for k, v in line.items() if k != "images_per_second"} for line in lines])
    return found + (["metrics.jsonl"] if logs[0] != logs[1] else [])


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings, cuts",
    [
        ({**ALL, "validation_epochs": 1}, (6,)),  # inside an epoch of 4 steps
        ({"protocol": "linear"}, (4,)),  # between two
    ],
)
def test_a_run_that_was_cut_ends_as_one_that_was_not(run, tmp_path, settings, cuts):
    settings = {**settings, "steps": 12, "checkpoint_steps": 2, "keep": 100}
    run("whole", **settings)
    for step in cuts:
        cut_back(tmp_path / "whole", tmp_path / f"cut_{step}", step)
        run(f"cut_{step}", **settings)
        assert differences(tmp_path / "whole", tmp_path / f"cut_{step}") == []


@pytest.mark.slow
def test_the_averaged_weights_are_validated_and_saved(run, tmp_path):
    settings = {"ema": 0.75, "steps": 2, "base_learning_rate": 0.05, "checkpoint_steps": 1}
    settings["drop_path"] = 0.0  # its random states are variables too, and not averaged
    results = run(**settings)
    weights = []
    for step in (1, 2):
        with np.load(tmp_path / "run" / "checkpoints" / f"step_0000000{step}.npz") as file:
            weights.append({name: file[name] for name in file.files})
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    moved = 0
    for i, variable in enumerate(model.variables):
        # The average starts as the weights after the first step.
        first, second = (w[f"model/{i}"] for w in weights)
        moved += not np.array_equal(first, second)
        expected = 0.75 * first + 0.25 * second
        np.testing.assert_allclose(variable, expected, atol=1e-7, rtol=1e-6)
    assert moved == len(model.trainable_variables)
    assert results["val_curve"] == [pytest.approx(results["top1"])]


@pytest.mark.slow
def test_a_run_that_has_ended_is_shown_and_another_is_refused(finished, capsys):
    results, arguments = finished
    assert run_in(**arguments) == results
    assert "This run has ended" in capsys.readouterr().out
    with pytest.raises(ValueError, match="mixup was 0.0 and is 0.5"):
        run_in(**arguments, mixup=0.5)


@pytest.mark.slow
def test_a_dry_run_prints_each_rate_and_writes_nothing(run, tmp_path, capsys):
    assert run(layer_decay=0.5, batch_size=32, base_learning_rate=0.08, dry_run=True) == {}
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if "/" in line.split()[0]}
    assert lines[0].startswith("Recipe in use: small, full")
    for name, rate, decay in (
        ("encoder/class_token", "0.00125", "0 "),
        ("encoder/block_0/mlp/hidden/kernel", "0.0025", "0.05"),
        ("encoder/block_1/mlp/hidden/bias", "0.005", "0 "),
        ("head/kernel", "0.01", "0.05"),
    ):
        row = next(line for key, line in rows.items() if key.endswith(name))
        assert f" {rate} " in row and f" {decay}" in row and row.endswith("yes")
    table = next(line for key, line in rows.items() if key.endswith("positions/table"))
    assert table.endswith("no")
    assert not (tmp_path / "run").exists()


class Labelled(Source):
    """As much of a source as its labels are."""

    def __init__(self, num_classes, labels):
        super().__init__(len(labels or ()))
        self.num_classes = num_classes
        self._labels = labels

    def record_labels(self):
        return self._labels


@pytest.mark.parametrize(
    "num_classes, labels, head, name",
    [
        (None, None, None, "dataset"),
        (1, [0, 0], None, "dataset"),
        (3, [1, 1], None, "dataset"),
        (3, [0, 1, 2], 2, "num_classes"),
        (3, [0, 3], None, "dataset"),
        (3, [-1, 2], None, "dataset"),  # one class is left
        (3, [-1, -1], None, "dataset"),
    ],
)
def test_labels_that_do_not_fit_are_named_before_training(num_classes, labels, head, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        check_labels(Labelled(num_classes, labels), head)
    assert check_labels(Labelled(3, [0, 1, 2]), 5) == 5


@pytest.mark.slow
def test_what_does_not_fit_leaves_no_directory(run, tmp_path):
    three = ViTEncoder(image_size=28, patch_size=7, hidden_dim=8, num_layers=1, num_heads=2)
    three.save(tmp_path / "three.keras")
    for name, settings in (
        ("dataset", {"dataset": "photos"}),
        ("encoder", {"encoder": str(tmp_path / "three.keras")}),
        ("num_classes", {"num_classes": 9}),
        ("train_examples", {"train_examples": 5}),
        ("trainable_blocks", {"protocol": "partial", "trainable_blocks": 3}),
        ("knn", {"protocol": "knn", "knn": [61]}),
        ("image_size", {"image_size": [30]}),
        ("batch_size", {"batch_size": 61}),  # of 60 images
    ):
        with pytest.raises(ValueError, match=f"`{name}`"):
            run(**settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_numbers_of_neighbours_above_the_images_are_left_out_unless_given(run):
    assert set(run(protocol="knn")["knn"]) == {"20", "1", "5", "10", "50"}


def small_updates(directory, before):
    """Return what a run has changed of the weights, but for the biases of keys.

    Those move all scores of a query alike: their gradients are rounding, blown up by Adam.
    """
    after = get_weights(keras.models.load_model(directory / "model.keras"))
    updates = {name: after[name] - before[name] for name in before if name in after}
    for name, update in updates.items():
        if name.endswith(("query_key_value.bias", "qkv.bias")):
            updates[name] = np.delete(update.reshape(3, -1), 1, axis=0)
    return updates


def assert_same_update(one, other):
    assert one.keys() == other.keys()
    assert any(np.abs(update).max() > 1e-4 for update in one.values())
    for name, update in one.items():
        np.testing.assert_allclose(other[name], update, atol=2e-6, err_msg=name)


# Nothing that draws by the place in a batch.
PLAIN = {"steps": 2, "drop_path": 0.0, "augmentation": "none", "warmup_epochs": 0.0}


@pytest.fixture(scope="module")
def plain(path, autoencoder, tmp_path_factory):
    """The update of a plain run."""
    directory = tmp_path_factory.mktemp("plain") / "run"
    run_in(directory, encoder=path, **PLAIN)
    return small_updates(directory, get_weights(autoencoder.encoder))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"accumulate_steps": 4, "recompute": True}])
def test_what_saves_memory_changes_no_update(run, plain, autoencoder, tmp_path, settings):
    run(**PLAIN, **settings)
    found = small_updates(tmp_path / "run", get_weights(autoencoder.encoder))
    assert_same_update(plain, found)


@pytest.mark.slow
def test_two_replicas_train_as_one_device(run, plain, autoencoder, replicas, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "make_strategy", lambda *_: replicas)
    results = run(**PLAIN)
    found = small_updates(tmp_path / "run", get_weights(autoencoder.encoder))
    assert_same_update(plain, found)
    assert results["heldout_examples"] == 1000
    # Each held-out image was validated once.
    assert results["val_curve"] == [pytest.approx(results["top1"])]
    with pytest.raises(ValueError, match="`batch_size`"):
        run("odd", batch_size=15)


@pytest.mark.slow
def test_a_probe_on_two_replicas(run, replicas, monkeypatch):
    settings = {"protocol": "linear", "augmentation": "none", "steps": 50}
    settings["base_learning_rate"] = 60.0
    alone = run("one", **settings)
    monkeypatch.setattr(loop, "make_strategy", lambda *_: replicas)
    assert run("two", **settings)["top1"] == pytest.approx(alone["top1"], abs=0.02)


@pytest.mark.slow
def test_early_stopping_and_a_users_callback(run):
    class Count(keras.callbacks.Callback):
        batches = 0

        def on_train_batch_end(self, batch, logs=None):
            self.batches += 1

    count = Count()
    settings = {"steps": 40, "base_learning_rate": 1e-30, "validation_epochs": 1}
    results = run(callbacks=[count], early_stopping=2, **settings)
    assert results["stopped_early_at_step"] == count.batches == 3 * 4  # epochs of 4 steps
    assert len(results["val_curve"]) == 3


@pytest.mark.slow
def test_more_outputs_than_classes_and_another_image_size(run, tmp_path):
    run(num_classes=12, image_size=[14, 21], steps=1)
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert isinstance(model, ViTClassifier)
    assert (model.num_classes, model.encoder.image_size) == (12, (14, 21))


@pytest.mark.parametrize("changes", [{"value_range": (0.0, 100.0)}, {"statistics": "0.4:0.5"}])
def test_an_encoders_own_numbers_are_not_replaced(make_digits, changes, tmp_path):
    encoder = ViTEncoder(
        image_size=28, channels=1, patch_size=7, hidden_dim=12, num_layers=1, num_heads=2
    )
    encoder.save(tmp_path / "encoder.keras")
    settings = FinetuneSettings(
        encoder=str(tmp_path / "encoder.keras"),
        dataset=f"folder:{make_digits}",
        output_dir=str(tmp_path / "out"),
        batch_size=4,
        steps=1,
        **changes,
    )
    with pytest.raises(ValueError, match=f"`{next(iter(changes))}`"):
        finetune(settings)


@pytest.fixture
def make_digits(tmp_path):
    """A folder of grey images of two classes."""
    for label in ("a", "b"):
        (tmp_path / "digits" / label).mkdir(parents=True)
        for number in range(6):
            pixels = np.random.default_rng(number).integers(0, 256, (28, 28), dtype="uint8")
            Image.fromarray(pixels).save(tmp_path / "digits" / label / f"{number}.png")
    return tmp_path / "digits"
