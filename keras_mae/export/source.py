"""What is exported: a float32 copy of a model, its facts for the card, and its outputs."""

import dataclasses
import os

import keras
import numpy as np
from keras import ops

from keras_mae.files import weights_digest
from keras_mae.interop import load_encoder, load_pretrained
from keras_mae.layers.arguments import grid_size, pair
from keras_mae.layers.pooling import pool_tokens
from keras_mae.models.classifier import ViTClassifier
from keras_mae.models.detector import ViTDetector
from keras_mae.models.embedder import ViTEmbedder
from keras_mae.models.encoder import ViTEncoder
from keras_mae.models.segmenter import ViTSegmenter
from keras_mae.models.weights import assign_weights, get_weights
from keras_mae.pixels import BYTE_RANGE, pixel_dtype
from keras_mae.presets import list_presets, preset_config

# Models with a head -> what a card calls them, and what they do.
KINDS = {
    ViTClassifier: ("classifier", "classification"),
    ViTEmbedder: ("embedder", "features"),
    ViTSegmenter: ("segmenter", "segmentation"),
    ViTDetector: ("detector", "detection"),
}


@dataclasses.dataclass
class Source:
    """What is exported.

    Attributes:
        model: `ViTEncoder` or a model of `KINDS`, a float32 copy at the export's image size.
        facts: dict for the card: where it came from, sizes, value range and statistics, checksum.
    """

    model: keras.Model
    facts: dict

    @property
    def encoder(self):
        return getattr(self.model, "encoder", self.model)


def open_source(model, image_size=None):
    """Return the `Source` of a model or a path.

    Args:
        model, image_size: see `keras_mae.export.export_encoder`.
    Raises:
        ValueError: if it is no model of ours, has weights that float32 cannot hold or that are not
            finite, or cannot have the image size.
    """
    origin = type(model).__name__
    if isinstance(model, str | os.PathLike):
        origin, model = str(model), load_pretrained(model)
    if type(model) not in KINDS:
        try:
            model = load_encoder(model)
        except ValueError as error:
            raise ValueError(
                "`model` must be a ViTEncoder, a ViTClassifier, a ViTSegmenter, a ViTDetector, a "
                f"MaskedAutoencoder, or a path to one. Received: {model!r}"
            ) from error
    encoder = getattr(model, "encoder", model)
    if not isinstance(encoder, ViTEncoder):
        raise ValueError(f"`model` must have a ViTEncoder as its encoder. Received: {encoder!r}")
    weights = get_weights(model)
    _check_weights(weights)
    size = encoder.image_size if image_size is None else pair(image_size, "image_size")
    grid_size(size, encoder.patch_size)  # raises for a size that has no whole number of patches
    weights = {name: np.asarray(value, "float32") for name, value in weights.items()}
    copy = _float32_copy(model, encoder, size)
    assign_weights(copy, weights, encoder.grid_size)
    config = model.get_config()
    kind, task = KINDS.get(type(model), ("encoder", "features"))
    facts = {
        "kind": kind,
        "task": task,
        "source": origin,
        "preset": find_preset(encoder),
        "weights_sha256": weights_digest(weights),
        "parameters": int(sum(value.size for value in weights.values())),
        "trained_image_size": list(encoder.image_size),
        "image_size": list(size),
        "channels": encoder.channels,
        "patch_size": list(encoder.patch_size),
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "value_range": list(encoder.value_range),
        "pixel_dtype": pixel_dtype(encoder.value_range),
        "images": values_in_words(encoder.value_range),
        "hidden_dim": encoder.hidden_dim,
        "num_layers": encoder.num_layers,
        "num_heads": encoder.num_heads,
        "final_norm": encoder.final_norm,
        "num_class_tokens": encoder.num_class_tokens,
    }
    if model is not encoder:
        names = ("num_classes", "pooled_blocks", "class_names")
        facts.update({name: getattr(model, name) for name in names if name in config})
        if facts.get("class_names") is not None:
            facts["class_names"] = list(facts["class_names"])
        # A setting that is off is not told: cards of models without it stay what they were.
        more = ("pooling", "head", "whiten", "multi_label")
        facts.update({key: getattr(model, key) for key in more if config.get(key)})
        if isinstance(model, ViTDetector):
            facts["suppression"] = model.suppression
    return Source(copy, facts)


def _check_weights(weights):
    wide = sorted(name for name, value in weights.items() if value.dtype == np.float64)
    if wide:
        raise ValueError(f"`model` must have weights that fit in float32. Received float64: {wide}")
    broken = [n for n, v in weights.items() if not np.isfinite(np.asarray(v, "float32")).all()]
    if broken:
        raise ValueError(f"`model` must have finite weights. Received NaN or infinity in: {broken}")


def _float32_copy(model, encoder, image_size):
    """Return a model of the same architecture, computing in float32, all of it trainable."""
    changes = {"image_size": image_size, "dtype": "float32", "trainable": True}
    copy = ViTEncoder.from_config({**encoder.get_config(), **changes})
    if model is encoder:
        return copy
    config = {**model.get_config(), "dtype": "float32", "trainable": True}
    if "image_size" in config:
        config["image_size"] = None  # the encoder's
    if "trainable_blocks" in config and config.get("whiten") is None:
        config["trainable_blocks"] = None
    config["encoder"] = keras.saving.serialize_keras_object(copy)
    return type(model).from_config(config)


def values_in_words(value_range):
    """Return what an export's `images` hold, such as "int16 values from -1024 to 3071"."""
    low, high = (f"{value:.12g}" for value in value_range)
    if tuple(value_range) == BYTE_RANGE:
        return "pixels 0-255"
    return f"{pixel_dtype(value_range)} values from {low} to {high}"


def find_preset(encoder):
    """Return the preset of this encoder's architecture, whatever its image size, or None."""
    keys = ("channels", "hidden_dim", "num_layers", "num_heads")
    if encoder.layer_scale is not None or encoder.pre_norm:
        return None
    if encoder.num_class_tokens != 1 or encoder.num_registers:
        return None
    for name in list_presets():
        config = preset_config(name)
        if pair(config["patch_size"], "patch_size") == encoder.patch_size and all(
            config[key] == getattr(encoder, key) for key in keys
        ):
            return name
    return None


def pooled_tokens(model, images):
    """Return the tokens that a model pools: the encoder's, of a classifier's `pooled_blocks`.

    Args:
        model: a `Source`'s.
        images: float32 `(B, H, W, C)`, normalised.
    Returns:
        float32 `(B, T + N, D)`, or wider, the last block's at the end.
    """
    encoder = getattr(model, "encoder", model)
    return encoder(images, training=False, last_blocks=getattr(model, "pooled_blocks", 1))


def model_outputs(model, images, encode=None):
    """Return all that an export gives, in `keras.ops`: it can be traced.

    Args:
        model: a `Source`'s.
        images: float32 `(B, H, W, C)`, normalised.
        encode: function from these to what `pooled_tokens` returns, in its place.
    Returns:
        dict of float32 tensors: `tokens` `(B, T + N, D)`, `cls` and `pooled` `(B, D)`, and of a
        classifier `logits` and `probabilities` `(B, classes)`, and `pooled` as it pools; of an
        embedder `pooled` as it pools and whitens. Of a segmenter `logits` `(B, H, W, classes)` and
        `label_map`, uint8 `(B, H, W)`, alone. Of a detector what
        `ViTDetector.outputs_of_tokens` gives.
    """
    encoder = getattr(model, "encoder", model)
    wide = pooled_tokens(model, images) if encode is None else encode(images)
    if hasattr(model, "outputs_of_tokens"):
        return model.outputs_of_tokens(wide)
    tokens = wide[..., -encoder.hidden_dim :]
    count = encoder.num_class_tokens
    cls = pool_tokens(tokens, "token", count)
    if encoder is model:
        return {"tokens": tokens, "cls": cls, "pooled": pool_tokens(tokens, "mean", count)}
    pooled = pool_tokens(wide, model.pooling, count, encoder.grid_size)
    if model.whitening is not None:
        pooled = model.whitening(pooled)
    if not hasattr(model, "head"):
        return {"tokens": tokens, "cls": cls, "pooled": pooled}
    if model.feature_norm is not None:
        pooled = model.feature_norm(pooled, training=False)
    logits = model.head(pooled)
    outputs = {"tokens": tokens, "cls": cls, "pooled": pooled, "logits": logits}
    probabilities = ops.sigmoid(logits) if model.multi_label else ops.softmax(logits, axis=-1)
    return {**outputs, "probabilities": probabilities}
