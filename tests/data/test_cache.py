"""Decoded images in memory: each is decoded once, and nothing else changes."""

import numpy as np
import pytest

from keras_mae.data import SkipLog, eval_dataset, load_source, pretrain_dataset
from keras_mae.data.cache import PixelCache, memory_for
from keras_mae.data.handle import Handle
from keras_mae.data.stream import CHUNK


@pytest.fixture
def folder(tmp_path, picture):
    for number in range(4):
        picture(60 + number, 80).save(tmp_path / f"{number}.png")
    picture(64, 70).save(tmp_path / "small.jpg", quality=90)
    picture(200, 300).save(tmp_path / "large.jpg", quality=90)
    return tmp_path


def counted(source):
    """The same source, and the records that are read of it."""
    read, records = source.read, []
    source.read = lambda record: (records.append(record), read(record))[1]
    return source, records


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
def test_kept_images_give_the_same_batches_and_are_read_once(folder, resize):
    source = load_source(f"folder:{folder}")
    look = {"image_size": (40, 48), "mean": source.mean, "std": source.std}
    settings = {**look, "batch_size": 6, "resize": resize, "prefetch": 0, "num_parallel_calls": 1}

    def batches(source, start=0):
        dataset = pretrain_dataset(source, start_step=start, **settings)
        return list(dataset.take(4 - start).as_numpy_iterator())

    plain = batches(source)
    kept, records = counted(source.kept(1e9, (40, 48) if resize == "bilinear" else None))
    for expected, found in zip(plain, batches(kept), strict=True):
        np.testing.assert_array_equal(found, expected)
    # After the first images that are made at a time only what may be decoded smaller is read.
    later = {source.path(record).rpartition("/")[2] for record in records[CHUNK:]}
    assert later == ({"large.jpg"} if resize == "bilinear" else set())
    # Another view of the same images, and a part of them, have the same cache.
    seen = len(records)
    part = kept.subset([0, 1, 2])
    (images,) = eval_dataset(part, batch_size=3, with_labels=False, **look)
    assert len(records) == seen
    (expected,) = eval_dataset(source.subset([0, 1, 2]), batch_size=3, with_labels=False, **look)
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(batches(kept, 2)[0], plain[2])


def test_a_full_cache_keeps_what_it_has():
    cache = PixelCache(250, None)
    for record in range(3):
        cache.keep(record, Handle(np.full((10, 10, 1), record, "uint8")), record)
    assert cache.num_bytes == 200 and cache.get(2) is None
    pixels, label = cache.get(1)
    assert label == 1 and (pixels == 1).all()
    cache.keep(1, Handle(np.zeros((10, 10, 1), "uint8")), 5)
    assert cache.num_bytes == 200


def test_auto_keeps_all_or_none(monkeypatch):
    monkeypatch.setattr("keras_mae.data.cache.free_memory", lambda: 8e9)
    assert memory_for("auto", 2e9)[0] == 2e9
    assert memory_for("auto", 2.1e9) == (0, "")
    assert memory_for("memory", 9e9) == (
        6e9,
        "Decoded images stay in memory: about 6 GB of 8 GB that are free.",
    )
    assert memory_for("none", 1) == (0, "")


@pytest.mark.slow
def test_a_broken_image_is_not_kept(folder):
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    source, records = counted(load_source(f"folder:{folder}").kept(1e9, None))
    look = {"image_size": 32, "batch_size": 7, "mean": source.mean, "std": source.std}
    look["on_skip"] = SkipLog(max_bad_fraction=1)
    for _ in range(2):
        images = np.concatenate(list(eval_dataset(source, with_labels=False, **look)))
        assert len(images) == 6
    broken = [record for record in records if source.path(record).endswith("broken.png")]
    assert len(broken) == 2
