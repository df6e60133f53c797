"""Masked autoencoder pre-training of vision transformers in Keras 3.

`keras_mae.data`, the `tf.data` pipeline, is imported by itself: it needs TensorFlow on any backend.
"""

from keras_mae import layers, training
from keras_mae.export import export_encoder
from keras_mae.interop import load_encoder, load_pretrained, load_weights_into, save_pretrained
from keras_mae.models import (
    MAEDecoder,
    MaskedAutoencoder,
    ViTClassifier,
    ViTEncoder,
    list_presets,
)
from keras_mae.version import __version__

__all__ = [
    "MAEDecoder",
    "MaskedAutoencoder",
    "ViTClassifier",
    "ViTEncoder",
    "__version__",
    "export_encoder",
    "layers",
    "list_presets",
    "load_encoder",
    "load_pretrained",
    "load_weights_into",
    "save_pretrained",
    "training",
]
