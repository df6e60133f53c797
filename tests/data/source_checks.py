"""What holds for every source. A new one's test is a subclass of three lines:

    class TestMine(SourceChecks):
        spec = "my_module:Mine:argument"

or, where the images must be made first, one with a fixture `source` of its own. A source of files
by name is a subclass of `FileSourceChecks`, which says how files become one.
"""

import concurrent.futures
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from keras_mae.data import ArraySource, eval_dataset, load_source, pretrain_dataset


class SourceChecks:
    spec = None

    @pytest.fixture
    def source(self):
        return load_source(self.spec)

    @staticmethod
    def few(source):
        """Ten examples from all over the source, or all that it has."""
        count = min(10, source.num_examples)
        return source.subset(np.linspace(0, source.num_examples - 1, count).astype(int))

    @staticmethod
    def settings(source):
        return {"image_size": 16, "batch_size": 4, "mean": source.mean, "std": source.std}

    @pytest.mark.slow
    def test_the_batch_of_a_step_is_the_same_from_any_start(self, source):
        few = self.few(source)

        def batches(start, count):
            return [
                batch.numpy()
                for batch in pretrain_dataset(
                    few, start_step=start, seed=3, **self.settings(few)
                ).take(count)
            ]

        whole = batches(0, 7)
        assert whole[0].shape == (4, 16, 16, source.channels)
        for expected, received in zip(whole[4:], batches(4, 3), strict=True):
            np.testing.assert_array_equal(received, expected)
        assert not np.array_equal(whole[0], whole[1])

    def test_keys_are_unique_and_tell_sets_apart(self, source):
        keys = [source.key(record) for record in source.indices]
        assert len(set(keys)) == source.num_examples > 1
        assert all(isinstance(key, str) for key in keys)
        assert source.fingerprint() == source.subset(range(source.num_examples)).fingerprint()
        assert source.fingerprint() != source.subset(range(1, source.num_examples)).fingerprint()

    def test_a_subset_has_the_examples_asked_for_in_their_order(self, source):
        part = source.subset([1, 0])
        assert part.num_examples == 2 and part.channels == source.channels
        assert [part.key(record) for record in part.indices] == [source.key(1), source.key(0)]

    def test_labels_are_those_of_the_images(self, source):
        few, known = self.few(source), source.labels()
        if source.num_classes is None:
            assert known is None
            # Those of label maps and boxes are known before a task is chosen.
            assert source.class_names is None or "classify" not in source.tasks
            return
        assert len(source.class_names) == source.num_classes
        batches = eval_dataset(few, with_labels=True, **self.settings(few))
        labels = np.concatenate([labels for _, labels in batches])
        if source.multi_label:
            assert source.record_labels().dtype == np.uint8 and source.read(0)[1] is None
            assert labels.shape[1] == source.num_classes and set(labels.flat) <= {-1, 0, 1}
        else:
            assert labels.min() >= 0 and labels.max() < source.num_classes
        if known is not None:
            assert known.dtype == np.int64 and len(known) == source.num_examples
            np.testing.assert_array_equal(labels, few.labelled().labels())

    def test_the_parts_of_a_split_are_disjoint_and_make_up_the_whole(self, source):
        train, heldout = source.split()
        assert min(train.num_examples, heldout.num_examples) > 0
        both = np.concatenate([train.indices, heldout.indices])
        np.testing.assert_array_equal(np.sort(both), source.indices)
        assert source.split()[1].fingerprint() == heldout.fingerprint()

    def test_its_statistics_and_sizes_fit_its_images(self, source):
        assert len(source.mean) == len(source.std) == source.channels
        height, width = source.typical_size(sample=8)
        assert isinstance(height, int) and min(height, width) > 0
        if source.image_size is not None:
            assert (height, width) == tuple(source.image_size)

    def test_its_own_parts_are_disjoint_and_make_up_the_whole(self, source):
        if source.own_parts is None:
            return
        assert set(source.own_parts) <= {"train", "validation", "test"}
        assert len(source.own_parts["train"]) > 0
        every = np.concatenate(list(source.own_parts.values()))
        np.testing.assert_array_equal(np.sort(every), np.arange(source.num_examples))

    def test_eight_threads_read_the_same_bytes_as_one(self, source):
        if isinstance(source, ArraySource):
            return
        records = [int(record) for record in self.few(source).indices] * 20
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            together = list(pool.map(source.read, records))
        for record, (data, label) in zip(records, together, strict=True):
            alone, known = source.read(record)
            assert np.array_equal(data, alone) and label == known

    def test_sizes_in_bytes_are_those_of_the_content(self, source):
        for record in self.few(source).indices:
            size = source.record_bytes(int(record))
            if size is not None:
                data, _ = source.read(int(record))
                assert size == (data.nbytes if isinstance(data, np.ndarray) else len(data))

    def test_its_notes_are_lines(self, source):
        assert all(note and "\n" not in note for note in source.notes)


def png(seed):
    """The bytes of a small PNG, another for each seed."""
    file = io.BytesIO()
    pixels = np.random.RandomState(seed).randint(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class FileSourceChecks(SourceChecks):
    """What holds for every source that has its images by name."""

    def make(self, folder, files):
        """Write files under a folder in the source's own form; return the spec.

        Args:
            folder: path.
            files: dict of relative name, as `os.fsdecode` gives it, to bytes. The class of an
                image is its top folder.
        """
        raise NotImplementedError

    @pytest.fixture
    def files(self):
        names = [f"{label}/{number:02d}.png" for label in ("cat", "dog") for number in range(6)]
        return {name: png(seed) for seed, name in enumerate(names)}

    @pytest.fixture
    def source(self, files, tmp_path):
        return load_source(self.make(tmp_path, files))

    def contents(self, source):
        """Dict of the bytes of each image to the name of its class."""
        reads = (source.read(record) for record in range(source.num_examples))
        return {data: source.class_names[label] for data, label in reads}

    def test_all_files_are_there_with_their_classes(self, source, files):
        expected = {data: name.split("/")[0] for name, data in files.items()}
        assert self.contents(source) == expected
        assert source.class_names == ["cat", "dog"]

    def test_what_systems_leave_behind_is_left_out(self, files, tmp_path):
        strays = ("cat/._00.png", "__MACOSX/cat/00.png", ".hidden/1.png", "dog/@eaDir/1.png")
        whole = {**files, **{name: b"no image" for name in strays}}
        source = load_source(self.make(tmp_path, whole))
        assert set(self.contents(source)) == set(files.values())

    def test_a_name_that_is_not_utf8_is_one_like_any_other(self, files, tmp_path):
        odd = os.fsdecode(b"caf\xe9/\xe9t\xe9.png")
        data = png(99)
        source = load_source(self.make(tmp_path, {**files, odd: data, "gr\u00fcn/1.png": png(98)}))
        assert source.num_examples == len(files) + 2
        assert self.contents(source)[data] == "caf\\udce9" and "gr\u00fcn" in source.class_names
        assert source.fingerprint() and source.split()[1].num_examples
        (record,) = [r for r in range(source.num_examples) if source.read(r)[0] == data]
        assert os.fsencode(source.key(record)).count(b"\xe9") >= 3
        assert json.loads(json.dumps(source.path(record))) == source.path(record)

    def test_a_set_that_moved_has_the_same_keys(self, files, tmp_path):
        keys = []
        for place in ("here", "there"):
            (tmp_path / place).mkdir()
            source = load_source(self.make(tmp_path / place, files))
            keys.append([source.key(record) for record in range(source.num_examples)])
        assert keys[0] == keys[1]
