"""From an encoded image to the model's pixels inside a graph, as the Python pipeline has them."""

import tensorflow as tf

from keras_mae.data.augment import evaluation_pixels

# Pillow's grey of a colour, in 65536ths: ITU-R 601-2, rounded.
_LUMA = (19595, 38470, 7471)
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def decode_image(data, channels):
    """Decode a JPEG or a PNG as `keras_mae.data.decode.read_with_pillow` does, in TensorFlow ops.

    Grey is repeated for three channels, and colours are made grey for one; alpha is dropped; of 16
    bits the high ones are kept. Unlike Pillow's, EXIF rotation is ignored.

    Args:
        data: string scalar tensor, the file's bytes.
        channels: 1 or 3.
    Returns:
        uint8 `(H, W, channels)`.
    Raises:
        tf.errors.InvalidArgumentError: when run, for anything else, or a broken or cut file.
    """

    def jpeg():
        # INTEGER_ACCURATE is what Pillow uses. A grey value of a colour is computed below.
        return tf.io.decode_jpeg(data, channels=0, dct_method="INTEGER_ACCURATE")

    def png():
        check = tf.debugging.Assert(
            _starts_with(data, _PNG),
            ["`image_bytes` must be JPEG or PNG files. Received another, of bytes:", size],
        )
        with tf.control_dependencies([check] if check is not None else []):
            return tf.io.decode_png(data, channels=0)

    size = tf.strings.length(data)
    image = tf.cond(_starts_with(data, _JPEG), jpeg, png)
    return _with_channels(image, channels)


def _starts_with(data, start):
    # `substr` refuses strings that are too short.
    padded = tf.strings.join([data, b"\0" * len(start)])
    return tf.strings.substr(padded, 0, len(start)) == start


def _with_channels(image, channels):
    """Return uint8 `(H, W, channels)` of an image of 1 (grey), 2 (with alpha), 3 or 4 channels."""
    is_grey = tf.shape(image)[-1] < 3
    if channels == 3:
        return tf.cond(
            is_grey,
            lambda: tf.repeat(image[..., :1], 3, axis=-1),
            lambda: tf.ensure_shape(image[..., :3], (None, None, 3)),
        )
    return tf.cond(is_grey, lambda: image[..., :1], lambda: _luma(image[..., :3]))


def _luma(colours):
    weighted = tf.cast(colours, tf.int32) * tf.constant(_LUMA)
    total = tf.reduce_sum(weighted, axis=-1, keepdims=True) + 0x8000
    return tf.cast(tf.bitwise.right_shift(total, 16), tf.uint8)


def pixels_of_bytes(image_bytes, image_size, channels, resize="bicubic", whole=False):
    """Decode, resize and cut a batch of files, as `keras_mae.data.eval_dataset` does.

    Args:
        image_bytes: string `(B,)`, JPEG or PNG files, of any sizes.
        image_size: (H, W), of the model.
        channels: 1 or 3.
        resize, whole: see `keras_mae.data.evaluation_transform`.
    Returns:
        float32 `(B, H, W, channels)`, 0-255.
    """

    def one(data):
        return evaluation_pixels(decode_image(data, channels), image_size, resize, whole)

    signature = tf.TensorSpec((*image_size, channels), tf.float32)
    return tf.map_fn(one, image_bytes, fn_output_signature=signature)
