"""Tables of features: each row its own picture's, whatever is broken, cut, or named."""

import csv
import dataclasses
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import keras_mae
from keras_mae import ViTEncoder
from keras_mae.data import TooManyBadImages, load_source
from keras_mae.files import name_text
from keras_mae.settings.embed import EmbedSettings
from keras_mae.tasks import outputs
from keras_mae.tasks.embed import chunks_path, embed_command

RNG = np.random.default_rng(0)
BROKEN = b"\x89PNG\r\n\x1a\n, and no more"


@pytest.fixture(scope="module")
def encoder():
    return ViTEncoder(
        image_size=8, patch_size=2, hidden_dim=8, num_layers=2, num_heads=2, channels=3
    )


@pytest.fixture(scope="module")
def model(encoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "encoder.keras"
    encoder.save(path)
    return str(path)


def write_images(root, count, broken=(), copies=()):
    """Images of one colour each, `00.png` and so on; return their colours by name."""
    root.mkdir(parents=True, exist_ok=True)
    colours = {}
    for number in range(count):
        name = f"{number:02d}.png"
        if number in broken:
            (root / name).write_bytes(BROKEN)
            continue
        colour = RNG.integers(0, 256, 3).astype("uint8")
        if number in copies:
            colour = np.array([200, 10, 90], "uint8")
        colours[name] = colour
        Image.fromarray(np.broadcast_to(colour, (8, 8, 3)).copy()).save(root / name)
    return colours


def expected_features(encoder, colours):
    images = np.stack([np.broadcast_to(colour, (8, 8, 3)) for colour in colours.values()])
    images = (images / 255 - np.array(encoder.mean)) / np.array(encoder.std)
    return np.asarray(encoder(images.astype("float32")))[:, 1:].mean(axis=1)


def settings(model, root, output, **more):
    return EmbedSettings(
        model=model,
        dataset=f"folder:{root}",
        output=str(output),
        **{"batch_size": 4, "max_bad_fraction": 0.9, **more},
    )


def read_features(path):
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return file["names"].tolist(), file["features"]
    if path.suffix == ".npy":
        names = path.with_suffix(".names.txt").read_text().split("\n")
        return names[:-1], np.load(path, allow_pickle=False)
    pandas = pytest.importorskip("pandas")
    table = pandas.read_parquet(path)
    return table["name"].tolist(), np.stack(table["features"].to_list())


@pytest.mark.parametrize(
    "suffix", ["npz", *(pytest.param(s, marks=pytest.mark.slow) for s in ("npy", "parquet"))]
)
def test_every_row_has_its_name_wherever_a_broken_file_stands(
    encoder, model, tmp_path, suffix, monkeypatch
):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    # Chunks of two batches; the first, a whole chunk, one in the middle and the last are broken.
    monkeypatch.setattr(outputs, "CHUNK_IMAGES", 8)
    broken = (0, 8, 9, 10, 11, 12, 13, 14, 15, 19, 25)
    colours = write_images(tmp_path / "images", 26, broken)
    out = tmp_path / f"features.{suffix}"
    embed_command(settings(model, tmp_path / "images", out))
    names, features = read_features(out)
    assert names == list(colours)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected_features(encoder, colours), atol=1e-5)
    with open(tmp_path / "features.skipped.csv", encoding="utf-8", newline="") as file:
        skipped = list(csv.DictReader(file))
    assert [row["name"] for row in skipped] == [f"{number:02d}.png" for number in broken]
    assert all(row["reason"] for row in skipped)
    assert not chunks_path(out).exists()


@pytest.mark.slow
def test_two_lines_of_python_give_the_same(encoder, model, tmp_path, caplog):
    colours = write_images(tmp_path, 5, broken=(2,))
    names, features = keras_mae.embed(model, tmp_path, max_bad_fraction=0.5)
    assert names == list(colours)
    np.testing.assert_allclose(features, expected_features(encoder, colours), atol=1e-5)
    assert "02.png" in caplog.text
    other = keras_mae.embed(encoder, load_source(f"folder:{tmp_path}"), max_bad_fraction=0.5)
    np.testing.assert_array_equal(other.features, features)
    files = [tmp_path / "04.png", tmp_path / "00.png"]
    names, some = keras_mae.embed(encoder, files)
    assert names == ["04.png", "00.png"]
    np.testing.assert_allclose(some, features[[3, 0]], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(model, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(outputs, "CHUNK_IMAGES", 4)
    # What is left after the second chunk cannot be read at all.
    write_images(tmp_path / "images", 15, broken=(1, 9, 10, 11, 12, 13, 14))
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    embed_command(settings(model, tmp_path / "images", whole))
    keep, calls = outputs.Outputs._keep, []

    def keep_two(self, *chunk):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(chunk[0])
        keep(self, *chunk)

    monkeypatch.setattr(outputs.Outputs, "_keep", keep_two)
    with pytest.raises(KeyboardInterrupt):
        embed_command(settings(model, tmp_path / "images", cut))
    assert not cut.exists()
    monkeypatch.setattr(outputs.Outputs, "_keep", keep)
    calls.clear()
    embed_command(settings(model, tmp_path / "images", cut))
    assert cut.read_bytes() == whole.read_bytes()
    beside = [path.with_suffix(".skipped.csv").read_text() for path in (whole, cut)]
    assert beside[0] == beside[1] and beside[0].count("\n") == 8


@pytest.mark.slow
def test_chunks_of_other_images_or_settings_are_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "CHUNK_IMAGES", 4)
    write_images(tmp_path / "images", 6)
    out = tmp_path / "features.npz"
    monkeypatch.setattr(outputs.Outputs, "discard", lambda self: None)
    embed_command(settings(model, tmp_path / "images", out))
    for changes in ({"pooling": "token"}, {"blocks": 2}, {"batch_size": 2, "jit": True}):
        with pytest.raises(ValueError, match="`output`"):
            embed_command(settings(model, tmp_path / "images", out, **changes))
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "more.png")
    with pytest.raises(ValueError, match="images"):
        embed_command(settings(model, tmp_path / "images", out))
    embed_command(settings(model, tmp_path / "images", out, overwrite=True))
    assert len(read_features(out)[0]) == 7


def test_an_output_that_is_there_is_not_replaced(model, tmp_path):
    write_images(tmp_path / "images", 2)
    out = tmp_path / "features.npz"
    out.write_text("something of a person's")
    with pytest.raises(ValueError, match="`output`"):
        embed_command(settings(model, tmp_path / "images", out))
    assert out.read_text() == "something of a person's"


@pytest.mark.slow
def test_too_many_broken_images_stop_it_and_are_named(model, tmp_path):
    write_images(tmp_path / "images", 6, broken=(0, 2, 4))
    with pytest.raises(TooManyBadImages, match=r"0[024]\.png"):
        embed_command(
            settings(model, tmp_path / "images", tmp_path / "f.npz", max_bad_fraction=0.1)
        )
    write_images(tmp_path / "none", 3, broken=(0, 1, 2))
    with pytest.raises(TooManyBadImages):
        embed_command(settings(model, tmp_path / "none", tmp_path / "g.npz", max_bad_fraction=1.0))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_of_any_bytes_are_told_apart(model, tmp_path):
    image = tmp_path / "one.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(image)
    root = os.fsencode(tmp_path / "images")
    names = [b"a/1.png", b"b/1.png", b"b/caf\xe9.png", b"b/caf\\xe9.png", b"b/caf\xc3\xa9.png"]
    names += [b'b/a, "b".png', b"b/two\nlines.png"]
    for name in names:
        os.makedirs(os.path.dirname(root + b"/" + name), exist_ok=True)
        shutil.copy(image, root + b"/" + name)
    for suffix in ("npz", "npy"):
        out = tmp_path / f"features.{suffix}"
        embed_command(settings(model, tmp_path / "images", out))
        found, features = read_features(out)
        assert len(found) == len(set(found)) == len(features) == len(names)
        assert {r"b/caf\xe9.png", r"b/caf\\xe9.png", r"b/two\x0alines.png", "b/café.png"} < set(
            found
        )
        assert 'b/a, "b".png' in found


def test_name_text_keeps_plain_names_and_their_differences():
    names = ["a b.png", "x\\y.png", "caf\udce9", r"caf\xe9", r"caf\\xe9", "\\\udce9", "a\u2028b"]
    texts = [name_text(name) for name in names]
    assert texts[:2] == names[:2]
    assert len(set(texts)) == len(names)
    assert all(len(text.splitlines()) == 1 and text.encode() for text in texts)


@pytest.mark.slow
def test_whitening_is_fitted_to_training_images_and_kept(model, tmp_path):
    write_images(tmp_path / "images" / "train", 20)
    write_images(tmp_path / "images" / "test", 8)
    for name in ("train", "test"):  # splits have classes
        (tmp_path / "images" / name / "a").mkdir()
        for path in (tmp_path / "images" / name).glob("*.png"):
            path.rename(tmp_path / "images" / name / "a" / path.name)
    plain, white = (tmp_path / f"{name}.npz" for name in ("plain", "white"))
    embed_command(settings(model, tmp_path / "images", plain))
    embed_command(settings(model, tmp_path / "images", white, whiten=3))
    names, features = read_features(white)
    of_train = np.array([name.startswith("train") for name in names])
    assert of_train.sum() == 20 and features.shape == (28, 3)
    known = features[of_train]
    np.testing.assert_allclose(known.T @ known / 20, np.eye(3), atol=1e-2)
    assert abs(features[~of_train].mean()) > 1e-3
    # The model beside it does the same to others; the part alone is whitened alike.
    kept = str(tmp_path / "white.model.keras")
    for arguments in ((kept, {}), (model, {"whiten": 3, "part": "heldout"})):
        out = tmp_path / "again.npz"
        embed_command(
            settings(arguments[0], tmp_path / "images", out, overwrite=True, **arguments[1])
        )
        again = dict(zip(*read_features(out), strict=True))
        assert len(again) == (8 if arguments[1] else 28)
        for name, row in zip(names, features, strict=True):
            if name in again:
                np.testing.assert_allclose(again[name], row, atol=2e-3)
    with pytest.raises(ValueError, match="`whiten`"):
        embed_command(settings(kept, tmp_path / "images", tmp_path / "x.npz", whiten=2))


@pytest.mark.slow
def test_neighbours_duplicates_and_outliers_have_their_tables(model, tmp_path, capsys):
    write_images(tmp_path / "images", 12, broken=(3,), copies=(1, 6, 10))
    out = tmp_path / "out" / "features.npz"
    embed_command(
        settings(model, tmp_path / "images", out, neighbors=2, duplicates=0.999999, outliers=True)
    )
    tables = {}
    for name in ("neighbors", "duplicates", "outliers"):
        with open(out.parent / f"{name}.csv", encoding="utf-8", newline="") as file:
            tables[name] = list(csv.DictReader(file))
        assert (out.parent / f"{name}.png").exists()
    names, features = read_features(out)
    near = tables["neighbors"]
    assert [(row["name"], row["rank"]) for row in near] == [(n, r) for n in names for r in "12"]
    copies = {"01.png", "06.png", "10.png"}
    for row in near:
        assert row["name"] != row["neighbor"]
        if row["name"] in copies:
            assert row["neighbor"] in copies and float(row["similarity"]) > 0.999999
    group = [row["name"] for row in tables["duplicates"] if row["group"] == "1"]
    assert set(group) == copies
    distances = [float(row["distance"]) for row in tables["outliers"]]
    assert distances == sorted(distances, reverse=True) and len(distances) == len(names)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    far = 1 - (units @ units.T - np.eye(len(units))).sum(1) / (len(units) - 1)
    assert tables["outliers"][0]["name"] == names[int(far.argmax())]
    assert distances[0] == pytest.approx(far.max(), abs=1e-4)


@pytest.mark.parametrize(
    "name, changes",
    [
        ("output", {"output": "features.csv"}),
        ("pooling", {"pooling": "grid:9"}),
        ("blocks", {"blocks": 3}),
        ("channels", {"channels": 5}),
        ("model", {"model": "nowhere.keras"}),
    ],
)
def test_what_does_not_fit_is_told_before_any_work(model, tmp_path, name, changes):
    write_images(tmp_path / "images", 2)
    given = settings(model, tmp_path / "images", tmp_path / "f.npz")
    changes = {k: str(tmp_path / v) if k == "output" else v for k, v in changes.items()}
    word = {"blocks": "pooled_blocks", "channels": "(model|channels)"}.get(name, name)
    with pytest.raises(ValueError, match=f"`{word}`"):
        embed_command(dataclasses.replace(given, **changes))
    assert not chunks_path(given.output).exists()


@pytest.mark.parametrize(
    "name, changes",
    [
        ("dataset", {"dataset": None}),
        ("dataset", {"image": ("a.png",)}),
        ("holdout", {"holdout": 0.1}),
        ("pooling", {"pooling": "grid:0"}),
        ("duplicates", {"duplicates": 0.0}),
        ("model", {"model": None}),
    ],
)
def test_settings_that_do_not_go_together(name, changes):
    with pytest.raises(ValueError, match=f"`{name}`"):
        EmbedSettings(**{"model": "m", "dataset": "mnist5k", **changes})
