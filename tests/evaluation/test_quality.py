import numpy as np
import pytest

from keras_mae.evaluation.quality import rankme, ridge_accuracy, variance_share


def matrix(singular_values, rows=40, columns=6):
    """Return a matrix with given singular values."""
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(rows, rows)))
    right, _ = np.linalg.qr(rng.normal(size=(columns, columns)))
    scales = np.zeros((rows, columns))
    np.fill_diagonal(scales, singular_values)
    return left @ scales @ right


@pytest.mark.parametrize(
    "values, expected",
    [
        ([1, 1, 1, 1, 1, 1], 6),
        ([5, 0, 0, 0, 0, 0], 1),
        ([2, 2, 2, 0, 0, 0], 3),
        # Shares 1/2, 1/4, 1/4: an entropy of 1.5 bits.
        ([8, 4, 4, 0, 0, 0], 2**1.5),
    ],
)
def test_rankme_of_singular_values_that_are_known(values, expected):
    assert rankme(matrix(values)) == pytest.approx(expected, rel=1e-4)


def test_rankme_is_the_papers_formula():
    features = np.random.default_rng(1).normal(size=(50, 7)) * np.arange(1, 8)
    s = np.linalg.svd(features, compute_uv=False)
    p = s / np.abs(s).sum() + 1e-7
    assert rankme(features) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-12)
    assert rankme(100 * features) == pytest.approx(rankme(features), rel=1e-9)
    assert rankme(np.zeros((5, 3))) == pytest.approx(1, abs=1e-4)


def test_variance_share_of_variances_that_are_known():
    # Columns of mean 0, orthogonal, with variances in the ratio 9 : 4 : 1.
    signs = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], "float64")
    features = signs * [3, 2, 1] + [7, 8, 9]  # a mean changes nothing
    assert variance_share(features, 1) == pytest.approx(9 / 14)
    assert variance_share(features, 2) == pytest.approx(13 / 14)
    assert variance_share(features, 10) == pytest.approx(1)
    assert variance_share(np.ones((4, 2)), 1) == 1


def test_variance_share_is_that_of_the_covariance():
    features = np.random.default_rng(2).normal(size=(60, 9)) * np.arange(1, 10)
    values = np.sort(np.linalg.eigvalsh(np.cov(features.T)))[::-1]
    assert variance_share(features, 4) == pytest.approx(values[:4].sum() / values.sum())


def test_the_quick_classifier_tells_separable_features_from_noise():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    good = 50 + 1000 * np.eye(3)[labels] + 100 * rng.normal(size=(300, 3))
    noise = rng.normal(size=(300, 3))

    def accuracy(features):
        return ridge_accuracy(features[:200], labels[:200], features[200:], labels[200:])

    assert accuracy(good) > 0.99 and accuracy(good) == accuracy(good)
    assert accuracy(noise) < 0.6
