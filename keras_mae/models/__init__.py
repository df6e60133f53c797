"""The encoder, the decoder, and the autoencoder made of them."""

from keras_mae.models import backbones
from keras_mae.models.autoencoder import MaskedAutoencoder
from keras_mae.models.classifier import ViTClassifier
from keras_mae.models.decoder import MAEDecoder
from keras_mae.models.detector import ViTDetector
from keras_mae.models.embedder import ViTEmbedder
from keras_mae.models.encoder import ViTEncoder
from keras_mae.models.losses import PatchReconstructionLoss, normalize_patches
from keras_mae.models.segmenter import ViTSegmenter
from keras_mae.presets import list_presets

__all__ = [
    "MAEDecoder",
    "MaskedAutoencoder",
    "PatchReconstructionLoss",
    "ViTClassifier",
    "ViTDetector",
    "ViTEmbedder",
    "ViTEncoder",
    "ViTSegmenter",
    "backbones",
    "list_presets",
    "normalize_patches",
]
