"""From an encoded image to the model's pixels inside a graph, as the Python pipeline has them."""

import tensorflow as tf

from keras_mae.data.augment import EVALUATION_RATIO
from keras_mae.data.dense_augment import fitted

# Pillow's grey of a colour, in 65536ths: ITU-R 601-2, rounded.
_LUMA = (19595, 38470, 7471)
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def decode_image(data, background):
    """Decode a JPEG or a PNG as the pipeline does, in TensorFlow ops.

    Grey is repeated for three channels, and colours are made grey for one. What a PNG's alpha
    channel, palette or transparent colour says is transparent is laid on the background: `alpha *
    value + (1 - alpha) * background`. Of 16 bits the high ones are kept. Unlike in the pipeline,
    EXIF rotation is ignored.

    Args:
        data: string scalar tensor, the file's bytes.
        background: C floats, 0-255, C being 1 or 3.
    Returns:
        float32 `(H, W, C)`, 0-255.
    Raises:
        tf.errors.InvalidArgumentError: when run, for anything else, or a broken or cut file.
    """

    channels = len(background)

    def jpeg():
        # INTEGER_ACCURATE is what Pillow uses. A grey value of a colour is computed below.
        colours = tf.io.decode_jpeg(data, channels=0, dct_method="INTEGER_ACCURATE")
        return tf.cast(_with_channels(colours, channels), tf.float32)

    def png():
        check = tf.debugging.Assert(
            _starts_with(data, _PNG),
            ["`image_bytes` must be JPEG or PNG files. Received another, of bytes:", size],
        )
        with tf.control_dependencies([check] if check is not None else []):
            # With all four, TensorFlow turns every kind of transparency into alpha.
            pixels = tf.io.decode_png(data, channels=4)
        colours = tf.cast(_with_channels(pixels[..., :3], channels), tf.float32)
        alpha = _alpha(pixels[..., 3:], data)
        return alpha * colours + (1 - alpha) * tf.constant(background, tf.float32)

    size = tf.strings.length(data)
    return tf.cond(_starts_with(data, _JPEG), jpeg, png)


def _alpha(alpha, data):
    """Return a PNG's alpha channel, uint8 `(H, W, 1)` as decoded, as float32 in [0, 1].

    Where a file has none, TensorFlow fills in the greatest value of the file's own bits: 1, 3 or 15
    for images of 1, 2 or 4 bits.
    """
    bits = tf.io.decode_raw(tf.strings.substr(_padded(data, 25), 24, 1), tf.uint8)
    filled = tf.cast(2 ** tf.cast(bits, tf.int32) - 1, tf.uint8)
    is_opaque = tf.reduce_all(alpha == filled)
    return tf.where(is_opaque, 1.0, tf.cast(alpha, tf.float32) / 255)


def _starts_with(data, start):
    return tf.strings.substr(_padded(data, len(start)), 0, len(start)) == start


def _padded(data, count):
    """Return bytes with zeros behind them: `substr` refuses strings that are too short."""
    return tf.strings.join([data, b"\0" * count])


def _with_channels(image, channels):
    """Return uint8 `(H, W, channels)` of an image of 1 channel, grey, or of 3."""
    is_grey = tf.shape(image)[-1] < 3
    if channels == 3:
        return tf.cond(
            is_grey,
            lambda: tf.repeat(image[..., :1], 3, axis=-1),
            lambda: tf.ensure_shape(image, (None, None, 3)),
        )
    return tf.cond(is_grey, lambda: image[..., :1], lambda: _luma(image))


def _luma(colours):
    weighted = tf.cast(colours, tf.int32) * tf.constant(_LUMA)
    total = tf.reduce_sum(weighted, axis=-1, keepdims=True) + 0x8000
    return tf.cast(tf.bitwise.right_shift(total, 16), tf.uint8)


def pixels_of_bytes(image_bytes, image_size, background, resize="bicubic", whole=False):
    """Decode, resize and cut a batch of files, as `keras_mae.data.eval_dataset` does, in a graph.

    TensorFlow's own antialiased resizing may round otherwise than Pillow's: by 1 of 255.

    Args:
        image_bytes: string `(B,)`, JPEG or PNG files, of any sizes.
        image_size: (H, W), of the model.
        background: C floats, 0-255, see `decode_image`; the mean colour in the pipeline.
        resize, whole: see `keras_mae.data.evaluation_transform`.
    Returns:
        float32 `(B, H, W, C)`, 0-255.
    """

    def one(data):
        return _evaluation_pixels(decode_image(data, background), image_size, resize, whole)

    signature = tf.TensorSpec((*image_size, len(background)), tf.float32)
    return tf.map_fn(one, image_bytes, fn_output_signature=signature)


def canvases_of_bytes(image_bytes, image_size, background, resize="bicubic"):
    """Decode a batch of files and place each on a canvas, whole, as for segmentation and detection.

    Args:
        image_bytes, image_size, background, resize: see `pixels_of_bytes`.
    Returns:
        `(images, sizes)`: float32 `(B, H, W, C)`, 0-255, and int32 `(B, 2)`, height and width of
        the files.
    """

    def one(data):
        image = decode_image(data, background)
        size = tf.shape(image)[:2]
        placed = tf.cond(
            (size[0] == image_size[0]) & (size[1] == image_size[1]),
            lambda: image,
            lambda: fitted(size, image_size).image(image, tf.constant(background), resize),
        )
        # Not in the branch: TensorFlow would check it there whichever branch is taken.
        placed = tf.ensure_shape(placed, (*image_size, len(background)))
        return placed, size

    signature = tf.TensorSpec((*image_size, len(background)), tf.float32)
    sizes = tf.TensorSpec((2,), tf.int32)
    return tf.map_fn(one, image_bytes, fn_output_signature=(signature, sizes))


def boxes_on_files(boxes, classes, sizes, image_size):
    """Return boxes on canvases of `canvases_of_bytes` in pixels of the files, cut at their border.

    Args:
        boxes: float32 `(B, M, 4)`.
        classes: int32 `(B, M)`, -1 for padding.
        sizes: int32 `(B, 2)`.
        image_size: `(H, W)` of the canvas.
    Returns:
        float32 `(B, M, 4)`, -1 for padding. What lies beside an image has no area.
    """
    scales = tf.map_fn(
        lambda size: fitted(size, image_size).scale, sizes, fn_output_signature=tf.float32
    )
    border = tf.cast(tf.gather(sizes, [1, 0, 1, 0], axis=1), tf.float32)[:, None]
    on_file = tf.clip_by_value(boxes / scales[:, None, None], 0.0, border)
    return tf.where(classes[..., None] >= 0, on_file, -1.0)


def _evaluation_pixels(image, image_size, resize, whole):
    """Return what `keras_mae.data.augment.evaluation_pixels` does, of float32 pixels."""
    height, width = image_size
    rows, columns = tf.shape(image)[0], tf.shape(image)[1]

    def transformed():
        if whole:
            return _resized(image, image_size, resize)
        inner_height, inner_width = (int(side * EVALUATION_RATIO) for side in image_size)
        size = tf.where(
            inner_height * columns >= inner_width * rows,
            tf.stack([inner_height, columns * inner_height // rows]),
            tf.stack([rows * inner_width // columns, inner_width]),
        )
        resized = _resized(image, size, resize)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        return resized[top : top + height, left : left + width]

    fits = (rows == height) & (columns == width)
    result = tf.cond(fits, lambda: image, transformed)
    return tf.ensure_shape(result, (height, width, image.shape[-1]))


def _resized(image, size, resize):
    if resize == "bilinear":
        return tf.image.resize(image, size, "bilinear")
    # As Pillow does: columns first, rounded to whole numbers from 0 to 255, then rows.
    for part in ((tf.shape(image)[0], size[1]), size):
        image = tf.image.resize(image, part, "bicubic", antialias=True)
        image = tf.clip_by_value(tf.round(image), 0, 255)
    return image
