"""Checkpoints of other libraries, in and out.

PyTorch files need torch (`pip install "keras_mae[interop]"`); safetensors and `.keras` do not.
"""

from keras_mae.interop.encoders import load_encoder
from keras_mae.interop.load import load_pretrained, load_weights_into
from keras_mae.interop.save import save_pretrained
from keras_mae.models.openers import register_model_opener

register_model_opener(load_pretrained)

__all__ = ["load_encoder", "load_pretrained", "load_weights_into", "save_pretrained"]
