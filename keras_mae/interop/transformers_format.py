"""The folders of transformers' vision transformers: names of weights, and config.json."""

import logging
import re

import numpy as np

from keras_mae.interop.dialects import joined
from keras_mae.interop.names import BLOCK_NAME
from keras_mae.pixels import BYTE_RANGE

logger = logging.getLogger(__name__)

# Each with its epsilon where the config tells none, and how its classifier pools.
MODEL_TYPES = {
    "vit_mae": (1e-12, None),
    "vit": (1e-12, "token"),
    "vit_msn": (1e-6, "token"),
    "dinov2": (1e-6, "both"),
    "dinov2_with_registers": (1e-6, "both"),
    "pixio": (1e-6, None),
}
# What others have that we have not.
_OTHER_TYPES = {
    "beit": "relative positions",
    "data2vec-vision": "relative positions",
    "deit": "a distillation token",
    "dinov3_vit": "rotary positions (RoPE)",
    "hiera": "windows",
    "ijepa": "no class token",
    "siglip_vision_model": "no class token",
    "swin": "windows",
    "swinv2": "windows",
    "vitdet": "windows",
}
# Values of config.json that are read, that the weights tell, that change training alone or that
# belong to parts that are left out.
_READ = {
    *("model_type", "num_attention_heads", "decoder_num_attention_heads", "mask_ratio"),
    *("norm_pix_loss", "layer_norm_eps", "image_size", "id2label", "label2id", "num_channels"),
    *("patch_size", "hidden_size", "num_hidden_layers", "intermediate_size", "mlp_ratio"),
    *("decoder_hidden_size", "decoder_num_hidden_layers", "decoder_intermediate_size"),
    *("n_cls_tokens", "num_register_tokens", "qkv_bias", "hidden_act", "use_swiglu_ffn"),
    *("use_mask_token", "num_labels"),
}
_IDLE = {
    *("architectures", "dtype", "torch_dtype", "transformers_version", "problem_type"),
    *("initializer_range", "hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("drop_path_rate", "layerscale_value", "encoder_stride", "pooler_act", "finetuning_task"),
    *("pooler_output_size", "out_features", "out_indices", "stage_names", "apply_layernorm"),
    *("reshape_hidden_states", "return_dict", "output_attentions", "output_hidden_states"),
    *("num_beams", "num_beam_groups", "max_length", "temperature", "top_k", "top_p", "typical_p"),
    *("length_penalty", "num_return_sequences", "diversity_penalty", "repetition_penalty"),
    *("use_cache", "tie_word_embeddings", "tie_encoder_decoder", "chunk_size_feed_forward"),
    *("attn_implementation", "use_return_dict"),
}
# Of preprocessor_config.json: what is done to the values. Sizes and crops are the data's affair.
_VALUE_STEPS = {"do_rescale", "do_normalize"}
_SIZE_STEPS = {"do_resize", "do_center_crop", "do_convert_rgb", "do_pad", "do_thumbnail"}
_SIZE_STEPS |= {"do_align_long_axis", "do_rotate"}
# What `config_to_transformers` adds to a preprocessor of other values than pixels 0-255; others
# ignore it.
VALUE_RANGE_KEY = "value_range"
# Of a factor such as 0.00392156862745098, or 0.0039215686.
_ROUNDING = 1e-6

# The names in its files; versions from 5 on use others in memory. The decoder's blocks are saved as
# `decoder_layers`, and by versions from 5 on as `decoder_encoder.layer`.
_HF_BLOCKS = (
    (re.compile(r"(?:encoder\.layer|layers)\.(\d+)\."), "blocks"),
    (re.compile(r"decoder\.(?:decoder_layers|decoder_encoder\.layer)\.(\d+)\."), "decoder_blocks"),
)
_HF_BLOCK_LAYERS = {
    "layernorm_before": "norm1",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "mlp.fc1": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc2": "mlp.fc2",
    "norm1": "norm1",
    "norm2": "norm2",
}
_HF_SCALES = {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"}
_HF_QKV = re.compile(r"attention\.(?:attention\.)?(query|key|value|q_proj|k_proj|v_proj)")
_HF_TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
    "decoder.mask_token": "mask_token",
    "decoder.decoder_pos_embed": "decoder_pos_embed",
    **{
        f"decoder.{layer}.{leaf}": f"{layer}.{leaf}"
        for layer in ("decoder_embed", "decoder_norm", "decoder_pred")
        for leaf in ("weight", "bias")
    },
    "classifier.weight": "head.weight",
    "classifier.bias": "head.bias",
}


def is_transformers(names):
    """Return whether weights have transformers' names."""
    return any("embeddings" in name.split(".") for name in names)


def from_transformers(weights):
    """Rename transformers' weights to the reference's names, and join queries, keys and values.

    A name that is not one of theirs stays as it is.

    """
    renamed, parts = {}, {}
    for name, value in weights.items():
        short = name.removeprefix("vit.")
        theirs = _HF_TOP.get(short, name)
        for pattern, stack in _HF_BLOCKS:
            if match := pattern.match(short):
                layer, _, leaf = short[match.end() :].rpartition(".")
                block = f"{stack}.{match[1]}"
                if qkv := _HF_QKV.fullmatch(layer):
                    parts.setdefault(f"{block}.attn.qkv.{leaf}", {})[qkv[1][0]] = (name, value)
                    theirs = None
                elif f"{layer}.{leaf}" in _HF_SCALES:
                    theirs = f"{block}.{_HF_SCALES[f'{layer}.{leaf}']}"
                elif layer in _HF_BLOCK_LAYERS:
                    theirs = f"{block}.{_HF_BLOCK_LAYERS[layer]}.{leaf}"
        if theirs is not None:
            renamed[theirs] = value
    for name, part in parts.items():
        # Incomplete ones keep their names, to be reported.
        whole = set(part) == set("qkv")
        renamed.update(joined(name, part) if whole else dict(part.values()))
    return renamed


def to_transformers(weights, prefix):
    """Rename weights of the reference's names to transformers', and split queries, keys, values.

    Args:
        weights: dict of arrays in PyTorch's layout.
        prefix: "vit." for models with a decoder or a head, "" for the encoder alone.
    """
    top = {theirs: hf for hf, theirs in _HF_TOP.items()}
    # The first of two names is the one in files.
    layers = {}
    for hf, theirs in _HF_BLOCK_LAYERS.items():
        layers.setdefault(theirs, hf)
    renamed = {}
    for name, value in weights.items():
        block = BLOCK_NAME.fullmatch(name)
        if block is None:
            hf = top[name]
            inside = hf.startswith(("embeddings.", "layernorm."))
            renamed[prefix + hf if inside else hf] = value
            continue
        encoder = block[1] == "blocks"
        stack = f"{prefix}encoder.layer" if encoder else "decoder.decoder_layers"
        layer, _, leaf = block[3].rpartition(".")
        stack = f"{stack}.{block[2]}"
        if layer == "attn.qkv":
            for part, values in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                renamed[f"{stack}.attention.attention.{part}.{leaf}"] = values
        else:
            renamed[f"{stack}.{layers[layer]}.{leaf}"] = value
    return renamed


def config_from_transformers(config, preprocessor):
    """Return what config.json and preprocessor_config.json tell of a model, as our arguments.

    Args:
        config: dict, or None where there is none.
        preprocessor: dict, or None.
    Raises:
        ValueError: if the model is none that we know, or has something that we have no word for.
    """
    config = config or {}
    model_type = config.get("model_type", "vit_mae")
    if model_type not in MODEL_TYPES:
        why = _OTHER_TYPES.get(model_type)
        raise ValueError(
            f"`path` must be of a model_type in {list(MODEL_TYPES)}. Received: {model_type!r}"
            + (f", which has {why}" if why else "")
        )
    _check_config(config)
    epsilon, pooling = MODEL_TYPES[model_type]
    ours = {
        "num_heads": config.get("num_attention_heads"),
        "decoder_num_heads": config.get("decoder_num_attention_heads"),
        "mask_ratio": config.get("mask_ratio"),
        "norm_pix_loss": config.get("norm_pix_loss", False),
        "norm_epsilon": config.get("layer_norm_eps", epsilon),
        "image_size": config.get("image_size"),
        "hidden_dim": config.get("hidden_size"),
        "num_layers": config.get("num_hidden_layers"),
        "mlp_dim": config.get("intermediate_size"),
        "channels": config.get("num_channels"),
        "qkv_bias": config.get("qkv_bias"),
        "pooling": pooling,
        "class_names": _class_names(config.get("id2label")),
        **_pixel_arguments(preprocessor or {}, config.get("num_channels", 3)),
    }
    return {key: value for key, value in ours.items() if value is not None}


def _check_config(config):
    """Raise a ValueError for a value of config.json that would be dropped."""
    if config.get("use_swiglu_ffn"):
        raise ValueError("`path` must have a plain MLP. Received: use_swiglu_ffn=True, SwiGLU")
    if config.get("hidden_act", "gelu") != "gelu":
        raise ValueError(
            f"`path` must have the activation 'gelu'. Received: hidden_act={config['hidden_act']!r}"
        )
    for name, value in config.items():
        if value and name not in _READ | _IDLE and not name.startswith("_"):
            raise ValueError(
                "`path` must have a config.json whose every value is known to this library. "
                f"Received: {name}={value!r}"
            )


def _class_names(id2label):
    """Return the labels in the order of their numbers, which are text in JSON; None if unnamed."""
    if id2label is not None and not isinstance(id2label, dict):
        raise ValueError(f"`path` must have an id2label that is an object. Received: {id2label!r}")
    names = [label for _, label in sorted((int(i), label) for i, label in (id2label or {}).items())]
    return None if names == _unnamed(len(names)) else names


def _unnamed(count):
    """Return what transformers calls classes without names."""
    return [f"LABEL_{i}" for i in range(count)]


def _pixel_arguments(preprocessor, channels):
    """Return `value_range`, `mean` and `std` of a preprocessor that multiplies, then normalises.

    A factor of 1/255 or more is for pixels 0-255, whatever these become; a smaller one divides
    deeper pixels by the greatest, unless our own key says what the range is.
    """
    for name, value in preprocessor.items():
        unknown = name.startswith("do_") and name not in _VALUE_STEPS | _SIZE_STEPS
        if value and (unknown or name == "offset"):
            raise ValueError(
                "`path` must have a preprocessor that rescales and normalises, and changes values "
                f"in no other way. Received: {name}={value!r}"
            )
    mean, std = (
        [value] * channels if isinstance(value, int | float) else value
        for value in (preprocessor.get("image_mean"), preprocessor.get("image_std"))
    )
    if not preprocessor.get("do_normalize", True):
        mean, std = [0.0] * channels, [1.0] * channels
    if VALUE_RANGE_KEY in preprocessor:
        return {"value_range": preprocessor[VALUE_RANGE_KEY], "mean": mean, "std": std}
    factor = preprocessor.get("rescale_factor", 1 / 255)
    if not preprocessor.get("do_rescale", True):
        factor = 1
    high = 255.0
    if 255 * factor < 1 - _ROUNDING:
        high = float(f"{1 / factor:.12g}")  # 4095, and not 4095.0000000000005
    # The greatest value becomes this much, and is to become 1.
    most = high * factor
    if mean is not None and std is not None and abs(most - 1) > _ROUNDING:
        mean, std = ([value / most for value in values] for values in (mean, std))
    return {"value_range": (0.0, high), "mean": mean, "std": std}


def config_to_transformers(kind, config):
    """Return (config.json, preprocessor_config.json) of a model.

    Args:
        kind: "autoencoder", "encoder" or "classifier".
        config: dict, the arguments of ours.
    Raises:
        ValueError: naming what transformers' models cannot do.
    """
    _check_expressible(kind, config)
    height, width = config["image_size"]
    architecture, model_type = {
        "autoencoder": ("ViTMAEForPreTraining", "vit_mae"),
        "encoder": ("ViTMAEModel", "vit_mae"),
        "classifier": ("ViTForImageClassification", "vit"),
    }[kind]
    theirs = {
        "architectures": [architecture],
        "model_type": model_type,
        "dtype": "float32",
        "image_size": height,
        "patch_size": config["patch_size"][0],
        "num_channels": config["channels"],
        "hidden_size": config["hidden_dim"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_heads"],
        "intermediate_size": config["mlp_dim"],
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": config["norm_epsilon"],
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
    }
    if kind == "autoencoder":
        theirs |= {
            "decoder_hidden_size": config["decoder_hidden_dim"],
            "decoder_num_hidden_layers": config["decoder_num_layers"],
            "decoder_num_attention_heads": config["decoder_num_heads"],
            "decoder_intermediate_size": config["decoder_mlp_dim"],
            "mask_ratio": config["mask_ratio"],
            "norm_pix_loss": config["norm_pix_loss"],
        }
    if kind == "classifier":
        labels = config.get("class_names") or _unnamed(config["num_classes"])
        theirs["id2label"] = {str(i): label for i, label in enumerate(labels)}
        theirs["label2id"] = {label: i for i, label in enumerate(labels)}
    low, high = config["value_range"]
    preprocessor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,  # PIL's bicubic.
        "do_rescale": True,
        "rescale_factor": 1 / high,
        "do_normalize": True,
        "image_mean": list(config["mean"]),
        "image_std": list(config["std"]),
    }
    if (low, high) != BYTE_RANGE:
        preprocessor[VALUE_RANGE_KEY] = [low, high]
    return theirs, preprocessor


def _check_expressible(kind, config):
    if config["value_range"][0] != 0:
        raise ValueError(
            "`format` 'hf' holds models of values from 0 on only: its preprocessor multiplies and "
            f"subtracts nothing; use 'meta' or '.keras'. Received: {config['value_range']}"
        )
    if len(set(config["image_size"])) > 1 or len(set(config["patch_size"])) > 1:
        raise ValueError(
            "`format` 'hf' holds square images and patches only; use 'meta' or '.keras'. Received: "
            f"image_size={config['image_size']}, patch_size={config['patch_size']}"
        )
    if kind == "classifier" and (config["pooling"] != "token" or config["head_norm"] is not None):
        raise ValueError(
            "`format` 'hf' holds classifiers with pooling='token' and head_norm=None only; use "
            f"'meta' or '.keras'. Received: pooling={config['pooling']!r}, "
            f"head_norm={config['head_norm']!r}"
        )
    parts = ("layer_scale", "pre_norm", "num_registers")
    others = {name: config[name] for name in parts if config.get(name)}
    if config.get("num_class_tokens", 1) != 1:
        others["num_class_tokens"] = config["num_class_tokens"]
    if others:
        raise ValueError(
            "`format` 'hf' holds models without LayerScale, registers, several class tokens and "
            f"a norm before the blocks only; use 'meta' or '.keras'. Received: {others}"
        )
    if kind != "classifier" and not config.get("final_norm", True):
        raise ValueError(
            "`format` 'hf' holds encoders with a final LayerNorm only. Received: final_norm=False"
        )
