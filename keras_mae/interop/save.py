"""From a model to the files of other libraries."""

import json
import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mae.files import new_directory
from keras_mae.interop import transformers_format as hf
from keras_mae.interop.keras_format import flat_config, kind_of
from keras_mae.interop.keras_hub_format import save_preset
from keras_mae.interop.names import reference_name, to_reference_layout
from keras_mae.interop.read import CONFIG_KEY
from keras_mae.layers.masking import MaskRatioSchedule
from keras_mae.models.weights import get_weights
from keras_mae.types import AnyPath

logger = logging.getLogger(__name__)

FORMATS = ("hf", "meta", "keras_hub")


def save_pretrained(model: keras.Model, directory: AnyPath, format: str = "hf") -> None:
    """Write a model for other libraries; `load_pretrained` reads it back bit by bit.

    "hf": `model.safetensors`, `config.json` and `preprocessor_config.json`, which transformers
    opens with `from_pretrained`: an autoencoder as ViTMAEForPreTraining, an encoder as ViTMAEModel,
    a classifier as ViTForImageClassification. "meta": `checkpoint.pth`, a PyTorch file with the
    names of Meta's and timm's models, and this model's arguments under a key that they ignore.
    Names of classes are transformers' `id2label`; a value range is its preprocessor's factor.
    "keras_hub": a preset, which `keras_hub.models.Backbone.from_preset` opens as a ViTBackbone, and
    of a classifier `ImageClassifier.from_preset` as a ViTImageClassifier; its image converter
    normalises values of the value range. An autoencoder's decoder is left out.

    Args:
        model: `MaskedAutoencoder`, `ViTEncoder` or `ViTClassifier`.
        directory: str or path. It appears whole or not at all.
        format: "hf", "meta" or "keras_hub".
    Raises:
        FileExistsError: if `directory` exists and is not empty.
        ValueError: if the model is one that the format cannot hold.
        ImportError: for "meta" where torch is not installed, for "keras_hub" where KerasHub is not.
    """
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {list(FORMATS)}. Received: {format!r}")
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"`directory` must be new or empty. Received: {directory}")
    kind, config = kind_of(model), flat_config(model)
    if config.get("pooled_blocks", 1) != 1:
        raise ValueError(
            "`model` must pool the last block's tokens only: no other library's classifier pools "
            f"more. Received: pooled_blocks={config['pooled_blocks']}; use '.keras'"
        )
    pooling, whiten = config.get("pooling"), config.get("whiten")
    if pooling not in (None, "token", "mean", "both") or whiten is not None:
        raise ValueError(
            "`model` must pool the class token or the mean, without a whitening: no other "
            f"library's classifier has more. Received: pooling={pooling!r}, whiten={whiten}; use "
            "'.keras'"
        )
    if format == "keras_hub":
        with new_directory(directory) as folder:
            folder.mkdir()
            save_preset(model, folder, kind, config)
        return
    _check_decoder(config)
    if isinstance(getattr(model, "mask_ratio", None), MaskRatioSchedule) and format == "hf":
        config["mask_ratio"] = model.mask_ratio.ratios[-1]
    weights = {
        reference_name(name, config.get("head_norm") == "batch"): np.ascontiguousarray(
            to_reference_layout(name, value.astype("float32"), config["patch_size"])
        )
        for name, value in get_weights(model).items()
    }
    with new_directory(directory) as folder:
        folder.mkdir()
        if format == "hf":
            _write_transformers(folder, kind, config, weights)
        else:
            _write_torch(folder, config, weights)


def _check_decoder(config: dict[str, Any]) -> None:
    if config.get("decoder_attention", "self") != "self":
        raise ValueError(
            "`model` must have decoder_attention='self': no other library has another. Received: "
            f"{config['decoder_attention']!r}. Its encoder alone, `model.encoder`, can be saved"
        )


def _write_transformers(
    folder: Path, kind: str, config: dict[str, Any], weights: dict[str, np.ndarray]
) -> None:
    from safetensors.numpy import save_file

    theirs, preprocessor = hf.config_to_transformers(kind, config)
    masking = config.get("masking", {}).get("class_name", "RandomMasking")
    if masking != "RandomMasking":
        logger.warning("transformers masks at random; %s is not saved", masking)
    prefix = "" if kind == "encoder" else "vit."
    weights = hf.to_transformers(weights, prefix)
    # safetensors writes an array's memory as it lies.
    weights = {name: np.ascontiguousarray(value) for name, value in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in (("config.json", theirs), ("preprocessor_config.json", preprocessor)):
        with open(folder / name, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.write("\n")


def _write_torch(folder: Path, config: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "`format` 'meta' writes a PyTorch file, and PyTorch is not installed: "
            'pip install "keras_mae[interop]"'
        ) from error
    tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
    content = {"model": tensors, CONFIG_KEY: config}
    torch.save(content, folder / "checkpoint.pth")
