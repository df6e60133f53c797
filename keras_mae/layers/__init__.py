"""The building blocks: patches, positions, masking, attention, block, feature pyramid."""

from keras_mae.layers.attention import Attention
from keras_mae.layers.feature_pyramid import FeaturePyramid
from keras_mae.layers.masking import (
    MaskRatioSchedule,
    PatchMasking,
    keep_lowest,
    num_kept,
    removed_mask,
)
from keras_mae.layers.maskings.base import MaskingStrategy
from keras_mae.layers.maskings.block import BlockMasking
from keras_mae.layers.maskings.grid import GridMasking
from keras_mae.layers.maskings.random import RandomMasking
from keras_mae.layers.patches import PatchEmbedding, gather_tokens, patchify, unpatchify
from keras_mae.layers.positions import PositionTable, sincos_positions
from keras_mae.layers.transformer import MLP, DropPath, LayerScale, TransformerBlock
from keras_mae.layers.whitening import Whitening

__all__ = [
    "MLP",
    "Attention",
    "BlockMasking",
    "DropPath",
    "FeaturePyramid",
    "GridMasking",
    "LayerScale",
    "MaskRatioSchedule",
    "MaskingStrategy",
    "PatchEmbedding",
    "PatchMasking",
    "PositionTable",
    "RandomMasking",
    "TransformerBlock",
    "Whitening",
    "gather_tokens",
    "keep_lowest",
    "num_kept",
    "patchify",
    "removed_mask",
    "sincos_positions",
    "unpatchify",
]
