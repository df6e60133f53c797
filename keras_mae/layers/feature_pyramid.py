"""The simple feature pyramid: maps of several strides from a plain transformer's tokens."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mae.layers.arguments import check_positive_int, grid_size, pair
from keras_mae.layers.transformer import layer_norm
from keras_mae.types import Shape, Size, Tensor

SCALES = (4, 2, 1, 0.5, 0.25)


def patch_map(tokens: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Return the patches' tokens in their places.

    Args:
        tokens: float `(B, T, D)`; the last N are the patches, row by row.
        grid_size: (rows, columns) of the patch grid; their product is N.
    Returns:
        float `(B, rows, columns, D)`.
    """
    rows, columns = grid_size
    first = tokens.shape[1] - rows * columns
    return ops.reshape(tokens[:, first:], (-1, rows, columns, tokens.shape[-1]))


@keras.saving.register_keras_serializable(package="keras_mae")
class FeaturePyramid(keras.layers.Layer):
    """Make maps of several strides from the tokens of one transformer block, or of several.

    A level of scale 1 is the patch grid. Scales 2 and 4 are one and two transposed convolutions, 2
    pixels wide, with a LayerNorm and a GELU between the two. Scale .5 is a maximum over 2 x 2
    patches. To each of these come a convolution of 1 x 1 and one of 3 x 3, a LayerNorm after both.
    Scales below .5 are every 2nd, 4th, ... value of the level of scale .5.

    A level is named after its stride in pixels, `patch / scale`: "P4" has 2 ** 4 = 16. With patches
    of 16 the default levels are P2 to P6, of strides 4, 8, 16, 32 and 64; with patches of 8, P1 to
    P5. Where a stride is no power of 2, the nearest one names it: patches of 14 have strides 3.5 to
    56, P2 to P6. The attribute `strides` has the exact ones.

    Args:
        image_size: int or (H, W), multiples of the patch.
        patch_size: int or (p, q).
        filters: int F. Channels of each level.
        scales: levels to make, each a power of 2, at most 4: how many of the level's rows and
            columns a patch has.
        num_blocks: int n. Blocks whose tokens stand side by side; more than one are first mapped to
            the width of one.
        seed: int. Fixes the initial weights; None for any.
    Attributes:
        strides: dict, level -> (vertical, horizontal) floats, in pixels.
    Call arguments:
        tokens: float `(B, T, n D)`, of which the last N are the patches, row by row: what
            `ViTEncoder(images, last_blocks=n)` returns.
    Returns:
        dict, level -> float `(B, H / stride, W / stride, F)`, rounded up, the finest level first.
    Raises:
        ValueError: naming the argument that does not fit.
    Example:
        pyramid = FeaturePyramid(image_size=(128, 192), patch_size=16)
        pyramid(encoder(images))["P2"]  # (B, 32, 48, 256)
    Reference: Li et al. 2022, arXiv:2203.16527, section 3.
    """

    def __init__(
        self,
        image_size: Size,
        patch_size: Size = 16,
        filters: int = 256,
        scales: Sequence[float] = SCALES,
        num_blocks: int = 1,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = pair(image_size, "image_size")
        self.patch_size = pair(patch_size, "patch_size")
        check_positive_int(filters, "filters")
        check_positive_int(num_blocks, "num_blocks")
        self.grid_size = grid_size(self.image_size, self.patch_size)
        self.filters = filters
        self.scales = _check_scales(scales, min(self.patch_size))
        self.num_blocks = num_blocks
        self.seed = seed
        self.strides = {
            _level(scale, self.patch_size): (self.patch_size[0] / scale, self.patch_size[1] / scale)
            for scale in self.scales
        }
        self._parts: dict[str, keras.layers.Layer] = {}

    def build(self, input_shape: Shape) -> None:
        if input_shape[-1] % self.num_blocks:
            raise ValueError(
                f"`tokens` must have a width that {self.num_blocks} blocks share. "
                f"Received: shape {tuple(input_shape)}"
            )
        dim = input_shape[-1] // self.num_blocks
        if self.num_blocks > 1:
            self._add("fuse", keras.layers.Dense(dim, name="fuse"), input_shape[-1])
        for scale in self.scales:
            if scale < 0.5:
                continue
            name, width = part_of(scale), dim
            for i in range(int(math.log2(max(scale, 1)))):
                if i:
                    self._add(f"{name}_up_norm", None, width)
                half = max(width // 2, 1)
                self._add(
                    f"{name}_up_{i}",
                    keras.layers.Conv2DTranspose(half, 2, 2, data_format="channels_last"),
                    width,
                )
                width = half
            for kernel, bias in ((1, False), (3, False)):
                convolution = keras.layers.Conv2D(
                    self.filters,
                    kernel,
                    padding="same",
                    use_bias=bias,
                    data_format="channels_last",
                )
                self._add(f"{name}_conv_{kernel}", convolution, width)
                width = self.filters
                self._add(f"{name}_norm_{kernel}", None, width)

    def _add(self, name: str, layer: Any, width: int) -> None:
        """Make a part, a LayerNorm where `layer` is None, and build it for maps of a width."""
        if layer is None:
            layer = layer_norm(name, self.dtype_policy)
        else:
            seed = None if self.seed is None else self.seed + len(self._parts)
            start = keras.initializers.GlorotUniform(seed)
            own = {"name": name, "dtype": self.dtype_policy, "kernel_initializer": start}
            layer = type(layer).from_config({**layer.get_config(), **own})
        layer.build((None, None, None, width))
        self._parts[name] = layer

    @property
    def named_parts(self) -> dict[str, Any]:
        """The layers by name, for `keras_mae.models.weights`."""
        return self._parts

    def call(self, tokens: Tensor) -> dict[str, Tensor]:
        parts = self._parts
        x = patch_map(tokens, self.grid_size)
        if self.num_blocks > 1:
            x = parts["fuse"](x)
        levels: dict[str, Tensor] = {}
        for scale in self.scales:
            name = part_of(scale)
            if scale < 0.5:
                step = int(0.5 / scale)
                level = levels[_level(0.5, self.patch_size)][:, ::step, ::step]
            else:
                level = x
                if scale == 0.5:
                    level = ops.max_pool(x, 2, 2, padding="same", data_format="channels_last")
                for i in range(int(math.log2(max(scale, 1)))):
                    if i:
                        level = ops.gelu(parts[f"{name}_up_norm"](level), approximate=False)
                    level = parts[f"{name}_up_{i}"](level)
                for kernel in (1, 3):
                    level = parts[f"{name}_norm_{kernel}"](parts[f"{name}_conv_{kernel}"](level))
            levels[_level(scale, self.patch_size)] = level
        return levels

    def compute_output_shape(self, input_shape: Shape) -> dict[str, Shape]:
        return {
            _level(scale, self.patch_size): (
                input_shape[0],
                *(math.ceil(side * scale) for side in self.grid_size),
                self.filters,
            )
            for scale in self.scales
        }

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "filters": self.filters,
            "scales": list(self.scales),
            "num_blocks": self.num_blocks,
            "seed": self.seed,
        }


def _check_scales(scales: Sequence[float], patch: int) -> tuple[float, ...]:
    """Return the scales, the finest first, or raise a ValueError."""
    try:
        values = tuple(sorted((float(scale) for scale in scales), reverse=True))
        valid = len(values) > 0 and len(set(values)) == len(values)
        valid = valid and all(0 < v <= 4 and math.log2(v) % 1 == 0 for v in values)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(f"`scales` must be different powers of 2, at most 4. Received: {scales!r}")
    if patch < values[0]:
        raise ValueError(
            f"`scales` must leave strides of a pixel or more of patches of {patch}. "
            f"Received: {scales!r}"
        )
    if values[-1] < 0.5 and 0.5 not in values:
        raise ValueError(
            "`scales` must hold .5, of which scales below it are every other value. "
            f"Received: {scales!r}"
        )
    return values


def _level(scale: float, patch_size: tuple[int, int]) -> str:
    """Return a level's name: P and the nearest power of 2 to its stride."""
    stride = math.sqrt(patch_size[0] * patch_size[1]) / scale
    return f"P{round(math.log2(stride))}"


def part_of(scale: float) -> str:
    """Return how the layers of a scale begin: "x4", "x2", "x1" or "half"."""
    return "half" if scale == 0.5 else f"x{int(scale)}"
