"""Whole runs on images that are no 8-bit colours, with splits, and with several labels."""

import csv
import json

import keras
import numpy as np
import pytest
import tifffile
from PIL import Image

import keras_mae
from keras_mae.commands.looking import reconstruct
from keras_mae.settings.tools import ReconstructSettings

pytestmark = [pytest.mark.runs, pytest.mark.slow]

FEW = {"steps": 2, "batch_size": 8, "jit": False, "image_size": (28,)}
BANDS = 5


def bands(label, number):
    """A picture of 12 bits and five bands; of the second class it is darker."""
    rng = np.random.default_rng([label, number])
    return (rng.random((28, 28, BANDS)) * (4000 if label == 0 else 2000)).astype("uint16")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A folder of train, val and test with two classes each, of TIFFs of five bands."""
    root = tmp_path_factory.mktemp("scenes")
    for part, count in (("train", 8), ("val", 4), ("test", 6)):
        for label, name in enumerate(("fields", "water")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = bands(label, 100 * len(part) + number)
                tifffile.imwrite(
                    folder / f"{number}.tif",
                    pixels,
                    photometric="minisblack",
                    planarconfig="contig",
                )
    tifffile.imwrite(root / "train/water/odd.tif", np.zeros((28, 28, 3), "uint16"))
    return root


@pytest.fixture(scope="module")
def pretrained(scenes, small_preset, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "mae"
    results = keras_mae.pretrain(
        keras_mae.PretrainSettings(
            dataset=f"folder:{scenes}", output_dir=str(out), figure_bands=(3, 2, 1), **FEW
        )
    )
    return out, results


def test_bands_and_range_go_from_the_files_to_the_export(scenes, pretrained):
    out, results = pretrained
    config = json.loads((out / "config.json").read_text())
    parts = {name: part["images"] for name, part in config["parts"].items()}
    assert parts == {"train": 17, "heldout": 8, "test": 12}
    assert config["class_names"] == ["fields", "water"]
    assert {"heldout_loss", "test_loss"} <= set(results) and results["measured_on"] == "test"
    (skipped,) = (out / "skipped.jsonl").read_text().splitlines()
    assert "odd.tif" in skipped and "5 channels" in skipped

    encoder = keras_mae.load_encoder(out)
    assert (encoder.channels, encoder.value_range) == (BANDS, (0.0, 4095.0))
    assert all(0.2 < mean < 0.5 for mean in encoder.mean)
    card = json.loads((out / "encoder/1/card.json").read_text())
    assert card["value_range"] == [0, 4095] and card["pixel_dtype"] == "uint16"
    layer = keras.layers.TFSMLayer(str(out / "encoder/1"), call_endpoint="serving_uint16")
    pixels = bands(0, 7)[None]
    served = layer(pixels)
    inputs = (pixels / 4095 - encoder.mean) / encoder.std
    tokens = np.asarray(encoder(inputs.astype("float32")))
    np.testing.assert_allclose(np.asarray(served["tokens"]), tokens, atol=2e-5)

    reconstruct(
        ReconstructSettings(
            model=str(out),
            image=(str(scenes / "test/water/1.tif"),),
            output=str(out / "one.png"),
            figure_bands=(5,),
        )
    )
    assert Image.open(out / "one.png").width > 100


def test_fine_tuning_reports_on_the_test_images_by_name(scenes, pretrained, tmp_path):
    settings = keras_mae.FinetuneSettings(
        encoder=str(pretrained[0]),
        dataset=f"folder:{scenes}",
        output_dir=str(tmp_path / "out"),
        steps=60,
        batch_size=8,
        jit=False,
    )
    results = keras_mae.finetune(settings)
    assert results["measured_on"] == "test" and results["heldout_examples"] == 12
    assert [row["name"] for row in results["classes"]] == ["fields", "water"]
    assert [row["images"] for row in results["classes"]] == [6, 6]
    assert results["top1"] == results["macro_f1"] == 1.0  # one class is twice as bright
    model = keras.models.load_model(tmp_path / "out/model.keras")
    assert model.class_names == ["fields", "water"]
    assert model.encoder.value_range == (0.0, 4095.0)


def test_several_labels_an_image(small_preset, tmp_path):
    rng = np.random.default_rng(0)
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "bright", "red"])
        for number in range(60):
            bright, red = rng.integers(0, 2, 2)
            pixels = rng.integers(0, 60, (28, 28, 3)) + 120 * bright
            pixels[..., 0] += 70 * red
            Image.fromarray(pixels.astype("uint8")).save(tmp_path / f"{number}.png")
            table.writerow([f"{number}.png", bright, red])
    settings = keras_mae.FinetuneSettings(
        protocol="scratch",
        dataset=f"table:{tmp_path}/labels.csv",
        label_column="bright,red",
        holdout=0.25,
        output_dir=str(tmp_path / "out"),
        steps=150,
        batch_size=15,
        jit=False,
    )
    results = keras_mae.finetune(settings)
    assert [row["name"] for row in results["classes"]] == ["bright", "red"]
    for name in ("macro_auroc", "map", "macro_f1", "micro_f1"):
        assert results[name] > 0.8, (name, results[name])
    assert results["heldout_examples"] == 15 and "top1" not in results
    assert results["val_curve"][-1] > 0.8
    # The model that was saved gives the same.
    model = keras.models.load_model(tmp_path / "out/model.keras")
    assert model.num_classes == 2 and model.class_names == ["bright", "red"]
