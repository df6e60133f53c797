"""Tables of predictions: classes are the model's, rows are their pictures'."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import keras_mae
from keras_mae import ViTClassifier, ViTEncoder
from keras_mae.settings.embed import PredictSettings
from keras_mae.tasks.predict import predict_command

NAMES = ["red", "green, or so", "blue"]
COLOURS = np.array([[250, 5, 5], [5, 250, 5], [5, 5, 250]], "uint8")


def classifier(multi_label=False, class_names=NAMES):
    """A model that tells red, green and blue: its encoder's mean patch tells the colour."""
    encoder = ViTEncoder(
        image_size=8, patch_size=4, hidden_dim=8, num_layers=1, num_heads=2, channels=3
    )
    model = ViTClassifier(
        encoder, 3, pooling="mean", head_norm=None, class_names=class_names, multi_label=multi_label
    )
    images = (COLOURS[:, None, None] / 255 - np.array(encoder.mean)) / np.array(encoder.std)
    images = np.broadcast_to(images, (3, 8, 8, 3)).astype("float32")
    tokens = np.asarray(model.encoder(images))[:, 1:].mean(1)
    wanted = 6 * np.eye(3) if not multi_label else 12 * np.eye(3) - 6
    design = np.concatenate([tokens, np.ones((3, 1))], axis=1)
    solution = np.linalg.lstsq(design, wanted, rcond=None)[0]
    model.head.kernel.assign(solution[:-1])
    model.head.bias.assign(solution[-1])
    return model


@pytest.fixture(scope="module")
def model():
    return classifier()


def write(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(COLOURS[colour], (8, 8, 3)).copy()).save(path)


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_picture_has_its_most_probable_classes(model, tmp_path, caplog):
    for name, colour in {"a": 2, "b": 0, "d": 1, "e": 2}.items():
        write(tmp_path / "images" / f"{name}.png", colour)
    (tmp_path / "images" / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    model.save(tmp_path / "model.keras")
    predict_command(
        PredictSettings(
            model=str(tmp_path / "model.keras"),
            image=(str(tmp_path / "images"),),
            output=str(tmp_path / "table.csv"),
            max_bad_fraction=0.5,
            top=2,
        )
    )
    rows = read(tmp_path / "table.csv")
    assert [row["name"] for row in rows] == ["a.png", "b.png", "d.png", "e.png"]
    assert [row["class_1"] for row in rows] == ["blue", "red", "green, or so", "blue"]
    assert list(rows[0]) == ["name", "class_1", "probability_1", "class_2", "probability_2"]
    # Logits of 6, 0 and 0.
    probability = np.exp(6) / (np.exp(6) + 2)
    for row in rows:
        assert float(row["probability_1"]) == pytest.approx(probability, abs=1e-4)
    assert read(tmp_path / "table.skipped.csv")[0]["name"] == "c.png"
    found = keras_mae.predict(model, [tmp_path / "images" / "e.png"], top=1)
    assert (found.names, found.classes.tolist()) == (["e.png"], [["blue"]])
    np.testing.assert_allclose(found.probabilities, [[probability]], atol=1e-4)


@pytest.mark.slow
def test_folders_of_other_classes_change_no_name_and_are_not_measured(model, tmp_path, capsys):
    for folder, colour in (("blue", 2), ("violet", 2), ("red", 0)):
        write(tmp_path / "images" / folder / "1.png", colour)
    write(tmp_path / "images" / "blue" / "2.png", 0)  # a mistake
    predict_command(
        PredictSettings(
            model=_saved(model, tmp_path),
            dataset=f"folder:{tmp_path / 'images'}",
            output=str(tmp_path / "table.csv"),
        )
    )
    rows = {row["name"]: row for row in read(tmp_path / "table.csv")}
    assert rows["blue/1.png"]["class_1"] == "blue" and rows["blue/2.png"]["class_1"] == "red"
    assert rows["violet/1.png"]["label"] == "violet"
    assert "violet" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "table.metrics.json").read_text())
    assert metrics["num_images"] == 3 and metrics["top1"] == pytest.approx(2 / 3)
    # Rows are the true classes, in the model's order.
    assert metrics["confusion_matrix"] == [[1, 0, 0], [0, 0, 0], [1, 0, 1]]
    assert (tmp_path / "table.mistakes.png").exists()
    assert (tmp_path / "table.confusion.png").exists()


def _saved(model, folder):
    path = folder / "model.keras"
    model.save(path)
    return str(path)


@pytest.mark.slow
def test_several_labels_have_a_probability_each(tmp_path):
    for name, colour in {"a": 2, "b": 0}.items():
        write(tmp_path / f"{name}.png", colour)
    (tmp_path / "labels.csv").write_text("file,label\na.png,blue\nb.png,red|blue\n")
    model = classifier(multi_label=True)
    predict_command(
        PredictSettings(
            model=_saved(model, tmp_path),
            dataset=f"table:{tmp_path / 'labels.csv'}",
            label_separator="|",
            output=str(tmp_path / "table.csv"),
        )
    )
    rows = read(tmp_path / "table.csv")
    for row in rows:
        assert float(row["probability_1"]) == pytest.approx(1 / (1 + np.exp(-6)), abs=1e-4)
        assert float(row["probability_2"]) == pytest.approx(1 / (1 + np.exp(6)), abs=1e-4)
    assert [row["label"] for row in rows] == ["blue", "red|blue"] or rows[1]["label"] == "blue|red"
    metrics = json.loads((tmp_path / "table.metrics.json").read_text())
    assert metrics["micro_f1"] == pytest.approx(0.8)  # two of three found, nothing more


@pytest.mark.slow
@pytest.mark.parametrize("multi_label", [False, True])
def test_an_exported_classifier_gives_the_same(tmp_path, multi_label):
    model = classifier(multi_label)
    for name, colour in {"a": 2, "b": 0, "c": 1}.items():
        write(tmp_path / "images" / f"{name}.png", colour)
    keras_mae.export_encoder(model, tmp_path / "export", fresh_process=False, warmup=False)
    own = keras_mae.predict(model, tmp_path / "images")
    found = keras_mae.predict(tmp_path / "export", tmp_path / "images")
    assert found.names == own.names and found.classes.tolist() == own.classes.tolist()
    np.testing.assert_allclose(found.probabilities, own.probabilities, atol=1e-5)
    keras_mae.export_encoder(model.encoder, tmp_path / "encoder", fresh_process=False, warmup=False)
    with pytest.raises(ValueError, match="`model`"):
        keras_mae.predict(tmp_path / "encoder", tmp_path / "images")


def test_models_without_classes_say_what_to_use(model, tmp_path):
    write(tmp_path / "a.png", 0)
    with pytest.raises(ValueError, match=r"scripts/embed\.py"):
        keras_mae.predict(model.encoder, [tmp_path / "a.png"])
    with pytest.raises(ValueError, match="`model`"):
        keras_mae.predict(tmp_path / "nothing", [tmp_path / "a.png"])
    with pytest.raises(ValueError, match="`image`"):
        keras_mae.predict(model, [tmp_path / "nothing.png"])
