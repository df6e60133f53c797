"""The reconstruction loss, in normalised or raw pixels."""

import keras
from keras import ops

from keras_mae.types import Tensor

EPSILON = 1e-6


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return each patch's mean and standard deviation over its P values.

    Args:
        patches: float32 `(..., P)`.
    Returns:
        `(mean, deviation)`, each float32 `(..., 1)`. The variance is the unbiased one (P - 1) and
        the deviation is `sqrt(variance + 1e-6)`, as in the reference.
    """
    mean = ops.mean(patches, axis=-1, keepdims=True)
    squares = ops.sum(ops.square(patches - mean), axis=-1, keepdims=True)
    return mean, ops.sqrt(squares / max(patches.shape[-1] - 1, 1) + EPSILON)


def normalize_patches(patches: Tensor) -> Tensor:
    """Return patches `(..., P)` with mean 0 and deviation 1 each, as `patch_statistics` has it.

    Reference: He et al. 2021, arXiv:2111.06377, section 4.1 ("reconstruction target").
    """
    mean, deviation = patch_statistics(patches)
    return (patches - mean) / deviation


@keras.saving.register_keras_serializable(package="keras_mae")
class PatchReconstructionLoss(keras.losses.Loss):
    """Mean squared error over a patch's values, averaged over all patches given, in float32.

    Only removed patches are to be given. The mean is divided by the number of `tf.distribute`
    replicas (gradients are summed over them).

    Call arguments:
        y_true: float `(B, M, P)`, the target patches.
        y_pred: float `(B, M, P)`, the predicted ones.
    Returns:
        float32 scalar.
    """

    def __init__(
        self, name: str = "patch_reconstruction", reduction: str = "mean", dtype: str = "float32"
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return ops.mean(ops.square(y_true - y_pred), axis=-1)
