"""What a pre-trained encoder is put to: classifiers, probes, neighbours."""

from keras_mae.transfer.classifier import ViTClassifier

__all__ = ["ViTClassifier"]
