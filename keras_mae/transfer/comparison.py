"""The small table at the end of pre-training: did it help, and against what?"""

from keras_mae.transfer.features import extract_features, raw_pixels
from keras_mae.transfer.knn import knn_accuracy
from keras_mae.transfer.linear_probe import linear_probe


def compare_features(feature_sets, num_classes, seed=0):
    """Evaluate sets of features by linear probe and nearest neighbours.

    Args:
        feature_sets: dict of name to ((features, labels) of training, the same held out).
        num_classes: int.
        seed: int. Fixes the probe.
    Returns:
        dict of name to {"linear_probe": accuracy, "knn": accuracy}, in [0, 1].
    """
    results = {}
    for name, (train, heldout) in feature_sets.items():
        results[name] = {
            "linear_probe": linear_probe(*train, *heldout, num_classes, seed=seed),
            "knn": knn_accuracy(*train, *heldout, num_classes),
        }
    return results


def encoder_features(encoder, datasets, pooling="mean"):
    """Return `extract_features` of each of the data sets by a `ViTEncoder`."""
    return tuple(extract_features(encoder.predict_on_batch, d, pooling) for d in datasets)


def pixel_features(datasets):
    """Return `raw_pixels` of each of the data sets."""
    return tuple(raw_pixels(dataset) for dataset in datasets)


def format_table(results):
    """Return the results of `compare_features` as lines of text, accuracies in per cent."""
    width = max(map(len, results))
    lines = [f"{'features':<{width}}  linear probe   kNN (k=20)"]
    for name, row in results.items():
        lines.append(f"{name:<{width}}  {row['linear_probe']:>11.1%}  {row['knn']:>11.1%}")
    return "\n".join(lines)
