"""Uniformly random masking."""

import keras

from keras_mae.layers.maskings.base import MaskingStrategy
from keras_mae.types import Tensor


@keras.saving.register_keras_serializable(package="keras_mae")
class RandomMasking(MaskingStrategy):
    """Keep patches uniformly at random: the noise is the score.

    Reference: He et al. 2021, arXiv:2111.06377, section 3.
    """

    def scores(self, noise: Tensor, grid_size: tuple[int, int], num_keep: int) -> Tensor:
        return noise
