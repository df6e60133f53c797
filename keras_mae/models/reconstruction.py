"""From predicted normalised patches back to pixels."""

import numpy as np
from keras import ops

from keras_mae.models.losses import patch_statistics
from keras_mae.types import Tensor


def restore_pixels(
    prediction: Tensor, patches: Tensor, mask: Tensor, grid_size: tuple[int, int], oracle: bool
) -> Tensor:
    """Give normalised patches a mean and a deviation.

    Args:
        prediction: float32 `(B, N, P)`, normalised patches.
        patches: float32 `(B, N, P)`, the image's.
        mask: float32 `(B, N)`, 1 where a patch is hidden.
        grid_size: (rows, columns).
        oracle: bool. Whether to use the true statistics of the hidden patches. If not, these are
            averages over the visible patches, weighted by the inverse square of the distance.
    Returns:
        float32 `(B, N, P)`.
    """
    mean, deviation = patch_statistics(patches)
    if not oracle:
        near = ops.convert_to_tensor(_inverse_square_distance(grid_size))
        weights = ops.expand_dims(1 - mask, axis=1) * near
        weights = weights / ops.sum(weights, axis=-1, keepdims=True)
        mean, deviation = ops.matmul(weights, mean), ops.matmul(weights, deviation)
    return prediction * deviation + mean


def _inverse_square_distance(grid_size: tuple[int, int]) -> np.ndarray:
    """Return float32 `(N, N)`: 1 / d^2 between two patches of the grid, 1 on the diagonal."""
    places = np.stack(np.divmod(np.arange(grid_size[0] * grid_size[1]), grid_size[1]), axis=-1)
    squares = np.sum((places[:, None] - places[None]) ** 2, axis=-1)
    return (1 / np.maximum(squares, 1)).astype("float32")
