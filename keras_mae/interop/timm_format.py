"""timm's config.json: what it tells of a vision transformer, and what of it we have no word for."""

import re
from typing import Any

from keras_mae.interop.leftovers import unsupported
from keras_mae.types import AnyPath

_POOLINGS = {"token": "token", "avg": "mean"}
# Arguments of its VisionTransformer that change nothing once it is trained, at the model's size.
_TRAINING = {
    "attn_drop_rate",
    "device",
    "drop_path_rate",
    "drop_rate",
    "dtype",
    "dynamic_img_pad",
    "dynamic_img_size",
    "fix_init",
    "patch_drop_rate",
    "pos_drop_rate",
    "pretrained_strict",
    "proj_drop_rate",
    "strict_img_size",
    "weight_init",
}
# Those that the weights tell too, beside what is checked against them.
_IN_WEIGHTS = {"init_values", "mlp_ratio", "pre_norm", "proj_bias", "qkv_bias", "reg_tokens"}
# Those of which we have one value only.
_ONLY: dict[str, tuple] = {
    "act_layer": (None, "", "gelu", "GELU"),
    "class_token": (True,),
    "embed_norm_layer": (None,),
    "mlp_layer": (None, "mlp", "Mlp"),
    "norm_layer": (None, "", "layernorm", "LayerNorm"),
    "pool_include_prefix": (False,),
    "pos_embed": ("learn",),
    "qk_norm": (False,),
    "scale_attn_norm": (False,),
    "scale_mlp_norm": (False,),
}
_SIZES = {"embed_dim": "hidden_dim", "depth": "num_layers", "in_chans": "channels"}
# By the name of an architecture.
_ACTIVATIONS = ("quickgelu",)
_CLIP_EPSILON = 1e-5
_MOST_CLASSES = 1_000_000


def config_from_timm(
    path: AnyPath, config: dict[str, Any], has_head: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what timm's config.json tells, as our arguments.

    Args:
        path: for the messages.
        config: dict.
        has_head: bool. Whether the weights have a head: pooling is the head's affair.
    Returns:
        `(ours, hints)`: arguments of our models; and what helps to read the weights:
        "position_rows", how many rows of the position table are not patches', and "input_size",
        the (H, W) that images are given in.
    Raises:
        ValueError: naming a value that we have no word for.
    """
    architecture = str(config.get("architecture", ""))
    if any(word in architecture for word in _ACTIVATIONS):
        raise unsupported(path, "the activation QuickGELU", f"architecture={architecture!r}")
    # Older files have no dict of their own for what a model was trained with.
    trained = config.get("pretrained_cfg") or config
    arguments = config.get("model_args") or {}
    if not isinstance(trained, dict) or not isinstance(arguments, dict):
        raise ValueError(
            "`path` must have a config.json whose model_args and pretrained_cfg are objects. "
            f"Received: {path}, with {type(arguments).__name__} and {type(trained).__name__}"
        )
    ours: dict[str, Any] = {
        "mean": trained.get("mean"),
        "std": trained.get("std"),
        "class_names": _class_names(config.get("label_names")),
        "num_heads": arguments.get("num_heads"),
        "image_size": arguments.get("img_size"),
        "final_norm": False if arguments.get("final_norm") is False else None,
        **{name: arguments.get(key) for key, name in _SIZES.items()},
    }
    if "augreg" in architecture and ours["mean"] is None and ours["std"] is None:
        # Dosovitskiy et al. 2020 and Steiner et al. 2021 train on pixels from -1 to 1.
        ours["mean"] = ours["std"] = [0.5] * (ours["channels"] or 3)
    if re.search(r"_clip_", architecture):
        ours["norm_epsilon"] = _CLIP_EPSILON
    for name, value in arguments.items():
        _check_argument(path, name, value)
    for pooling in (config.get("global_pool"), arguments.get("global_pool")):
        if has_head and pooling is not None:
            if pooling not in _POOLINGS:
                raise unsupported(path, f"the pooling {pooling!r}", f"global_pool={pooling!r}")
            ours["pooling"] = _POOLINGS[pooling]
    hints: dict[str, Any] = {"input_size": _input_size(trained.get("input_size"))}
    if arguments.get("no_embed_class"):
        hints["position_rows"] = 0
    return {key: value for key, value in ours.items() if value is not None}, hints


def _check_argument(path: AnyPath, name: str, value: Any) -> None:
    """Raise a ValueError for an argument of timm's model that would be dropped."""
    read = {"num_heads", "img_size", "patch_size", "num_classes", "global_pool", "no_embed_class"}
    read |= {"fc_norm", "final_norm", *_SIZES, *_TRAINING, *_IN_WEIGHTS}
    if name in read or (name in _ONLY and value in _ONLY[name]):
        return
    raise unsupported(path, f"{name}={value!r}", f"model_args={{{name!r}: {value!r}}}")


def _class_names(names: Any) -> list[str] | None:
    """Return names of classes in the order of their numbers; a number without a name is its own."""
    if isinstance(names, dict):
        numbered = {int(number): name for number, name in names.items()}
        count = 1 + max(numbered, default=-1)
        if min(numbered, default=0) < 0 or count > _MOST_CLASSES:
            raise ValueError(
                f"`path` must have label_names from 0 to at most {_MOST_CLASSES:,}. Received: "
                f"numbers from {min(numbered)} to {count - 1}"
            )
        names = [numbered.get(number, str(number)) for number in range(count)]
    return list(names) if names else None


def _input_size(size: Any) -> tuple[int, int] | None:
    """Return (H, W) of timm's (C, H, W)."""
    return (
        (int(size[1]), int(size[2])) if isinstance(size, list | tuple) and len(size) == 3 else None
    )
