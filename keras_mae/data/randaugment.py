"""RandAugment: a few random operations on colours and geometry, each at a given magnitude.

The operations on colours are Keras's preprocessing layers. They are given their numbers, in place
of the random state that these layers hold, so that the same key gives the same image.
"""

import keras
import tensorflow as tf

CHANCE = 0.5  # that a chosen operation is applied
MAGNITUDE_DEVIATION = 0.5
LARGEST = 10.0  # magnitude

_LAYERS = {
    "auto_contrast": keras.layers.AutoContrast,
    "equalize": keras.layers.Equalization,
    "solarize": keras.layers.Solarization,
    "posterize": lambda **kwargs: keras.layers.RandomPosterization(factor=8, **kwargs),
    "color": lambda **kwargs: keras.layers.RandomColorDegeneration(factor=1.0, **kwargs),
    "contrast": lambda **kwargs: keras.layers.RandomContrast(factor=1.0, **kwargs),
    "sharpness": lambda **kwargs: keras.layers.RandomSharpness(factor=1.0, **kwargs),
}


class RandAugment:
    """Apply `num_ops` random operations, one after the other, to an image.

    Each is chosen with equal chance and applied with a chance of a half, at a magnitude drawn from
    a normal distribution around `magnitude` with a deviation of .5. At magnitude 10, rotation is
    by 30 degrees, shear .3, translation .45 of the side, colour, contrast, brightness and
    sharpness change by 90 %, posterize keeps 1 bit, solarize inverts all; each either way where
    there are two.

    Args:
        num_ops: int.
        magnitude: float in [0, 10].
        channels: 1 or 3. Grey images have no operation on colour.
        fill: floats, one a channel, 0-255: what geometry leaves empty.
    Call arguments:
        image: float32 `(H, W, C)`, 0-255.
        key: int64 `(2,)`. The image that comes out is a function of it.
    Returns:
        float32 `(H, W, C)`, 0-255.
    Reference: Cubuk et al. 2019, arXiv:1909.13719; operations and ranges as "rand-m9-mstd0.5-inc1"
        of timm, which He et al. 2021 use.
    """

    def __init__(self, num_ops, magnitude, channels, fill):
        self.num_ops = num_ops
        self.magnitude = magnitude
        self.fill = tf.constant(fill, tf.float32)
        self.layers = {
            name: make(value_range=(0, 255), dtype="float32") for name, make in _LAYERS.items()
        }
        self.operations = [
            self._auto_contrast,
            self._equalize,
            self._invert,
            self._rotate,
            self._posterize,
            self._solarize,
            self._solarize_add,
            self._contrast,
            self._brightness,
            self._sharpness,
            self._shear_x,
            self._shear_y,
            self._translate_x,
            self._translate_y,
        ]
        if channels == 3:
            self.operations.append(self._color)

    def __call__(self, image, key):
        shape = image.shape
        uniforms = tf.random.stateless_uniform((self.num_ops, 3), key, alg="philox")
        normals = tf.random.stateless_normal(
            (self.num_ops,), tf.random.experimental.stateless_fold_in(key, 1), alg="philox"
        )
        magnitudes = self.magnitude + MAGNITUDE_DEVIATION * normals
        levels = tf.clip_by_value(magnitudes, 0.0, LARGEST) / LARGEST
        for i in range(self.num_ops):
            choice = tf.cast(uniforms[i, 0] * len(self.operations), tf.int32)
            sign = tf.where(uniforms[i, 2] < 0.5, -1.0, 1.0)
            image = tf.cond(
                uniforms[i, 1] < CHANCE,
                lambda image=image, choice=choice, level=levels[i], sign=sign: self.apply(
                    image, choice, level, sign
                ),
                lambda image=image: image,
            )
            image = tf.ensure_shape(image, shape)
        return image

    def apply(self, image, choice, level, sign):
        """Apply one operation.

        Args:
            image: float32 `(H, W, C)`, 0-255.
            choice: int32 scalar, index in `self.operations`.
            level: float32 scalar in [0, 1], the magnitude over 10.
            sign: float32 scalar, 1 or -1, for operations that go two ways.
        """
        choice = tf.minimum(choice, len(self.operations) - 1)
        branches = [lambda op=op: op(image, level, sign) for op in self.operations]
        return tf.clip_by_value(tf.switch_case(choice, branches), 0.0, 255.0)

    def _layer(self, name, image, **numbers):
        layer = self.layers[name]
        layer.backend.set_backend("tensorflow")  # this runs in tf.data, whatever trains the model
        numbers = {key: tf.reshape(value, (1, 1, 1, 1)) for key, value in numbers.items()}
        return layer.transform_images(image[None], numbers)[0]

    def _auto_contrast(self, image, level, sign):
        return self._layer("auto_contrast", image)

    def _equalize(self, image, level, sign):
        return self._layer("equalize", image)

    def _invert(self, image, level, sign):
        return 255.0 - image

    def _posterize(self, image, level, sign):
        bits = 4 - tf.cast(level * 4, tf.int32)
        shift = tf.cast(8 - tf.maximum(bits, 1), tf.uint8)
        layer = self.layers["posterize"]
        layer.backend.set_backend("tensorflow")
        return layer.transform_images(image[None], {"shift_factor": shift[None]})[0]

    def _solarize(self, image, level, sign):
        return self._layer(
            "solarize", image, thresholds=256.0 - 256.0 * level, additions=tf.constant(0.0)
        )

    def _solarize_add(self, image, level, sign):
        return tf.where(image < 128, tf.minimum(image + 110.0 * level, 255.0), image)

    def _color(self, image, level, sign):
        return self._layer("color", image, factor=-0.9 * level * sign)

    def _contrast(self, image, level, sign):
        return self._layer("contrast", image, contrast_factor=1 + 0.9 * level * sign)

    def _brightness(self, image, level, sign):
        return image * (1 + 0.9 * level * sign)

    def _sharpness(self, image, level, sign):
        return self._layer("sharpness", image, factor=0.5 * (1 + 0.9 * level * sign))

    def _rotate(self, image, level, sign):
        angle = sign * level * (30 * 3.14159265 / 180)
        return self._affine(image, tf.cos(angle), -tf.sin(angle), tf.sin(angle), tf.cos(angle))

    def _shear_x(self, image, level, sign):
        return self._affine(image, 1.0, 0.3 * level * sign, 0.0, 1.0)

    def _shear_y(self, image, level, sign):
        return self._affine(image, 1.0, 0.0, 0.3 * level * sign, 1.0)

    def _translate_x(self, image, level, sign):
        width = tf.cast(tf.shape(image)[1], tf.float32)
        return self._affine(image, 1.0, 0.0, 0.0, 1.0, dx=0.45 * level * sign * width)

    def _translate_y(self, image, level, sign):
        height = tf.cast(tf.shape(image)[0], tf.float32)
        return self._affine(image, 1.0, 0.0, 0.0, 1.0, dy=0.45 * level * sign * height)

    def _affine(self, image, xx, xy, yx, yy, dx=0.0, dy=0.0):
        """Pixel (x, y), seen from the centre, is taken from (xx x + xy y, yx x + yy y)."""
        height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
        x0, y0 = (width - 1) / 2, (height - 1) / 2
        row_x = [xx, xy, x0 - xx * x0 - xy * y0 + dx]
        row_y = [yx, yy, y0 - yx * x0 - yy * y0 + dy]
        transform = tf.stack([tf.cast(v, tf.float32) for v in (*row_x, *row_y, 0.0, 0.0)])
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=(image - self.fill)[None],
            transforms=transform[None],
            output_shape=tf.shape(image)[:2],
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
            fill_value=0.0,
        )
        return moved[0] + self.fill
