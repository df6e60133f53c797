"""Checkpoints of other libraries, in and out.

PyTorch files need torch (`pip install "keras_mae[interop]"`); safetensors and `.keras` do not. The
Hugging Face hub needs huggingface_hub (`"keras_mae[hub]"`), and writing a preset of KerasHub's
KerasHub (`"keras_mae[keras_hub]"`).
"""

from keras_mae.interop.encoders import load_encoder
from keras_mae.interop.load import load_pretrained, load_weights_into
from keras_mae.interop.publish import push_to_hub
from keras_mae.interop.save import save_pretrained
from keras_mae.models.openers import register_model_opener

register_model_opener(load_pretrained)

__all__ = [
    "load_encoder",
    "load_pretrained",
    "load_weights_into",
    "push_to_hub",
    "save_pretrained",
]
