"""Positions: the fixed 2-D sine-cosine table, and the layer that adds it."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae.layers.arguments import pair
from keras_mae.layers.patches import gather_tokens
from keras_mae.types import Shape, Size, Tensor


def _sincos(positions: np.ndarray, dim: int) -> np.ndarray:
    """Return `[sin | cos]` of 1-D `positions (n,)` at `dim / 2` frequencies: `(n, dim)`."""
    frequencies = 1.0 / 10000.0 ** (np.arange(dim // 2, dtype=np.float64) / (dim / 2.0))
    angles = np.outer(positions, frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_positions(hidden_dim: int, grid_size: Size) -> np.ndarray:
    """Return the fixed position table of a patch grid, its class token's row of zeros first.

    The first half of a row encodes the column, the second half the row; each half is the sines
    at all frequencies, then the cosines.

    Args:
        hidden_dim: int, a multiple of 4. Width D.
        grid_size: (rows, columns) of the patch grid, any two positive ints.
    Returns:
        float32 NumPy array `(1 + N, D)`.
    Raises:
        ValueError: if `hidden_dim` is not a multiple of 4.
    Reference: He et al. 2021, arXiv:2111.06377, appendix A.1; Vaswani et al. 2017, section 3.5.
    """
    if hidden_dim % 4:
        raise ValueError(
            "`hidden_dim` must be a multiple of 4 for 2-D sine-cosine positions. "
            f"Received: {hidden_dim}"
        )
    rows, columns = pair(grid_size, "grid_size")
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    half = hidden_dim // 2
    table = np.concatenate([_sincos(column.ravel(), half), _sincos(row.ravel(), half)], axis=1)
    return np.concatenate([np.zeros((1, hidden_dim)), table]).astype("float32")


@keras.saving.register_keras_serializable(package="keras_mae")
class PositionTable(keras.layers.Layer):
    """Add a row of a position table to each token, the class token first.

    The table has one row that is no patch's, the first token's. Further tokens before the patches,
    such as registers, get none.

    The table starts as `sincos_positions` and is a weight, so that tables that were learned
    elsewhere can be loaded; it is trained only when `learned` is true.

    Args:
        grid_size: (rows, columns) of the patch grid.
        learned: bool. Whether the table is trainable.
    Call arguments:
        tokens: float `(B, T + K, D)`, class token first, T >= 1, the patches at the end.
        ids: int32 `(B, K)`, the patch each token stands for; None when `K = N`, in order.
    Returns:
        float `(B, T + K, D)`.
    """

    def __init__(self, grid_size: Size, learned: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grid_size = pair(grid_size, "grid_size")
        self.learned = learned

    def build(self, input_shape: Shape) -> None:
        dim = input_shape[-1]
        rows, columns = self.grid_size
        self.table = self.add_weight(
            name="table",
            shape=(1 + rows * columns, dim),
            initializer=lambda shape, dtype: ops.convert_to_tensor(
                sincos_positions(dim, self.grid_size), dtype
            ),
            trainable=self.learned,
        )

    @property
    def no_weight_decay(self) -> list[Any]:
        """The weights, beside vectors, that weight decay leaves alone."""
        return [self.table]

    def call(self, tokens: Tensor, ids: Tensor | None = None) -> Tensor:
        table = ops.expand_dims(ops.cast(self.table, self.compute_dtype), axis=0)
        patches = table[:, 1:] if ids is None else gather_tokens(table[:, 1:], ids)
        others = 0 if tokens.shape[1] is None else tokens.shape[1] - 1 - patches.shape[1]
        if others == 0 and ids is None:
            return tokens + table
        before = [table[:, :1]]
        if others:
            before.append(ops.zeros((1, others, table.shape[-1]), table.dtype))
        if ids is not None:
            shape = (ops.shape(ids)[0], 1 + others, table.shape[-1])
            before = [ops.broadcast_to(ops.concatenate(before, axis=1), shape)]
        return tokens + ops.concatenate([*before, patches], axis=1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "grid_size": self.grid_size, "learned": self.learned}
