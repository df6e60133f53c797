"""What an encoder's patch tokens say of the pictures: their principal components as colours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_mae.plots.attention import short
from keras_mae.plots.figures import (
    Shown,
    draw_picture,
    label_row,
    new_figure,
    picture_axes,
    save_figure,
    stretched,
)
from keras_mae.types import AnyPath, Tensor

BATCH = 32


def patch_components(model: Any, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the first three principal components of patch tokens, one basis for all images.

    Patches of the same colour have tokens that are alike, in one image and over all of them.

    Args:
        model: `ViTEncoder`, `SavedModelEncoder`, or a model with one as its `encoder`.
        images: float `(B, H, W, C)`, normalised.
    Returns:
        float64 `(B, rows, columns, 3)` in [0, 1], where what 1 % and 99 % of a component's values
        are below are 0 and 1; and float64 `(3,)`, the share of the variance of each component.
    Raises:
        ValueError: if the encoder does not tell the size of its patches, or the tokens are too few
            or too narrow for three components.
    Example:
        colours, shares = patch_components(encoder, images)
    """
    from sklearn.decomposition import PCA

    encoder = getattr(model, "encoder", model)
    if encoder.patch_size is None:
        raise ValueError(
            "`model` must tell the size of its patches, as the card.json beside a SavedModel does. "
            f"Received: a {type(encoder).__name__} without"
        )
    images = ops.convert_to_numpy(images)
    tokens = np.concatenate(
        [
            ops.convert_to_numpy(ops.cast(encoder(images[i : i + BATCH]), "float32"))
            for i in range(0, len(images), BATCH)
        ]
    )[:, encoder.num_class_tokens :]
    (height, width), (p, q) = encoder.image_size, encoder.patch_size
    rows = tokens.reshape(-1, tokens.shape[-1]).astype("float64")
    if min(rows.shape) < 3:
        raise ValueError(
            f"`images` must have at least 3 patches, and tokens 3 values. Received: {rows.shape}"
        )
    pca = PCA(n_components=3, svd_solver="full")
    values = pca.fit_transform(rows).reshape(len(images), height // p, width // q, 3)
    black, white = np.percentile(values, (1, 99), axis=(0, 1, 2))
    return stretched(values, black, white), pca.explained_variance_ratio_


def components_figure(
    model: Any,
    images: Tensor,
    path: AnyPath,
    bands: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Draw pictures, and below each the three first components of its patch tokens as colours.

    Args:
        model, images: see `patch_components`.
        path: a PNG file, written atomically.
        bands: see `reconstruction_figure`.
        names: list of str, written above the pictures; None: nothing.
    Raises:
        ValueError: see `patch_components`.
    """
    colours, shares = patch_components(model, images)
    shown = Shown(model, images, bands)
    columns = min(len(images), 8)
    blocks = -(-len(images) // columns)
    figure = new_figure(1.3 * columns + 1, 2 * shown.height * blocks + 0.45)
    axes = picture_axes(figure, 2 * blocks, columns)
    for i, (picture, patches) in enumerate(zip(shown(images), colours, strict=True)):
        above, below = (axes[2 * (i // columns) + row, i % columns] for row in (0, 1))
        draw_picture(above, picture)
        below.imshow(patches)
        if names is not None:
            above.set_title(short(names[i]), fontsize=8, parse_math=False)
    label_row(axes[0, 0], "picture")
    label_row(axes[1, 0], "components")
    parts = ", ".join(
        f"{colour} {share:.0%}"
        for colour, share in zip(("red", "green", "blue"), shares, strict=True)
    )
    figure.supxlabel(f"share of the tokens' variance: {parts}", fontsize=8)
    save_figure(figure, path)
