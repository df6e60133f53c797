"""Masked autoencoder pre-training of vision transformers in Keras 3."""

from keras_mae import layers
from keras_mae.models import MAEDecoder, MaskedAutoencoder, ViTEncoder, list_presets
from keras_mae.version import __version__

__all__ = [
    "MAEDecoder",
    "MaskedAutoencoder",
    "ViTEncoder",
    "__version__",
    "layers",
    "list_presets",
]
