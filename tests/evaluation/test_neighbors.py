"""Neighbours, near-duplicates and distances, with copies and without."""

import numpy as np
import pytest

from keras_mae.evaluation.neighbors import check_search, duplicate_groups, nearest, unit_rows

RNG = np.random.default_rng(0)


def all_nearest(features, k, **options):
    parts = list(nearest(unit_rows(features), k, **options))
    assert [first for first, _, _ in parts] == np.cumsum(
        [0] + [len(p[1]) for p in parts[:-1]]
    ).tolist()
    return np.concatenate([p[1] for p in parts]), np.concatenate([p[2] for p in parts])


def test_they_are_those_of_a_sorted_matrix_of_cosines():
    features = RNG.normal(size=(1500, 8)).astype("float32")  # more than are asked for at a time
    found, similarity = all_nearest(features, 3)
    units = unit_rows(features).astype("float64")
    cosines = units @ units.T
    np.fill_diagonal(cosines, -2)
    np.testing.assert_array_equal(found, np.argsort(-cosines, axis=1)[:, :3])
    np.testing.assert_allclose(similarity, -np.sort(-cosines, axis=1)[:, :3], atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_copies_are_each_others_first_and_nobody_is_its_own(k):
    features = RNG.normal(size=(10, 6)).astype("float32")
    features[[2, 5, 7]] = features[8]  # four copies, more than k asks for
    found, similarity = all_nearest(features, k)
    assert found.shape == (10, k)
    for row in range(10):
        assert row not in found[row] and len(set(found[row])) == k
    copies = {2, 5, 7, 8}
    for row in copies:
        first = found[row][: min(k, 3)]
        assert set(first) <= copies - {row}
        np.testing.assert_allclose(similarity[row][: len(first)], 1, atol=1e-6)


def test_length_of_features_does_not_matter_and_zeros_do_no_harm():
    features = np.array([[1, 0], [5, 0.1], [0, 3], [0, 0]], "float32")
    found, similarity = all_nearest(features, 1)
    assert found[0] == 1 and found[1] == 0 and np.isfinite(similarity).all()


@pytest.mark.parametrize("k", [0, 4])
def test_as_many_neighbours_as_images_are_refused(k):
    with pytest.raises(ValueError, match="`neighbors`"):
        next(nearest(unit_rows(RNG.normal(size=(4, 2))), k))


def test_duplicates_are_joined_by_way_of_others():
    angles = np.deg2rad([0, 5, 10, 50, 90, 50])
    features = np.stack([np.cos(angles), np.sin(angles)], 1).astype("float32")
    groups = duplicate_groups(features, np.cos(np.deg2rad(6)))
    _, inverse = np.unique(groups, return_inverse=True)
    assert inverse[0] == inverse[1] == inverse[2] and inverse[3] == inverse[5]
    assert len(set(groups)) == 3
    assert len(set(duplicate_groups(features, 1.0))) == 5  # the two that are equal


def test_duplicates_far_apart_in_a_large_set_are_found():
    features = unit_rows(RNG.normal(size=(9500, 4)).astype("float32") ** 3)
    features[[0, 4000, 9499]] = features[17]
    groups = duplicate_groups(features, 1 - 1e-9)
    assert len({groups[i] for i in (0, 17, 4000, 9499)}) == 1
    cosines = features[[0]] @ features.T
    assert np.sum(groups == groups[0]) == np.sum(cosines >= 1 - 2e-6)


def test_an_unknown_search_is_refused():
    with pytest.raises(ValueError, match="`search`"):
        check_search("approximate")


@pytest.mark.slow
def test_faiss_finds_most_of_them():
    pytest.importorskip("faiss")
    centres = RNG.normal(size=(40, 16))
    features = np.repeat(centres, 60, axis=0) + 0.3 * RNG.normal(size=(2400, 16))
    exact, _ = all_nearest(features, 5)
    found, _ = all_nearest(features, 5, search="faiss")
    assert found.shape == exact.shape
    assert not (found == np.arange(2400)[:, None]).any()
    shared = [len(set(a) & set(b)) / 5 for a, b in zip(exact, found, strict=True)]
    assert np.mean(shared) > 0.9
