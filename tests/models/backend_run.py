"""Run by `test_backends.py` on another Keras backend, where TensorFlow cannot be imported.

Usage: KERAS_BACKEND=jax python backend_run.py INPUT.npz OUTPUT.npz
"""

import importlib
import importlib.util
import sys
from pathlib import Path


class WithoutTensorFlow:
    """A finder of modules, as it is where TensorFlow is not installed."""

    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            return None
        return self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)


sys.meta_path[:] = map(WithoutTensorFlow, sys.meta_path)

import keras  # noqa: E402
import numpy as np  # noqa: E402
from tiny import images, label_maps, objects, tiny  # noqa: E402

from keras_mae.evaluation.features import extract_features, raw_pixels  # noqa: E402
from keras_mae.evaluation.knn import knn_accuracy  # noqa: E402
from keras_mae.interop import load_pretrained, save_pretrained  # noqa: E402
from keras_mae.layers import MaskRatioSchedule  # noqa: E402
from keras_mae.models import ViTClassifier, backbones  # noqa: E402
from keras_mae.tasks.probe import linear_probe  # noqa: E402
from keras_mae.training import make_adamw  # noqa: E402

TRAINING = (
    "averaging",
    "callbacks",
    "checkpoints",
    "directory",
    "layer_decay",
    "optimizers",
    "schedules",
)


def main(source, target):
    keras.utils.set_random_seed(0)
    for name in TRAINING:
        importlib.import_module(f"keras_mae.training.{name}")
    results = {**given_weights(np.load(source)), **trained(), **classified()}
    results.update(dense(Path(source).parent))
    np.savez(target, **results, **interchanged(Path(target).with_suffix("")))
    assert not any(name.partition(".")[0] == "tensorflow" for name in sys.modules)


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def given_weights(given):
    model = tiny(num_layers=1, decoder_num_layers=1)
    model.set_weights([given[f"weight_{i}"] for i in range(len(model.weights))])
    result = model(given["images"], noise=given["noise"])
    rebuilt = model.reconstruct(given["images"], noise=given["noise"])
    return {
        "tokens": numpy(model.encoder(given["images"])),
        "prediction": numpy(result["prediction"]),
        "mask": numpy(result["mask"]),
        "loss": numpy(rebuilt["loss"]),
        "reconstruction": numpy(rebuilt["reconstruction"]),
    }


def trained():
    schedule = MaskRatioSchedule(0.5, 0.75, total_steps=20, num_levels=2)
    model = tiny(num_layers=1, decoder_num_layers=1, masking="block", mask_ratio=schedule)
    model.compile(make_adamw(model, 0.01), recompute=True)
    x = np.tile(images(8), (10, 1, 1, 1))
    for masking in ("random", "grid"):
        assert np.isfinite(float(tiny(masking=masking).compute_loss(x[:8])))
    losses = model.fit(x, batch_size=8, epochs=5, shuffle=False, verbose=0).history["loss"]
    return {
        "losses": losses,
        "evaluations": [model.evaluate(x, batch_size=8, verbose=0) for _ in range(2)],
        "steps": numpy(model.seed_generator.state)[1],
    }


def classified():
    """Train a classifier with drop path, its blocks computed again or not."""
    x, y = images(8), np.arange(8) % 2

    def fitted(recompute, epochs):
        keras.utils.set_random_seed(0)
        model = ViTClassifier(tiny(num_layers=2), 2, pooling="mean", drop_path=0.1, seed=0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(make_adamw(model, 0.003), loss, metrics=["accuracy"], recompute=recompute)
        return model, model.fit(x, y, epochs=epochs, shuffle=False, verbose=0).history["loss"]

    model, losses = fitted(recompute=True, epochs=20)
    features, labels = extract_features(
        lambda x: model.encoder.predict_on_batch(x)[:, 1:].mean(1), [(x, y)]
    )
    pixels = raw_pixels(x)
    # Two clusters of features, which a linear layer tells apart.
    clusters = np.eye(2, dtype="float32")[np.arange(64) % 2]
    return {
        "linear_probe": linear_probe(clusters, np.arange(64) % 2, clusters, np.arange(64) % 2, 2),
        "classifier_losses": losses,
        "classifier_losses_kept": fitted(recompute=False, epochs=3)[1],
        "neighbours": [knn_accuracy(f, labels, f, labels, 2, k=1) for f in (features, pixels)],
    }


def dense(folder):
    """Open a segmenter and a detector, give their numbers, train them, write them again."""
    x, results = images(4), {}
    for name, y in (("segmenter", label_maps()), ("detector", objects())):
        model = keras.saving.load_model(folder / f"{name}.keras")
        model.compile(make_adamw(model, 0.01))
        outputs = model.outputs_of_tokens(model.encoder(x))
        results[f"{name}_loss"] = numpy(model.compute_loss(None, y, model(x), training=False))
        results.update({f"{name}_{key}": numpy(value) for key, value in outputs.items()})
        results[f"{name}_losses"] = model.fit(x, y, epochs=15, verbose=0).history["loss"]
        model.save(folder / "again.keras")
        again = keras.saving.load_model(folder / "again.keras")
        found = [keras.tree.flatten(one.predict(x, verbose=0)) for one in (model, again)]
        differences = [np.abs(a - b).max() for a, b in zip(*found, strict=True)]
        results[f"{name}_differences"] = differences
    return {**results, **backbone()}


def backbone():
    """Give the difference of a backbone's levels for KerasHub, where that is installed."""
    if importlib.util.find_spec("keras_hub") is None:
        return {}
    encoder = tiny(image_size=16, channels=3).encoder
    model = backbones.keras_hub(encoder, filters=8, levels=["P2"])
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    wanted = model.get_layer("pyramid")(encoder(x))["P2"]
    return {"backbone_difference": np.abs(numpy(model(x)["P2"]) - numpy(wanted)).max()}


def interchanged(directory):
    """Write a checkpoint for other libraries, and a `.keras` file, and read both again."""
    model = tiny(image_size=8, channels=3)
    save_pretrained(model, directory)
    model.save(directory / "mae.keras")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    expected = numpy(model.encoder(x))
    found = [
        load_pretrained(directory).encoder,
        keras.saving.load_model(directory / "mae.keras").encoder,
    ]
    return {"differences": [np.abs(numpy(encoder(x)) - expected).max() for encoder in found]}


if __name__ == "__main__":
    main(*sys.argv[1:])
