"""Masked autoencoder pre-training of vision transformers in Keras 3."""

from keras_mae.version import __version__

__all__ = ["__version__"]
