"""Images to patches and back."""

from typing import Any

import keras
from keras import ops

from keras_mae.layers.arguments import check_positive_int, grid_size, pair
from keras_mae.types import Shape, Size, Tensor


def patchify(images: Tensor, patch_size: Size) -> Tensor:
    """Cut images into a row-major sequence of non-overlapping patches.

    A patch's values are ordered (row in patch, column in patch, channel).

    Args:
        images: any dtype `(B, H, W, C)`; H, W and C are static.
        patch_size: int or (p, q). Height and width of a patch.
    Returns:
        `(B, N, P)` of the images' dtype, `N = H/p * W/q` and `P = p * q * C`.
    Raises:
        ValueError: if the patches do not tile the image, or it is not a batch.
    Reference: He et al. 2021, arXiv:2111.06377, section 3.
    """
    if len(images.shape) != 4:
        raise ValueError(
            "`images` must have the shape (batch, height, width, channels). "
            f"Received: shape {tuple(images.shape)}"
        )
    _, height, width, channels = images.shape
    p, q = pair(patch_size, "patch_size")
    h, w = grid_size((height, width), (p, q))
    x = ops.reshape(images, (-1, h, p, w, q, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, h * w, p * q * channels))


def unpatchify(patches: Tensor, patch_size: Size, image_size: Size) -> Tensor:
    """Put patches back into images: the inverse of `patchify`.

    Args:
        patches: any dtype `(B, N, P)`.
        patch_size: int or (p, q).
        image_size: int or (H, W).
    Returns:
        `(B, H, W, C)` with `C = P / (p * q)`.
    Raises:
        ValueError: if N or P does not fit the sizes.
    """
    p, q = pair(patch_size, "patch_size")
    height, width = pair(image_size, "image_size")
    h, w = grid_size((height, width), (p, q))
    _, num_patches, values = patches.shape
    if num_patches != h * w:
        raise ValueError(
            f"`patches` must hold {h * w} patches for image_size={image_size} and "
            f"patch_size={patch_size}. Received: shape {tuple(patches.shape)}"
        )
    if values % (p * q):
        raise ValueError(
            f"`patches` must hold a multiple of {p * q} values each for patch_size={patch_size}. "
            f"Received: shape {tuple(patches.shape)}"
        )
    channels = values // (p * q)
    x = ops.reshape(patches, (-1, h, w, p, q, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height, width, channels))


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Pick tokens of each sequence by index.

    Args:
        tokens: `(B, N, D)`, or `(1, N, D)` to pick from one sequence for the whole batch.
        ids: int `(B, K)` in [0, N).
    Returns:
        `(B, K, D)` of the tokens' dtype, in the order of `ids`.
    """
    size, num_tokens, dim = tokens.shape
    ids = ops.cast(ids, "int32")
    if size == 1:
        return ops.take(tokens[0], ids, axis=0)
    # One gather of rows of a matrix: faster than a batched gather, on CPU and under XLA.
    batch = ops.shape(ids)[0]
    rows = ids + ops.expand_dims(ops.arange(batch, dtype="int32") * num_tokens, axis=1)
    return ops.take(ops.reshape(tokens, (-1, dim)), rows, axis=0)


@keras.saving.register_keras_serializable(package="keras_mae")
class PatchEmbedding(keras.layers.Layer):
    """Project patches to tokens with one linear map and a bias.

    It takes patches, not images, so that hidden patches are never embedded.

    Args:
        hidden_dim: int. Width D of a token.
    Call arguments:
        patches: float `(B, K, P)`.
    Returns:
        float `(B, K, D)`.
    Reference: Dosovitskiy et al. 2020, arXiv:2010.11929, equation 1. The kernel is initialised as
        a linear layer's (Xavier uniform over P and D), as He et al. 2021, appendix A.1, do.
    """

    def __init__(self, hidden_dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive_int(hidden_dim, "hidden_dim")
        self.hidden_dim = hidden_dim
        self.projection = keras.layers.Dense(
            hidden_dim,
            kernel_initializer="glorot_uniform",
            name="projection",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape: Shape) -> None:
        self.projection.build(input_shape)

    def call(self, patches: Tensor) -> Tensor:
        return self.projection(patches)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.hidden_dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "hidden_dim": self.hidden_dim}
