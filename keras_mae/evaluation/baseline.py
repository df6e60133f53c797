"""What a loss means: the loss of a predictor that looks at no image."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from keras import ops

from keras_mae.layers import patchify
from keras_mae.models import MaskedAutoencoder, normalize_patches


def mean_predictor_loss(
    model: MaskedAutoencoder, train_dataset: Iterable[Any], heldout_dataset: Iterable[Any]
) -> float:
    """Return the held-out loss of predicting, at each place, the training images' mean patch.

    A model that has learned anything of an image from its visible patches is below it.

    Args:
        model: a `MaskedAutoencoder`; its patches and its target space are used, not its weights.
        train_dataset, heldout_dataset: finite iterables of images `(B, H, W, C)`, normalised, or
            of (images, labels).
    Returns:
        float: mean squared error over all patches of the held-out images, as a random mask hides
        each as often as any other.
    """
    total, count = 0.0, 0
    for target in _targets(model, train_dataset):
        total, count = total + target.sum(axis=0), count + len(target)
    mean = total / count
    errors = [
        np.square(target - mean).mean(axis=(1, 2)) for target in _targets(model, heldout_dataset)
    ]
    return float(np.concatenate(errors).mean())


def _targets(model: MaskedAutoencoder, dataset: Iterable[Any]) -> Iterator[np.ndarray]:
    """Yield float64 `(B, N, P)`: the batches' patches in the model's target space."""
    for batch in dataset:
        images = batch[0] if isinstance(batch, tuple | list) else batch
        patches = patchify(ops.cast(images, "float32"), model.patch_size)
        target = normalize_patches(patches) if model.norm_pix_loss else patches
        yield ops.convert_to_numpy(target).astype("float64")
