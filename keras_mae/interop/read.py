"""Open a checkpoint, whatever wrote it, without running anything that is in it."""

import dataclasses
import json
import os
import zipfile
from typing import Any

import numpy as np

from keras_mae.interop import keras_hub_format
from keras_mae.interop import transformers_format as hf
from keras_mae.interop.hub import resolve
from keras_mae.interop.keras_format import read_keras
from keras_mae.interop.names import our_name, to_our_layout
from keras_mae.types import AnyPath

# What `save_pretrained` adds to a PyTorch file: the model's arguments. Other readers ignore it.
CONFIG_KEY = "keras_mae"
# Where PyTorch training scripts keep the weights in their checkpoints, beside optimizer states.
_WEIGHT_KEYS = ("model", "state_dict", "model_state_dict")
_KERAS_NAMES = ("mae.keras", "model.keras", "encoder.keras")


@dataclasses.dataclass
class Checkpoint:
    """What a file says: weights in our names and layout, and the model's arguments as far as known.

    Attributes:
        weights: dict, our name to array.
        config: dict, arguments of `MaskedAutoencoder`, `ViTEncoder` or `ViTClassifier`.
        unknown: names in the file that have no name of ours.
        model: the model itself, from a `.keras` file; else None.
    """

    weights: dict
    config: dict
    unknown: tuple = ()
    model: object = None


def read_checkpoint(path: AnyPath) -> Checkpoint:
    """Read a file or a folder, recognised by its content.

    Raises:
        FileNotFoundError: if there is none, or a folder holds none.
        ValueError: if it is broken, unsafe, or of another kind.
        ImportError: if it needs PyTorch, and PyTorch is not installed.
    """
    path = find_file(os.fspath(resolve(path)))
    if keras_hub_format.is_preset(path):
        return Checkpoint(*keras_hub_format.read_preset(path))
    with open(path, "rb") as file:
        start = file.read(16)
    if start[:4] == b"PK\x03\x04" and _is_keras_archive(path):
        model, weights, config = read_keras(path)
        return Checkpoint(weights, config, model=model)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        weights, config = _read_torch(path)
    elif start[8:9] == b"{":
        weights, config = _read_safetensors(path), {}
    elif start[:8] == b"\x89HDF\r\n\x1a\n":
        raise ValueError(
            f"`path` must hold an architecture: build the model, and call `load_weights` for a "
            f"Keras weights file. Received: {path}"
        )
    elif start.startswith(b"version https:/"):
        raise ValueError(f"`path` is a Git LFS pointer; fetch the file itself. Received: {path}")
    else:
        raise ValueError(
            "`path` must be a .keras archive, a safetensors file, or a PyTorch file; it is none, "
            f"or its beginning is lost. Received: {path}"
        )
    return _from_reference(path, weights, config)


def _from_reference(
    path: str, weights: dict[str, np.ndarray], config: dict[str, Any]
) -> Checkpoint:
    """Return a `Checkpoint` of weights in PyTorch's names and layouts."""
    if hf.is_transformers(weights):
        known = hf.config_from_transformers(
            _beside(path, "config.json"), _beside(path, "preprocessor_config.json")
        )
        config = {**known, **config}
        weights = hf.from_transformers(weights)
    elif not config:
        config = _timm_config(_beside(path, "config.json"))
    ours, unknown = {}, []
    for name, value in weights.items():
        renamed = our_name(name)
        if renamed is None:
            unknown.append(name)
            continue
        if renamed == "encoder.patch_embedding.projection.kernel" and value.ndim == 4:
            config = {**config, "channels": value.shape[1], "patch_size": value.shape[2:]}
        ours[renamed] = to_our_layout(renamed, value)
    if "encoder.patch_embedding.projection.kernel" not in ours:
        raise ValueError(
            "`path` must hold a masked autoencoder or a vision transformer of Meta's, "
            "transformers' or timm's names. Received: "
            f"{path}, with {len(unknown)} unknown names: {', '.join(unknown[:8])}"
        )
    return Checkpoint(ours, config, tuple(unknown))


def find_file(path: str) -> str:
    """Return the file that holds the weights: `path`, or the one in the folder `path`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a folder holds several and none is named as usual.
    """
    if os.path.isfile(path):
        return path
    if not os.path.isdir(path):
        raise FileNotFoundError(f"`path` must be a file or a folder. Received: {path}")
    files = sorted(os.listdir(path))
    usual = (
        *_KERAS_NAMES,
        "model.safetensors",
        keras_hub_format.WEIGHTS_FILE,
        "pytorch_model.bin",
    )
    found = [name for name in usual if name in files][:1]
    found = found or [f for f in files if f.endswith((".keras", ".safetensors", ".pth", ".bin"))]
    if len(found) > 1:
        raise ValueError(f"`path` must hold one checkpoint; name one of {found}. Received: {path}")
    if not found:
        raise FileNotFoundError(
            f"`path` must hold a .keras, .safetensors, .pth or .bin file. Received: {path}, which "
            f"holds {files}"
        )
    return os.path.join(path, found[0])


def _beside(path: str, name: str) -> Any:
    """Return the JSON object in a file of the same folder, or None if there is none."""
    file = os.path.join(os.path.dirname(path), name)
    if not os.path.isfile(file):
        return None
    try:
        with open(file, encoding="utf-8") as stream:
            return json.load(stream)
    except ValueError as error:
        raise ValueError(f"`path` is truncated or broken. Received: {file} ({error})") from error


def _timm_config(config: dict[str, Any] | None) -> dict[str, Any]:
    """Return what timm's config.json tells: statistics of pixels, pooling, names of classes."""
    config = config or {}
    pretrained = config.get("pretrained_cfg", {})
    ours = {
        "mean": pretrained.get("mean"),
        "std": pretrained.get("std"),
        "class_names": config.get("label_names"),
    }
    if "global_pool" in config:
        ours["pooling"] = {"avg": "mean", "token": "token"}.get(config["global_pool"])
    return {key: value for key, value in ours.items() if value is not None}


def _is_keras_archive(path: AnyPath) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "model.weights.h5" in archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"`path` is truncated or broken. Received: {path} ({error})") from error


def _read_safetensors(path: str) -> dict[str, np.ndarray]:
    import safetensors
    import safetensors.numpy

    try:
        weights = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ValueError(
            f"`path` is truncated, broken, or of a type NumPy has not. Received: {path} ({error})"
        ) from error
    return {name: _float32(name, value) for name, value in weights.items()}


def _read_torch(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (weights, config) of a PyTorch file; only tensors and plain values are opened."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is a PyTorch file, and PyTorch is not installed: "
            'pip install "keras_mae[interop]"'
        ) from error
    import argparse

    try:
        # Training scripts keep their arguments in a Namespace: it holds values, and runs nothing.
        # An open file, as `torch.load` goes by the suffix of a name.
        with torch.serialization.safe_globals([argparse.Namespace]), open(path, "rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # A broken pickle can raise anything.
        raise ValueError(
            "`path` is truncated, or holds more than weights; nothing in it was run. Received: "
            f"{path} ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"`path` must hold a dict of tensors. Received: a {type(content)}")
    config = dict(content.get(CONFIG_KEY, {})) or _arguments(content.get("args"))
    for key in _WEIGHT_KEYS:
        if isinstance(content.get(key), dict):
            content = content[key]
    weights = {
        name.removeprefix("module."): _float32(name, value.detach().float().numpy())
        for name, value in content.items()
        if isinstance(value, torch.Tensor) and not name.endswith("num_batches_tracked")
    }
    return weights, config


def _arguments(args: Any) -> dict[str, Any]:
    """Return what the reference's training arguments tell of the model."""
    args = getattr(args, "__dict__", {})
    known = ("mask_ratio", "norm_pix_loss")
    return {key: args[key] for key in known if key in args}


def _float32(name: str, value: Any) -> np.ndarray:
    if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
        raise ValueError(f"`path` must hold floats. Received: {name} of dtype {value.dtype}")
    return np.asarray(value, "float32")
