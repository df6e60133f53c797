"""KerasHub's presets of a ViT: names of weights, and its config, converter and task files.

Reading needs h5py only, which comes with Keras, and makes nothing of what a config names. Writing
is KerasHub's own, so that its files are as it expects them: `pip install "keras_mae[keras_hub]"`.
"""

import inspect
import json
import logging
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mae.models.encoder import ViTEncoder
from keras_mae.models.weights import get_weights
from keras_mae.pixels import BYTE_RANGE
from keras_mae.types import AnyPath

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.weights.h5"
_HEAD_FILE = "task.weights.h5"
# What is added to its metadata: names of classes, and the statistics, to the last digit. Others
# ignore it.
_OUR_KEY = "keras_mae"
_BACKBONE, _CLASSIFIER = "ViTBackbone", "ViTImageClassifier"

# Our layer -> theirs, and the leaves in the order of its variables.
_LINEAR, _NORM = ("kernel", "bias"), ("gamma", "beta")
_EMBEDDING, _ENCODER = "vi_t_patching_and_embedding", "vi_t_encoder"
_LAYERS = {
    "encoder.patch_embedding.projection": (f"{_EMBEDDING}/patch_embedding", _LINEAR),
    "encoder.positions": (f"{_EMBEDDING}/position_embedding", ("table",)),
    "encoder.norm": (f"{_ENCODER}/layer_norm", _NORM),
}
_CLASS_TOKEN = "encoder.class_token"
_BLOCK_LAYERS = {
    "attention_norm": ("layer_norm_1", _NORM),
    "attention.output_projection": ("mha/output_dense", _LINEAR),
    "mlp_norm": ("layer_norm_2", _NORM),
    "mlp.hidden": ("mlp/dense_1", _LINEAR),
    "mlp.output_projection": ("mlp/dense_2", _LINEAR),
}
_QKV = "attention.query_key_value"
_QKV_PARTS = ("mha/query_dense", "mha/key_dense", "mha/value_dense")

# Arguments of ViTBackbone that our encoder has, or has in no other way than this.
_KNOWN = (
    "image_shape",
    "patch_size",
    "num_layers",
    "num_heads",
    "hidden_dim",
    "mlp_dim",
    "layer_norm_epsilon",
)
_ONLY = {
    "use_mha_bias": (True,),
    "use_mlp_bias": (True,),
    "use_class_token": (True,),
    "use_patch_bias": (True,),
    "data_format": (None, "channels_last"),
}
_HEAD_ONLY = {"pooling": ("token",), "activation": (None, "linear"), "intermediate_dim": (None,)}
# These act in training only, or say nothing of the numbers.
_WITHOUT_EFFECT = ("name", "trainable", "dtype", "dropout_rate", "attention_dropout")
# Arguments of our encoder that a preset has, or that act in training only.
_WRITTEN = (
    "image_size",
    "channels",
    "patch_size",
    "hidden_dim",
    "num_layers",
    "num_heads",
    "mlp_dim",
    "drop_path",
    "learned_positions",
    "final_norm",
    "norm_epsilon",
    "mean",
    "std",
    "value_range",
    "seed",
)
# Largest error of a normalised value that the converter's float32 may make.
_CONVERTER_ERROR = 1e-5


def is_preset(path: AnyPath) -> bool:
    """Return whether a file of weights lies in a preset of KerasHub's."""
    folder = Path(path).parent
    return Path(path).name == WEIGHTS_FILE and (folder / "metadata.json").is_file()


def read_preset(path: AnyPath) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (weights, arguments of ours) of a preset of a ViT.

    Args:
        path: its `model.weights.h5`; the other files lie beside it.
    Raises:
        ValueError: if it is broken, of another backbone, or has what our models have not.
    """
    folder = Path(path).parent
    backbone = _config_of(folder / "config.json", _BACKBONE)
    _check_only(backbone, _ONLY, (*_KNOWN, *_WITHOUT_EFFECT), folder / "config.json")
    height, width, channels = backbone["image_shape"]
    config = {
        "image_size": (height, width),
        "channels": channels,
        "patch_size": backbone["patch_size"],
        "num_heads": backbone["num_heads"],
        "norm_epsilon": backbone["layer_norm_epsilon"],
    }
    weights = _encoder_weights(_read_h5(path), backbone["num_layers"], path)
    added = (_json(folder / "metadata.json") or {}).get(_OUR_KEY) or {}
    config |= _pixel_arguments(folder, channels, added)
    if (folder / "task.json").is_file():
        weights |= _head_weights(folder)
        if "head.kernel" in weights:
            config |= {"class_names": added.get("class_names")}
    return weights, {key: value for key, value in config.items() if value is not None}


def _json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object of a file, or None if there is no file."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`path` is truncated or broken. Received: {path} ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"`path` must hold a JSON object. Received: {path}")
    return content


def _config_of(path: Path, class_name: str) -> dict[str, Any]:
    """Return the arguments in a file of KerasHub's, which must be of one class."""
    content = _json(path)
    found = None if content is None else content.get("class_name")
    if content is None or found != class_name or not isinstance(content.get("config"), dict):
        raise ValueError(f"`path` must hold a {class_name} of KerasHub. Received: {path}, {found}")
    return content["config"]


def _check_only(
    config: dict[str, Any], only: dict[str, tuple], others: tuple[str, ...], path: Path
) -> None:
    """Raise for arguments with other values than ours have, and for those that are not known."""
    wrong = {key: config[key] for key in only if key in config and config[key] not in only[key]}
    wrong |= {key: v for key, v in config.items() if key not in only and key not in others}
    if wrong:
        raise ValueError(
            f"`path` must be a model of KerasHub's with {_words(only)} and nothing that is not "
            f"known here. Received: {path}, with {wrong}"
        )


def _words(only: dict[str, tuple]) -> str:
    return ", ".join(f"{key}={values[0]!r}" for key, values in only.items())


def _read_h5(path: AnyPath) -> dict[str, np.ndarray]:
    """Return all arrays of a file of weights, by name; links out of the file are not followed."""
    import h5py

    found: dict[str, Any] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual or item.nbytes > os.path.getsize(path):
                raise ValueError(
                    f"`path` must hold its weights itself. Received: {path}, whose {name} does not"
                )
            found[name] = _float32(name, item)

    try:
        with h5py.File(path) as file:
            file.visititems(keep)
    except OSError as error:
        raise ValueError(f"`path` is truncated or broken. Received: {path} ({error})") from error
    return found


def _float32(name: str, item: Any) -> Any:
    """Return a data set as float32; what is no float (an optimizer's count, say) as it is."""
    value = np.asarray(item)
    if item.attrs.get("dtype") == "bfloat16":  # HDF5 has no such type: two bytes that say nothing
        import ml_dtypes

        value = value.view(ml_dtypes.bfloat16)
    elif value.dtype.kind != "f":
        return value
    return value.astype("float32")


def _take(arrays: dict[str, np.ndarray], name: str, path: AnyPath) -> np.ndarray:
    if name not in arrays or arrays[name].dtype != np.float32:
        raise ValueError(
            f"`path` must hold {name}, as floats. Received: {path}, which has "
            f"{arrays[name].dtype if name in arrays else 'none'}"
        )
    return arrays[name]


def _encoder_weights(
    arrays: dict[str, np.ndarray], num_layers: int, path: AnyPath
) -> dict[str, np.ndarray]:
    """Return the backbone's weights in our names and layouts."""

    def take(layer: str, index: int) -> np.ndarray:
        return _take(arrays, f"layers/{layer}/vars/{index}", path)

    weights = {_CLASS_TOKEN: take(_EMBEDDING, 0)}
    for ours, (theirs, leaves) in _LAYERS.items():
        for index, leaf in enumerate(leaves):
            weights[f"{ours}.{leaf}"] = take(theirs, index)
    kernel = "encoder.patch_embedding.projection.kernel"
    weights[kernel] = weights[kernel].reshape(-1, weights[kernel].shape[-1])
    for i in range(num_layers):
        block = f"{_ENCODER}/encoder_layers/vi_t_encoder_block{f'_{i}' if i else ''}"
        ours = f"encoder.blocks.{i}"
        for layer, (theirs, leaves) in _BLOCK_LAYERS.items():
            for index, leaf in enumerate(leaves):
                weights[f"{ours}.{layer}.{leaf}"] = take(f"{block}/{theirs}", index)
        # (heads, d, D) and thrice (D, heads, d), without an axis for the heads.
        output = weights[f"{ours}.attention.output_projection.kernel"]
        width = output.shape[-1]
        weights[f"{ours}.attention.output_projection.kernel"] = output.reshape(-1, width)
        kernels, biases = (
            [take(f"{block}/{part}", index) for part in _QKV_PARTS] for index in (0, 1)
        )
        weights[f"{ours}.{_QKV}.kernel"] = np.concatenate(
            [part.reshape(width, -1) for part in kernels], axis=1
        )
        weights[f"{ours}.{_QKV}.bias"] = np.concatenate([part.reshape(-1) for part in biases])
    return weights


def _head_weights(folder: Path) -> dict[str, np.ndarray]:
    """Return the classifier's head; nothing where the preset has none."""
    task = _config_of(folder / "task.json", _CLASSIFIER)
    others = ("backbone", "preprocessor", "num_classes", "dropout", *_WITHOUT_EFFECT)
    _check_only(task, _HEAD_ONLY, others, folder / "task.json")
    path = folder / _HEAD_FILE
    if not path.is_file():
        logger.warning("%s has no weights of its head: the encoder is opened alone", folder)
        return {}
    arrays = _read_h5(path)
    return {
        f"head.{leaf}": _take(arrays, f"layers/dense/vars/{index}", path)
        for index, leaf in enumerate(_LINEAR)
    }


def _pixel_arguments(folder: Path, channels: int, added: dict[str, Any]) -> dict[str, Any]:
    """Return `value_range`, `mean` and `std` of what the preset does to an image.

    Args:
        folder: of the preset.
        channels: int.
        added: what `save_preset` added, used where it says the same.
    """
    converter = _json(folder / "image_converter.json")
    if converter is None:
        preprocessor = (_json(folder / "preprocessor.json") or {}).get("config") or {}
        converter = preprocessor.get("image_converter")
    if converter is None:
        logger.warning(
            "%s has no image converter: pixels are taken to be 0-255, normalised as models are "
            "that do not say how",
            folder,
        )
        return {}
    known = converter.get("config") or {}
    old = [name for name in ("mean", "variance") if name in known]
    scale, offset = known.get("scale"), known.get("offset")
    scale = np.broadcast_to(np.asarray(1.0 if scale is None else scale, "float64"), channels)
    offset = np.broadcast_to(np.asarray(0.0 if offset is None else offset, "float64"), channels)
    if old or not (np.isfinite(scale).all() and (scale > 0).all() and np.isfinite(offset).all()):
        raise ValueError(
            "`path` must have an image converter with positive `scale` and finite `offset`. "
            f"Received: {folder}, with {known}"
        )
    if added.get("value_range") is not None:
        ours = {key: added[key] for key in ("value_range", "mean", "std")}
        said = _scale_and_offset(**ours)
        if np.allclose(said[0], scale, rtol=1e-6) and np.allclose(said[1], offset, rtol=1e-6):
            return ours
    # value * scale + offset = (value / 255 - mean) / std.
    std = 1 / (BYTE_RANGE[1] * scale)
    return {"value_range": BYTE_RANGE, "mean": (-offset * std).tolist(), "std": std.tolist()}


def _scale_and_offset(mean: Any, std: Any, value_range: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 arrays `(C,)` with which `value * scale + offset` is normalised."""
    low, high = value_range
    scale = 1 / ((high - low) * np.asarray(std, "float64"))
    return scale, -low * scale - np.asarray(mean, "float64") / np.asarray(std, "float64")


def save_preset(model: keras.Model, folder: Path, kind: str, config: dict[str, Any]) -> None:
    """Write an encoder, or a classifier with its encoder, as a preset into an empty folder.

    Args:
        model: `MaskedAutoencoder`, of which the encoder is written; `ViTEncoder`; `ViTClassifier`.
        folder: `Path`, there already.
        kind: str, see `keras_mae.interop.keras_format.kind_of`.
        config: dict, see `flat_config` there.
    Raises:
        ValueError: naming what KerasHub's ViT has not.
        ImportError: if KerasHub is not installed.
    """
    _check_expressible(kind, config)
    hub = _import_keras_hub()
    weights = get_weights(model)
    if kind == "autoencoder":
        logger.warning("The decoder is left out: KerasHub has none for masked autoencoders")
    backbone = hub.models.ViTBackbone(
        image_shape=(*config["image_size"], config["channels"]),
        patch_size=tuple(config["patch_size"]),
        num_layers=config["num_layers"],
        num_heads=config["num_heads"],
        hidden_dim=config["hidden_dim"],
        mlp_dim=config["mlp_dim"],
        layer_norm_epsilon=config["norm_epsilon"],
        dtype="float32",
    )
    _assign_encoder(backbone, weights)
    scale, offset = _scale_and_offset(config["mean"], config["std"], config["value_range"])
    converter = hub.layers.ViTImageConverter(
        image_size=tuple(config["image_size"]),
        scale=scale.tolist(),
        offset=offset.tolist(),
        # As our own images are resized where they are evaluated.
        interpolation="bicubic",
        antialias=True,
    )
    if kind == "classifier":
        task = hub.models.ViTImageClassifier(
            backbone,
            config["num_classes"],
            preprocessor=hub.models.ViTImageClassifierPreprocessor(converter),
            pooling="token",
            head_dtype="float32",
        )
        task.output_dense.kernel.assign(weights["head.kernel"])
        task.output_dense.bias.assign(weights["head.bias"])
        task.save_to_preset(str(folder))
    else:
        backbone.save_to_preset(str(folder))
        converter.save_to_preset(str(folder))
    metadata = _json(folder / "metadata.json") or {}
    metadata[_OUR_KEY] = {
        key: config.get(key) for key in ("value_range", "mean", "std", "class_names")
    }
    with open(folder / "metadata.json", "w", encoding="utf-8") as file:
        json.dump(metadata, file, indent=4)


def _import_keras_hub() -> Any:
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            "`format` 'keras_hub' needs KerasHub, which is not installed: "
            'pip install "keras_mae[keras_hub]"'
        ) from error
    return keras_hub


def _assign_encoder(backbone: Any, weights: dict[str, np.ndarray]) -> None:
    """Put our encoder's weights into a `ViTBackbone`: the way back of `_encoder_weights`."""
    layers = {
        _EMBEDDING: backbone.get_layer("vit_patching_and_embedding"),
        _ENCODER: backbone.get_layer("vit_encoder"),
    }

    def put(layer: Any, index: int, value: np.ndarray) -> None:
        variable = layer.variables[index]
        variable.assign(value.reshape(variable.shape))

    def layer_of(root: Any, path: str) -> Any:
        for name in path.split("/"):
            root = getattr(root, name)
        return root

    layers[_EMBEDDING].class_token.assign(weights[_CLASS_TOKEN])
    for ours, (theirs, leaves) in _LAYERS.items():
        root, _, path = theirs.partition("/")
        for index, leaf in enumerate(leaves):
            put(layer_of(layers[root], path), index, weights[f"{ours}.{leaf}"])
    for i, block in enumerate(layers[_ENCODER].encoder_layers):
        name = f"encoder.blocks.{i}"
        for ours, (theirs, leaves) in _BLOCK_LAYERS.items():
            for index, leaf in enumerate(leaves):
                put(layer_of(block, theirs), index, weights[f"{name}.{ours}.{leaf}"])
        for index, leaf in enumerate(_LINEAR):
            parts = np.split(weights[f"{name}.{_QKV}.{leaf}"], 3, axis=-1)
            for theirs, part in zip(_QKV_PARTS, parts, strict=True):
                put(layer_of(block, theirs), index, part)


def _check_expressible(kind: str, config: dict[str, Any]) -> None:
    if kind == "classifier" and (config["pooling"] != "token" or config["head_norm"] is not None):
        raise ValueError(
            "`format` 'keras_hub' holds classifiers with pooling='token' and head_norm=None only; "
            f"use '.keras'. Received: pooling={config['pooling']!r}, "
            f"head_norm={config['head_norm']!r}"
        )
    if not config.get("final_norm", True):
        raise ValueError(
            "`format` 'keras_hub' holds encoders with a final LayerNorm only. Received: "
            "final_norm=False"
        )
    # Whatever else makes an encoder another one than the plain ViT, ViTBackbone has no word for.
    parameters = inspect.signature(ViTEncoder.__init__).parameters
    more = {
        name: config[name]
        for name, parameter in parameters.items()
        if name in config and name not in _WRITTEN and config[name] != parameter.default
    }
    if more:
        raise ValueError(
            f"`format` 'keras_hub' holds plain vision transformers only; use '.keras'. Received: "
            f"{', '.join(f'{name}={value!r}' for name, value in more.items())}"
        )
    # Its converter multiplies values as they are, and then adds: far from 0, digits are lost.
    scale, _ = _scale_and_offset(config["mean"], config["std"], config["value_range"])
    largest = np.abs(config["value_range"]).max() * scale.max()
    if largest * np.finfo("float32").eps > _CONVERTER_ERROR:
        raise ValueError(
            "`format` 'keras_hub' holds value ranges that its image converter can map in float32; "
            f"use '.keras'. Received: {config['value_range']}"
        )
