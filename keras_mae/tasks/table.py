"""The table that a pre-training ends with: probe and neighbours of three sets of features."""

from keras_mae.data import eval_dataset
from keras_mae.evaluation.features import extract_features
from keras_mae.evaluation.knn import knn_accuracy
from keras_mae.layers.whitening import Whitening
from keras_mae.pages import Table
from keras_mae.poolings import pooling_words
from keras_mae.tasks.probe import (
    EVAL_BATCH,
    apply_whitening,
    describe_probe,
    encoder_predictor,
    linear_probe,
    pixel_predictor,
    probe_settings,
    view_features,
)

NEIGHBOURS = 20
WHITENED = 64  # components; docs/features.md has what others give


class FeatureTable:
    """Measure sets of features on the same images, by the same probe and the same neighbours.

    Args:
        settings: a complete `PretrainSettings`.
        train, heldout: labelled `Source`s.
        encoder: `ViTEncoder`: the size and statistics that images are seen with.
        skips: `SkipLog`.
    """

    def __init__(self, settings, train, heldout, encoder, skips):
        self.train, self.heldout = train, heldout
        self.jit = settings.jit
        self.pixels = {
            "image_size": encoder.image_size,
            "mean": encoder.mean,
            "std": encoder.std,
            "value_range": encoder.value_range,
            "on_skip": skips,
        }
        self.probe = probe_settings(
            encoder.image_size,
            train.num_examples,
            dataset=settings.dataset,
            seed=settings.seed,
            precision=settings.precision,
        )
        self.k = min(NEIGHBOURS, train.num_examples)
        self.rows, self.whitened_to = {}, 0

    def add_pixels(self, name="raw pixels"):
        """Measure raw pixels."""
        self._add(name, pixel_predictor, lambda features: features)

    def add_encoder(self, name, encoder):
        """Measure an encoder's features; neighbours by the mean of the patches' tokens."""
        pooling, blocks = self.probe.pooling, self.probe.pooled_blocks
        predict = encoder_predictor(encoder, pooling, blocks, self.jit)
        # "both" has the class tokens first.
        skip = blocks * encoder.hidden_dim if pooling == "both" else 0
        self._add(name, predict, lambda features: features[:, skip:])

    def _add(self, name, predict, of_neighbours):
        train, heldout = (
            extract_features(predict, eval_dataset(part, batch_size=EVAL_BATCH, **self.pixels))
            for part in (self.train, self.heldout)
        )
        views = view_features(predict, self.train, self.probe, self.pixels, train)
        classes, count = self.train.num_classes, self.train.num_examples
        near = [(of_neighbours(features), labels) for features, labels in (train, heldout)]
        k = min(self.k, len(train[0]))
        self.rows[name] = {
            "linear_probe": linear_probe(*views, *heldout, classes, self.probe, count),
            "knn": knn_accuracy(*near[0], *near[1], classes, k=k),
        }
        try:
            whitening = Whitening.fitted_to(near[0][0], WHITENED)
        except ValueError:  # images that are all alike
            return
        self.whitened_to = max(self.whitened_to, whitening.num_components)
        near = [(apply_whitening(whitening, features), labels) for features, labels in near]
        self.rows[name]["knn_whitened"] = knn_accuracy(*near[0], *near[1], classes, k=k)

    def results(self):
        """Return what `results.json` has of it."""
        about = describe_probe(self.probe, self.train.num_examples)
        about.update(k=self.k, train=self.train.num_examples, heldout=self.heldout.num_examples)
        about.update(whitened_to=self.whitened_to)
        return {"accuracy": self.rows, "probe": about}


def result_table(results):
    """Return the table of a run's results as a `keras_mae.pages.Table`."""
    about = results.get("probe")
    k = about["k"] if about else NEIGHBOURS
    rows = [
        [name, f"{row['linear_probe']:.1%}", f"{row['knn']:.1%}"]
        for name, row in results["accuracy"].items()
    ]
    return Table(["features", "linear probe", f"{k} nearest neighbours"], rows)


def format_table(results):
    """Return the table of a run's results as lines of text, accuracies in per cent."""
    rows, about = results["accuracy"], results.get("probe")
    width = max(map(len, rows))
    k = about["k"] if about else NEIGHBOURS
    lines = [f"Accuracy on {results.get('measured_on', 'held-out')} images:"]
    has_whitened = any("knn_whitened" in row for row in rows.values())
    heading = f"{'features':<{width}}  linear probe   kNN (k={k})"
    lines.append(heading + "   kNN, whitened" * has_whitened)
    for name, row in rows.items():
        line = f"{name:<{width}}  {row['linear_probe']:>11.1%}  {row['knn']:>11.1%}"
        white = f"{row['knn_whitened']:.1%}" if "knn_whitened" in row else "-"
        lines.append(line + f"  {white:>14}" * has_whitened)
    if about:
        pooling = pooling_words(about["pooling"])
        blocks = "last block" if about["blocks"] == 1 else f"last {about['blocks']} blocks"
        views = f"{about['views']} views" if about["views"] > 1 else "1 view"
        neighbours = "class token" if about["pooling"] == "token" else "mean"
        white = about.get("whitened_to")
        lines.append(
            f"Linear probe: {pooling} of the {blocks}, {views} of each of {about['train']:,} "
            f"images, {about['steps']:,} steps. kNN: {neighbours} of the last block"
            + (f"; whitened: to {white} principal components of these." if white else ".")
        )
    return "\n".join(lines)
