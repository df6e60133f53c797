"""The backbone for KerasCV; only `keras_mae.models.backbones` imports this file."""

from collections.abc import Sequence
from typing import Any, Self

import keras
import keras_cv

from keras_mae.models.backbones.levels import config_of, levels_of, opened


@keras.saving.register_keras_serializable(package="keras_mae", name="KerasCVBackbone")
class Backbone(keras_cv.models.Backbone):
    """An encoder and a pyramid: see `keras_mae.backbones.keras_cv`, which makes it.

    Args:
        encoder: `ViTEncoder`, used as it is.
        filters, trainable_blocks, levels: see there.
    """

    def __init__(
        self,
        encoder: Any,
        filters: int = 256,
        trainable_blocks: float | None = None,
        levels: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        encoder = opened(encoder)
        images, outputs = levels_of(encoder, filters, trainable_blocks, levels)
        super().__init__(images, outputs, **kwargs)
        self.encoder = encoder
        self.filters = filters
        self.trainable_blocks = trainable_blocks
        self.levels = list(outputs)
        self.pyramid_level_inputs = {level: level for level in outputs}  # layers have their names

    def get_config(self) -> dict[str, Any]:
        return config_of(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)
