"""Open a checkpoint, whatever wrote it, without running anything that is in it."""

import dataclasses
import json
import logging
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_mae.interop import keras_hub_format
from keras_mae.interop import transformers_format as hf
from keras_mae.interop.copies import model_weights
from keras_mae.interop.dialects import to_reference_names
from keras_mae.interop.hub import resolve
from keras_mae.interop.keras_format import read_keras
from keras_mae.interop.leftovers import say_left_out, sort_unknown, unsupported
from keras_mae.interop.names import our_name, to_our_layout
from keras_mae.interop.shards import SUFFIX, is_shard, read_shards
from keras_mae.interop.timm_format import config_from_timm
from keras_mae.types import AnyPath

logger = logging.getLogger(__name__)

# What `save_pretrained` adds to a PyTorch file: the model's arguments. Other readers ignore it.
CONFIG_KEY = "keras_mae"
_KERAS_NAMES = ("mae.keras", "model.keras", "encoder.keras")
_TORCH_NAMES = ("model.safetensors", "pytorch_model.bin")
_PROJECTION = "encoder.patch_embedding.projection.kernel"
# Layers that may be without a bias, which then is 0.
_BIASED = (
    "attention.query_key_value",
    "attention.output_projection",
    "mlp.hidden",
    "mlp.output_projection",
)
# Of a table of ours, one row is no patch's.
_OUR_ROWS: dict[str, Any] = {"position_rows": 1}
# CLIP's, whose models have a norm before the blocks.
_PRE_NORM_EPSILON = 1e-5


@dataclasses.dataclass
class Checkpoint:
    """What a file says: weights in our names and layout, and the model's arguments as far as known.

    Attributes:
        weights: dict, our name to array. The position table is as in the file: which of its rows
            are patches' is worked out with the grid, see `load.arranged`.
        config: dict, arguments of `MaskedAutoencoder`, `ViTEncoder` or `ViTClassifier`.
        unknown: names in the file that have no name of ours.
        model: the model itself, from a `.keras` file; else None.
        hints: dict, what helps to find the grid: "position_rows", how many rows of the position
            table are not patches'; "input_size", the (H, W) that images are given in.
    """

    weights: dict
    config: dict
    unknown: tuple = ()
    model: object = None
    hints: dict = dataclasses.field(default_factory=dict)


def read_checkpoint(path: AnyPath) -> Checkpoint:
    """Read a file or a folder, recognised by its content.

    Raises:
        FileNotFoundError: if there is none, or a folder holds none.
        ValueError: if it is broken, unsafe, or of another kind.
        ImportError: if it needs PyTorch, and PyTorch is not installed.
    """
    path = find_file(os.fspath(resolve(path)))
    if keras_hub_format.is_preset(path):
        return Checkpoint(*keras_hub_format.read_preset(path), hints=_OUR_ROWS)
    if path.endswith(SUFFIX):
        return _from_reference(path, read_shards(path, _read_file), {})
    if _starts_a_zip(path) and _is_keras_archive(path):
        model, weights, config = read_keras(path)
        return Checkpoint(weights, config, model=model, hints=_OUR_ROWS)
    content = _read_file(path)
    own = content.get(CONFIG_KEY)
    config = dict(own) if isinstance(own, Mapping) else _arguments(content.get("args"))
    return _from_reference(path, content, config)


def _starts_a_zip(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _read_file(path: str) -> dict[str, Any]:
    """Return what is in a file of PyTorch or safetensors: tensors or arrays by name, and more."""
    with open(path, "rb") as file:
        start = file.read(16)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return _read_torch(path)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        raise ValueError(
            f"`path` must hold an architecture: build the model, and call `load_weights` for a "
            f"Keras weights file. Received: {path}"
        )
    if start.startswith(b"version https:/"):
        raise ValueError(f"`path` is a Git LFS pointer; fetch the file itself. Received: {path}")
    raise ValueError(
        "`path` must be a .keras archive, a safetensors file, or a PyTorch file; it is none, "
        f"or its beginning is lost. Received: {path}"
    )


def _from_reference(path: str, content: Mapping[str, Any], config: dict[str, Any]) -> Checkpoint:
    """Return a `Checkpoint` of weights in PyTorch's names and layouts.

    Args:
        path: of the file, or of an index.
        content: dict, what is in it.
        config: dict, the model's arguments where the file itself tells them.
    """
    tensors, line = model_weights(content)
    if line:
        logger.warning("%s: %s", path, line)
    weights = {name: _array(value) for name, value in tensors.items()}
    hints = _OUR_ROWS if CONFIG_KEY in content else {}
    if hf.is_transformers(weights):
        known = hf.config_from_transformers(
            _beside(path, "config.json"), _beside(path, "preprocessor_config.json")
        )
        config = {**known, **config}
        weights = hf.from_transformers(weights)
    else:
        weights = to_reference_names(weights)
        beside = _beside(path, "config.json") if not config else None
        if beside is not None:
            config, hints = config_from_timm(path, beside, "head.weight" in weights)
    ours, unknown = {}, []
    for name, value in weights.items():
        renamed = our_name(name)
        if renamed is None:
            unknown.append(name)
            continue
        value = _float32(name, value)
        if renamed == _PROJECTION and value.ndim == 4:
            sizes = {"channels": value.shape[1], "patch_size": value.shape[2:]}
            _check_sizes(path, config, {"channels": value.shape[1]})
            config = {**config, **sizes}
        ours[renamed] = to_our_layout(renamed, value)
    unknown = sort_unknown(path, unknown, "head.kernel" in ours)
    if _PROJECTION not in ours:
        raise ValueError(
            "`path` must hold a masked autoencoder or a vision transformer of Meta's, "
            "transformers', timm's or mmpretrain's names. Received: "
            f"{path}, with {len(unknown)} unknown names: {', '.join(unknown[:8])}"
        )
    if "encoder.class_token" not in ours:
        raise unsupported(path, "no class token", "no cls_token")
    _leave_out_parts(path, ours, config)
    _fill_biases(ours, config)
    config = _known_by_weights(path, ours, config)
    return Checkpoint(ours, config, tuple(unknown), hints=hints)


def _leave_out_parts(path: str, ours: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Take out of `ours` what is named as a decoder's or head's, and is none of ours."""
    decoder = [name for name in ours if name.startswith("decoder.")]
    prediction = ours.get("decoder.prediction.kernel")
    patch = np.prod(config["patch_size"]) * config["channels"]
    another = prediction is not None and prediction.shape[1] != patch
    left_out = {}
    if another:
        left_out["the decoder of another method"] = decoder
    elif decoder == ["decoder.mask_token"]:
        left_out["the mask token of another method"] = decoder
    if "head.kernel" not in ours:
        norm = [name for name in ours if name.startswith("feature_norm.")]
        if norm:
            left_out["the norm of a head that is not there"] = norm
            if "encoder.norm.gamma" not in ours:
                config["final_norm"] = False
    say_left_out(path, left_out)
    for names in left_out.values():
        for name in names:
            del ours[name]


def _fill_biases(ours: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Add biases of 0 for layers that have none in any block, unless the config says they have."""
    promised = config.pop("qkv_bias", False)
    layers = ["encoder.patch_embedding.projection"]
    blocks = {n.split(".")[2] for n in ours if n.startswith("encoder.blocks.")}
    for layer in _BIASED:
        names = [f"encoder.blocks.{block}.{layer}" for block in blocks]
        if any(f"{name}.bias" in ours for name in names):
            continue
        if not (promised and layer == "attention.query_key_value"):
            layers += names
    for layer in layers:
        kernel = ours.get(f"{layer}.kernel")
        if kernel is not None and f"{layer}.bias" not in ours:
            ours[f"{layer}.bias"] = np.zeros(kernel.shape[1], "float32")


def _known_by_weights(
    path: str, ours: dict[str, np.ndarray], config: dict[str, Any]
) -> dict[str, Any]:
    """Return the config with what the weights tell of the encoder's parts."""
    known: dict[str, Any] = {}
    if "encoder.blocks.0.attention_scale.gamma" in ours:
        known["layer_scale"] = 1e-5
    if "encoder.input_norm.gamma" in ours:
        known["pre_norm"] = True
        if "norm_epsilon" not in config:
            known["norm_epsilon"] = _PRE_NORM_EPSILON
            logger.warning(
                "%s: norm_epsilon=%g is taken, CLIP's; the file does not tell its own",
                path,
                _PRE_NORM_EPSILON,
            )
    known["num_class_tokens"] = ours["encoder.class_token"].shape[1]
    registers = ours.get("encoder.register_tokens")
    if registers is not None and registers.shape[1] == 0:
        del ours["encoder.register_tokens"]
    elif registers is not None:
        known["num_registers"] = registers.shape[1]
    blocks = {n.split(".")[2] for n in ours if n.startswith("encoder.blocks.")}
    hidden = ours.get("encoder.blocks.0.mlp.hidden.kernel")
    sizes = {"num_layers": len(blocks), "hidden_dim": ours[_PROJECTION].shape[1]}
    if hidden is not None:
        sizes["mlp_dim"] = hidden.shape[1]
    _check_sizes(path, config, sizes)
    return {**known, **config}


def _check_sizes(path: str, config: dict[str, Any], sizes: dict[str, int]) -> None:
    """Raise a ValueError if weights have another size than the config beside them says."""
    for name, size in sizes.items():
        if config.get(name, size) != size:
            raise ValueError(
                f"`path` contradicts itself: its config has {name}={config[name]}, and its weights "
                f"{size}. Received: {path}"
            )


def find_file(path: str) -> str:
    """Return the file that holds the weights: `path`, or the one in the folder `path`.

    Of a checkpoint in several files it is the index, `NAME.index.json`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a folder holds several and none is named as usual; for a part of one.
    """
    if os.path.isfile(path):
        if is_shard(path):
            raise ValueError(
                "`path` must be all of a checkpoint, its folder or its index; this file is one of "
                f"several. Received: {path}"
            )
        return path
    if not os.path.isdir(path):
        raise FileNotFoundError(f"`path` must be a file or a folder. Received: {path}")
    files = sorted(os.listdir(path))
    names = (_TORCH_NAMES[0], keras_hub_format.WEIGHTS_FILE, _TORCH_NAMES[1])
    usual = (*_KERAS_NAMES, *(f"{name}{end}" for name in names for end in ("", SUFFIX)))
    found = [name for name in usual if name in files][:1]
    found = found or [f for f in files if f.endswith(SUFFIX)]
    found = found or [f for f in files if f.endswith((".keras", ".safetensors", ".pth", ".bin"))]
    if found and all(map(is_shard, found)):
        raise ValueError(
            f"`path` must hold an index beside its files, NAME{SUFFIX}. Received: {path}, with "
            f"{found}"
        )
    if len(found) > 1:
        raise ValueError(f"`path` must hold one checkpoint; name one of {found}. Received: {path}")
    if not found:
        raise FileNotFoundError(
            f"`path` must hold a .keras, .safetensors, .pth or .bin file. Received: {path}, which "
            f"holds {files}"
        )
    return os.path.join(path, found[0])


def _beside(path: str, name: str) -> Any:
    """Return the JSON object in a file of the same folder, or None if there is no file."""
    file = os.path.join(os.path.dirname(path), name)
    if not os.path.isfile(file):
        return None
    try:
        with open(file, encoding="utf-8") as stream:
            content = json.load(stream)
    except ValueError as error:
        raise ValueError(f"`path` is truncated or broken. Received: {file} ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"`path` must hold a JSON object. Received: {file}")
    return content


def _is_keras_archive(path: AnyPath) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "model.weights.h5" in archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"`path` is truncated or broken. Received: {path} ({error})") from error


def _read_safetensors(path: str) -> dict[str, Any]:
    import safetensors
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ValueError(
            f"`path` is truncated, broken, or of a type NumPy has not. Received: {path} ({error})"
        ) from error


def _read_torch(path: str) -> dict[str, Any]:
    """Return what is in a PyTorch file; only tensors and plain values are opened."""
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
    return content


def _arguments(args: Any) -> dict[str, Any]:
    """Return what the reference's training arguments tell of the model."""
    args = getattr(args, "__dict__", {})
    known = ("mask_ratio", "norm_pix_loss")
    return {key: args[key] for key in known if key in args}


def _array(value: Any) -> np.ndarray:
    """Return a tensor or array as an array; floats as float32."""
    if hasattr(value, "detach"):
        value = value.detach()
        value = (value.float() if value.is_floating_point() else value).numpy()
    if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
        return np.asarray(value, "float32")
    return np.asarray(value)


def _float32(name: str, value: np.ndarray) -> np.ndarray:
    if value.dtype != np.float32:
        raise ValueError(f"`path` must hold floats. Received: {name} of dtype {value.dtype}")
    return value
