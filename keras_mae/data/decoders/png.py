"""PNG of 16 bits a sample, of which Pillow drops the low byte wherever there is more than grey."""

import dataclasses

import numpy as np

from keras_mae.data.decoders import pillow
from keras_mae.data.decoders.base import (
    Decoded,
    Facts,
    check_size,
    open_file,
    scaled_alpha,
    turn,
)
from keras_mae.types import AnyPath

# By the colour type of the header: grey, RGB, grey and alpha, RGB and alpha.
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}


def is_deep(head: bytes) -> bool:
    """Whether the first 25 bytes are those of a PNG of 16 bits a sample."""
    return (
        head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR" and head[24:25] == b"\x10"
    )


def decode(data: bytes) -> Decoded:
    """Decode all 16 bits: uint16, upright, alpha from a channel or a transparent colour.

    TensorFlow decodes: it is there wherever this room is, and refuses files that are cut or whose
    checksums fail. Pillow reads what TensorFlow ignores: orientation and the transparent colour.

    Raises:
        Exception: whatever Pillow or TensorFlow raises.
    """
    with pillow.open_image(data) as image:
        image.verify()  # all checksums: TensorFlow would write a line of its own for each such file
    with pillow.open_image(data) as image:
        channels = _CHANNELS[data[25]]
        check_size(image.height, image.width, 2 * channels)
        hidden = image.info.get("transparency")
        frames = pillow.num_frames(image)
        orientation = 1
        if b"eXIf" in data or b"Orientation" in data:  # to ask may decode the pixels
            orientation = image.getexif().get(pillow.ORIENTATION, 1)
    import tensorflow as tf

    with tf.device("CPU:0"):
        samples = tf.io.decode_png(data, channels=0, dtype=tf.uint16).numpy()
    samples, alpha = turn(samples, orientation), None
    if channels in (2, 4):
        samples, alpha = samples[..., :-1], scaled_alpha(samples[..., -1], 65535)
    elif hidden is not None:
        is_hidden = (samples == np.asarray(hidden, np.int64)).all(axis=-1)
        alpha = scaled_alpha(~is_hidden)
    return Decoded(samples, alpha, frames=frames)


def facts(file: AnyPath | bytes) -> Facts:
    """Return what the beginning of a file says. Only there is an orientation looked for."""
    with open_file(file) as opened:
        channels = _CHANNELS[opened.read(26)[25]]
    return dataclasses.replace(pillow.facts(file), channels=1 if channels < 3 else 3, is_byte=False)
