"""Figures: reconstructions, attention, components of tokens, curves, charts."""

from keras_mae.plots.attention import attention_figure, attention_maps, attention_rollout
from keras_mae.plots.components import components_figure, patch_components
from keras_mae.plots.figures import loss_figure, reconstruction_figure
from keras_mae.plots.reconstructions import MaskOf, drawn_masks, reconstructions_figure

__all__ = [
    "MaskOf",
    "attention_figure",
    "attention_maps",
    "attention_rollout",
    "components_figure",
    "drawn_masks",
    "loss_figure",
    "patch_components",
    "reconstruction_figure",
    "reconstructions_figure",
]
