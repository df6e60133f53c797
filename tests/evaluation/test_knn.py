import numpy as np
import pytest

from keras_mae.evaluation.knn import knn_accuracy, knn_predict

TRAIN = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
LABELS = np.array([0, 1, 1])


def test_votes_are_weighted_by_exponential_similarity():
    # Similarities to (2, 1): 2/sqrt(5), and twice 1/sqrt(5). Cold, the nearest one wins; hot, two
    # far neighbours outvote it: exp(.894) < 2 exp(.447).
    query = [[2.0, 1.0]]
    assert knn_predict(TRAIN, LABELS, query, 2, ks=(3,), temperature=0.1)[3] == [0]
    assert knn_predict(TRAIN, LABELS, query, 2, ks=(3,), temperature=1.0)[3] == [1]


def test_all_ks_in_one_pass_equal_one_pass_each_and_chunks_change_nothing():
    rng = np.random.default_rng(0)
    train, queries = rng.normal(size=(50, 4)), rng.normal(size=(23, 4))
    labels = rng.integers(0, 5, 50)
    together = knn_predict(train, labels, queries, 5, ks=(1, 7, 50), chunk=5)
    for k, predicted in together.items():
        np.testing.assert_array_equal(predicted, knn_predict(train, labels, queries, 5, (k,))[k])
    nearest = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        train / np.linalg.norm(train, axis=1, keepdims=True)
    ).T
    np.testing.assert_array_equal(together[1], labels[nearest.argmax(axis=1)])


def test_length_of_features_does_not_matter():
    assert knn_accuracy(TRAIN, LABELS, 100 * TRAIN, LABELS, 2, k=1) == 1.0


@pytest.mark.parametrize("ks", [(0,), (1, 4)])
def test_k_outside_the_training_set_is_refused(ks):
    with pytest.raises(ValueError, match="`ks`"):
        knn_predict(TRAIN, LABELS, TRAIN, 2, ks=ks)


def test_label_outside_the_classes_is_refused():
    with pytest.raises(ValueError, match="`train_labels`"):
        knn_predict(TRAIN, LABELS, TRAIN, 1, ks=(1,))
