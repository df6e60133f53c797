"""What features are worth, in a moment: their rank, their variance, a classifier in closed form."""

import numpy as np

COMPONENTS = 10
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


def rankme(features: np.ndarray, epsilon: float = 1e-7) -> float:
    """Return the effective rank of features: how many directions they use, no labels needed.

    It is `exp(-sum_k p_k log p_k)` with `p_k = s_k / sum(s) + epsilon` of the singular values s.

    Args:
        features: float `(n, D)`, as they are: nothing is subtracted.
        epsilon: float above 0.
    Returns:
        float from about 1, all features are multiples of one, to about min(n, D), all directions
        are used alike. Compare values of the same n and D only.
    Example:
        rankme(np.eye(4))  # 4.0
    Reference: Garrido et al. 2022, arXiv:2210.02885, equation 1.
    """
    values = np.linalg.svd(np.asarray(features, "float64"), compute_uv=False)
    shares = values / max(values.sum(), np.finfo("float64").tiny) + epsilon
    return float(np.exp(-np.sum(shares * np.log(shares))))


def variance_share(features: np.ndarray, components: int = COMPONENTS) -> float:
    """Return the share of the variance that lies in the first principal components.

    Args:
        features: float `(n, D)`.
        components: int of at least 1.
    Returns:
        float in [0, 1]; 1 where there is no variance.
    Example:
        variance_share(features)  # 0.93: few directions dominate
    """
    features = np.asarray(features, "float64")
    values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False) ** 2
    total = values.sum()
    return float(values[:components].sum() / total) if total > 0 else 1.0


def ridge_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
) -> float:
    """Return the accuracy of a linear classifier in closed form, on standardised features.

    Ridge regression to the classes, with the penalty of `PENALTIES` that leaving out one training
    image at a time finds best. It takes no steps and has no seed, and is some points below
    `keras_mae.tasks.probe`, the probe of tables.

    Args:
        train_features, train_labels: float `(n, D)` and int `(n,)`, of two classes or more.
        features, labels: float `(m, D)` and int `(m,)`, held out.
    Returns:
        float in [0, 1], top-1 accuracy.
    """
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), RidgeClassifierCV(PENALTIES))
    classifier.fit(np.asarray(train_features, "float64"), np.asarray(train_labels))
    predicted = classifier.predict(np.asarray(features, "float64"))
    return float(np.mean(predicted == np.asarray(labels)))
