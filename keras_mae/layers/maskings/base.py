"""What a masking is: a score for each patch; the lowest are kept."""

from typing import Any, Self

from keras_mae.types import Tensor


class MaskingStrategy:
    """Base of all maskings: gives each patch a score, and the lowest are kept.

    To write one, override `scores`, and `noise_size` if it needs more or fewer random numbers than
    one a patch. A file in this folder is found by its name. One of your own is found as
    `MODULE:CLASS`; import the module before you load a model that holds it.

    Example:
        class RowMasking(MaskingStrategy):
            def noise_size(self, grid_size):
                return grid_size[0]

            def scores(self, noise, grid_size, num_keep):
                return keras.ops.repeat(noise, grid_size[1], axis=1)
    """

    def noise_size(self, grid_size: tuple[int, int]) -> int:
        """Return R, how many uniform numbers an image's mask is made of. Default: N."""
        rows, columns = grid_size
        return rows * columns

    def scores(self, noise: Tensor, grid_size: tuple[int, int], num_keep: int) -> Tensor:
        """Score the patches.

        Args:
            noise: float32 `(B, R)`, uniform in [0, 1).
            grid_size: (rows, columns).
            num_keep: int K.
        Returns:
            float32 `(B, N)`; the K lowest are kept.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `scores`.")

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)
