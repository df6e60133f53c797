"""Which images are trained on, held out, and tested on."""

import shutil

import numpy as np
import pytest

from keras_mae.data import SkipLog, eval_dataset, load_source, open_parts
from keras_mae.data.parts import labelled, missing_labels_note
from keras_mae.data.sources import EncodedSource


class Marked(EncodedSource):
    """Twelve images of one grey each: the first eight to train on, two each for the rest."""

    num_classes, class_names = 2, ["even", "odd"]
    own_parts = {
        "train": np.arange(8),
        "validation": np.array([8, 9]),
        "test": np.array([10, 11]),
    }

    def __init__(self, argument="", *, seed=0):
        super().__init__(12, seed=seed)
        self.own_parts = {
            name: records for name, records in self.own_parts.items() if name in argument
        }

    def key(self, record):
        return str(record)

    def record_labels(self):
        return np.where(np.arange(12) == 3, -1, np.arange(12) % 2)

    def read(self, record):
        return np.full((8, 8, 3), 20 * record, "uint8"), None


SPEC = f"{__name__}:Marked:"


def records(part):
    return None if part is None else part.indices.tolist()


@pytest.mark.parametrize(
    ("own", "holdout", "heldout", "test"),
    [
        ("train+validation+test", None, [8, 9], [10, 11]),
        ("train+validation", None, [8, 9], None),
        ("train+test", None, [10, 11], None),
        ("train+test", 0.25, None, [10, 11]),
        ("train", 0.25, None, None),
        ("train+validation+test", 0.25, None, [10, 11]),
    ],
)
def test_own_parts_are_used_for_what_they_are_named(own, holdout, heldout, test):
    parts = open_parts(SPEC + own, holdout=holdout)
    assert records(parts.test) == test
    if heldout is None:  # a share of the training images, of each class
        heldout = records(parts.heldout)
        assert len(heldout) in (2, 3) and set(heldout) < set(range(8))
    assert records(parts.heldout) == heldout
    assert records(parts.train) == [r for r in range(8) if r not in heldout]
    assert set(parts.each()) == set(parts.origin)
    assert len(parts.lines()) == len(parts.each())
    assert parts.facts()["parts"]["train"]["images"] == parts.train.num_examples


def test_other_data_sets_take_the_place_of_a_part(make_classes, tmp_path, picture):
    spec = f"folder:{make_classes(4, 4)}"
    for name in ("validation", "test"):
        for label in ("class0", "class1"):
            (tmp_path / name / label).mkdir(parents=True)
            picture(20, 24, seed=len(name)).save(tmp_path / name / label / "a.png")
    others = {f"{name}_dataset": f"folder:{tmp_path / name}" for name in ("validation", "test")}
    parts = open_parts(spec, **others)
    assert [part.num_examples for part in parts.each().values()] == [8, 2, 2]
    assert parts.origin["heldout"] == others["validation_dataset"]
    # A share is held out where only test images are named.
    parts = open_parts(spec, test_dataset=others["test_dataset"], holdout=0.25)
    assert [part.num_examples for part in parts.each().values()] == [6, 2, 2]
    assert sorted(parts.heldout.labels()) == [0, 1]
    with pytest.raises(ValueError, match="`holdout`"):
        open_parts(spec, holdout=0.1, **others)

    shutil.move(tmp_path / "test/class1", tmp_path / "test/class2")
    with pytest.raises(ValueError, match="`test_dataset`.*class1.*class2"):
        open_parts(spec, **others)


def test_images_without_a_label_are_left_out_where_labels_are_needed():
    parts = open_parts(SPEC + "train+validation")
    assert 3 in records(parts.train)
    assert missing_labels_note(parts).startswith("1 image")
    assert records(labelled(parts).train) == [0, 1, 2, 4, 5, 6, 7]
    batches = eval_dataset(parts.train, image_size=8, batch_size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    ((images, labels),) = [(np.asarray(x), np.asarray(y)) for x, y in batches]
    np.testing.assert_array_equal(labels, np.round(images[:, 0, 0, 0] * 255 / 20) % 2)
    assert len(labels) == 7


def test_a_copy_among_the_held_out_is_counted_and_named(make_classes):
    folder = make_classes(6, 6)
    source = load_source(f"folder:{folder}")
    train, heldout = source.split()
    shutil.copy(train.path(train.indices[2]), heldout.path(heldout.indices[0]))
    (note,) = [note for note in open_parts(f"folder:{folder}").notes if "byte" in note]
    assert note.startswith("1 training image") and train.path(train.indices[2]) in note
    train.path(train.indices[2])
    (heldout.root / heldout.key(heldout.indices[0])).write_bytes(b"another")
    assert not open_parts(f"folder:{folder}").notes


def test_the_share_of_broken_images_is_that_of_all_parts(make_folder, tmp_path):
    folder = make_folder(40)
    parts = open_parts(f"folder:{folder}")
    held = parts.heldout.indices[0]
    with open(parts.heldout.path(held), "wb") as file:
        file.write(b"broken")
    settings = {"image_size": 8, "batch_size": 4, "mean": parts.train.mean, "std": parts.train.std}
    log = SkipLog(max_bad_fraction=0.1)
    # One of two held out is broken, and one of forty images.
    assert len(list(eval_dataset(parts.heldout, with_labels=False, on_skip=log, **settings))) == 1
    with pytest.raises(Exception, match="max_bad_fraction"):
        log = SkipLog(max_bad_fraction=0.02)
        list(eval_dataset(parts.heldout, with_labels=False, on_skip=log, **settings))


class Ramp(Marked):
    """The same, of 16 bits; those that are not trained on are brighter."""

    def read(self, record):
        value = 4000 if record >= 8 else 10 * record
        return np.full((8, 8, 1), value, "uint16"), None


def test_range_and_statistics_are_of_the_training_images():
    parts = open_parts(f"{__name__}:Ramp:train+validation+test")
    assert parts.train.value_range == (0, 127)
    for part in parts.each().values():
        assert part.sensor == parts.train.sensor
    assert parts.train.mean[0] == pytest.approx(35 / 127, abs=1e-5)
    assert load_source(f"{__name__}:Ramp:train").value_range == (0, 4095)


def test_a_class_that_no_training_image_has_is_named(tmp_path, picture):
    rows = ["file,label,split"]
    for number, (label, split) in enumerate(
        [("cat", "train"), ("dog", "train"), ("cat", "train"), ("bird", "test"), ("dog", "test")]
    ):
        picture(20, 24, seed=number).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{label},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    (note,) = open_parts(f"table:{tmp_path}/labels.csv").notes
    assert "bird" in note and "cat" not in note
