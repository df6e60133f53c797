"""Measure how near the library is to transformers' ViT-MAE (PyTorch), and draw the table and plot.

    pip install "keras_mae[interop,test]"
    python benchmarks/fidelity.py

Both start from the same random weights, nothing is downloaded. It prints the table of
docs/fidelity.md and writes docs/figures/fidelity.png; some minutes and 12 GB for ViT-H/14, which
--models=tiny/16,B/16 leaves out.
"""

import gc
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib
import numpy as np
from absl import app, flags

from keras_mae import MaskedAutoencoder
from keras_mae.models.weights import named_weights
from keras_mae.testing import oracle

ROOT = Path(__file__).parents[1]
CASES = {
    "tiny/16": (oracle.TINY, {}),
    "B/16": (oracle.BASE, {}),
    "L/16": (oracle.LARGE, {}),
    "H/14": (oracle.HUGE, {}),
    "patch 4, 32 px": (oracle.SMALL, {}),
    "patch 14, 56 px": (oracle.SMALL, {"image_size": 56, "patch_size": 14}),
    "1 channel": (oracle.SMALL, {"num_channels": 1}),
    "4 channels": (oracle.SMALL, {"num_channels": 4}),
    "mask ratio .5": (oracle.SMALL, {"mask_ratio": 0.5}),
    "mask ratio .9": (oracle.SMALL, {"mask_ratio": 0.9}),
    "LayerNorm epsilon 1e-12": (oracle.SMALL, {"layer_norm_eps": 1e-12}),
}
MODELS = flags.DEFINE_list("models", list(CASES), "Rows of the first table.")
FIGURE = flags.DEFINE_string("figure", str(ROOT / "docs/figures/fidelity.png"), "The plot.")


def outputs_rows():
    """Yield a row a case: the largest absolute difference of each output."""
    yield "| model | target | prediction | latent | mask | loss |"
    yield "|---|---|---|---|---|---|"
    for name in MODELS.value:
        base, others = CASES[name]
        config = oracle.mae_config(**{**base, **others})
        images, noise = oracle.random_batch(config, size=1 if name in ("L/16", "H/14") else 2)
        theirs, expected = oracle.make_oracle(config), {}
        for norm_pix_loss in (True, False):
            theirs.config.norm_pix_loss = norm_pix_loss
            expected[norm_pix_loss] = oracle.oracle_outputs(theirs, images, noise)
        with tempfile.TemporaryDirectory() as folder:
            theirs.save_pretrained(folder)
            del theirs
            gc.collect()
            ours = oracle.load_pretrained(folder)
        for norm_pix_loss in (True, False):
            ours.norm_pix_loss = norm_pix_loss
            outputs = oracle.our_outputs(ours, images, noise)
            found = oracle.differences(outputs, expected[norm_pix_loss])
            target = "normalised" if norm_pix_loss else "pixels"
            yield f"| {name} | {target} | " + " | ".join(f"{d:.1e}" for d in found.values()) + " |"
        del ours
        gc.collect()


def pair_of_models(noise=0.02, **others):
    config = oracle.mae_config(**oracle.SMALL, **others)
    theirs = oracle.make_oracle(config, noise=noise)
    with tempfile.TemporaryDirectory() as folder:
        return theirs, oracle.open_oracle(theirs, folder)


def gradient_rows():
    """Yield the largest relative difference of the gradient of a weight."""
    for norm_pix_loss in (True, False):
        theirs, ours = pair_of_models(norm_pix_loss=norm_pix_loss)
        found = oracle.gradient_differences(theirs, ours, *oracle.random_batch(theirs.config))
        worst = max(found, key=found.get)
        target = "normalised" if norm_pix_loss else "pixels"
        yield (
            f"| gradients of {len(found)} weights, {target} | {found[worst]:.1e} ({worst}) | 1e-3 |"
        )


def training_rows(figure):
    """Yield the largest relative difference of fifty losses, and draw both curves."""
    curves = {}
    for norm_pix_loss, target in ((False, "pixels"), (True, "normalised")):
        theirs, ours = pair_of_models(noise=0.0, norm_pix_loss=norm_pix_loss)
        curves[target] = oracle.train_both(theirs, ours, oracle.photo_crops(64, 32))
    found, expected = curves["normalised"]
    matplotlib.use("Agg")
    from matplotlib import pyplot

    canvas, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    axes.plot(expected, color="0.7", linewidth=5, label="transformers (PyTorch)")
    axes.plot(found, color="C0", linewidth=1.5, label="keras_mae")
    axes.set(xlabel="step", ylabel="loss", title="50 AdamW steps, same start, images and masks")
    axes.legend()
    os.makedirs(os.path.dirname(figure), exist_ok=True)
    canvas.savefig(figure, dpi=120)
    for target, (found, expected) in curves.items():
        difference = np.abs(found / expected - 1).max()
        yield (
            f"| loss of 50 AdamW steps, {target}, {expected[0]:.3f} to {expected[-1]:.3f} | "
            f"{difference:.1e} | 1e-3 |"
        )


def initialisation_row():
    """Return the largest departure of a mean or a deviation, in standard errors."""
    model, worst = MaskedAutoencoder.from_preset("mae_vit_base_patch16"), 0.0
    for name, weight in named_weights(model).items():
        value, token = keras.ops.convert_to_numpy(weight), name.endswith("_token")
        if token or name.endswith(".kernel"):
            expected = 0.02 if token else np.sqrt(2 / sum(value.shape))
            kurtosis = 3 if token else 9 / 5
            error = expected / np.sqrt(value.size)
            deviation_error = error * np.sqrt((kurtosis - 1) / 4)
            worst = max(worst, abs(value.mean()) / error)
            worst = max(worst, abs(value.std() - expected) / deviation_error)
    return f"| initialisation of B/16, mean and deviation | {worst:.1f} standard errors | 5 |"


def main(argv):
    del argv
    for row in outputs_rows():
        print(row, flush=True)
    print("\n| what | largest relative difference | allowed |\n|---|---|---|")
    for row in (*gradient_rows(), *training_rows(FIGURE.value), initialisation_row()):
        print(row, flush=True)


if __name__ == "__main__":
    app.run(main)
