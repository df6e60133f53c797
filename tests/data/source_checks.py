"""What holds for every source. A new one's test is a subclass of three lines:

    class TestMine(SourceChecks):
        spec = "my_module:Mine:argument"

or, where the images must be made first, one with a fixture `source` of its own.
"""

import numpy as np
import pytest

from keras_mae.data import eval_dataset, load_source, pretrain_dataset


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
            assert known is None and source.class_names is None
            return
        batches = eval_dataset(few, with_labels=True, **self.settings(few))
        labels = np.concatenate([labels for _, labels in batches])
        assert labels.min() >= 0 and labels.max() < source.num_classes
        assert len(source.class_names) == source.num_classes
        if known is not None:
            assert known.dtype == np.int64 and len(known) == source.num_examples
            np.testing.assert_array_equal(labels, few.labels())

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
