"""What the backbones share: an encoder, and its pyramid at strides that are powers of 2."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_mae.layers.arguments import check_positive_int, pair
from keras_mae.layers.feature_pyramid import FeaturePyramid
from keras_mae.models.encoder import ViTEncoder
from keras_mae.models.openers import open_encoder

LEVELS = ("P2", "P3", "P4", "P5")  # detectors make coarser ones of them
FINEST_SCALE = 4


def opened(encoder: Any, image_size: Any = None) -> ViTEncoder:
    """Return the encoder that a backbone is made of, a copy for another size of images.

    Raises:
        ValueError: unless it is a `ViTEncoder`, or has one.
    """
    if isinstance(encoder, dict):  # from a config
        return keras.saving.deserialize_keras_object(encoder)
    found = open_encoder(encoder)
    if not isinstance(found, ViTEncoder):
        raise ValueError(f"`encoder` must be, or have, a ViTEncoder. Received: {encoder!r}")
    if image_size is not None and pair(image_size, "image_size") != found.image_size:
        return found.adapted(image_size=image_size)
    return found


def levels_of(
    encoder: ViTEncoder,
    filters: int,
    trainable_blocks: float | None,
    levels: Sequence[str] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Return symbolic images and the levels of a backbone, each the output of a layer of its name.

    Args:
        encoder: `ViTEncoder`, whose parts are frozen here.
        filters, trainable_blocks, levels: see `keras_mae.backbones.keras_cv`.
    Raises:
        ValueError: naming the argument that does not fit.
    """
    check_positive_int(filters, "filters")
    patch = encoder.patch_size[0]
    if encoder.patch_size[1] != patch or patch & (patch - 1):
        raise ValueError(
            "`encoder` must have square patches of 1, 2, 4, 8, ... pixels: the strides of levels "
            f"are powers of 2. Received: patches of {encoder.patch_size}"
        )
    known = {level: patch / 2 ** int(level[1:]) for level in LEVELS}
    known = {level: scale for level, scale in known.items() if scale <= FINEST_SCALE}
    names = list(known) if levels is None else list(levels)
    if not names or not set(names) <= set(known):
        raise ValueError(
            f"`levels` must be among {list(known)} with patches of {patch}. Received: {levels!r}"
        )
    scales = [known[name] for name in names]
    if min(scales) < 0.5:
        scales = sorted({*scales, 0.5})
    if trainable_blocks is not None:
        for part in encoder.frozen_parts(trainable_blocks):
            part.trainable = False
    images = keras.Input((*encoder.image_size, encoder.channels))
    pyramid = FeaturePyramid(
        encoder.image_size,
        encoder.patch_size,
        filters,
        scales,
        name="pyramid",
        dtype=encoder.dtype_policy,
    )
    found = pyramid(encoder(images))
    return images, {
        name: keras.layers.Identity(name=name, dtype=encoder.dtype_policy)(found[name])
        for name in names
    }


def config_of(backbone: Any) -> dict[str, Any]:
    """Return a backbone's config."""
    return {
        "name": backbone.name,
        "trainable": backbone.trainable,
        "encoder": keras.saving.serialize_keras_object(backbone.encoder),
        "filters": backbone.filters,
        "trainable_blocks": backbone.trainable_blocks,
        "levels": backbone.levels,
    }
