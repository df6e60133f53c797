"""Names of mmpretrain, DeiT and DINOv2, as the reference's (Meta's and timm's)."""

import re
from collections.abc import Mapping

import numpy as np

# mmpretrain's, by the pattern of the whole name; its MAE's decoder is called a neck.
_MM = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"neck\.((?:decoder|mask)_.*)", r"\1"),
        (r"neck\.ln1\.(.*)", r"decoder_norm.\1"),
        (r"neck\.bn\.(.*)", r"head.0.\1"),
        (r"head\.(?:layers\.head|fc)\.(.*)", r"head.\1"),
        (r"patch_embed\.projection\.(.*)", r"patch_embed.proj.\1"),
        (r"pre_norm\.(.*)", r"norm_pre.\1"),
        (r"ln1\.(.*)", r"norm.\1"),
        (r"ln2\.(.*)", r"fc_norm.\1"),
        (r"layers\.(\d+\..*)", r"blocks.\1"),
    )
]
_MM_BLOCKS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(\w+\.\d+)\.ln([12])\.(.*)", r"\1.norm\2.\3"),
        (r"(\w+\.\d+)\.ffn\.layers\.0\.0\.(.*)", r"\1.mlp.fc1.\2"),
        (r"(\w+\.\d+)\.ffn\.layers\.1\.(.*)", r"\1.mlp.fc2.\2"),
        (r"(\w+\.\d+)\.(?:attn|ffn)\.gamma([12])(?:\.weight)?", r"\1.ls\2.gamma"),
    )
]
_OTHERS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # DINOv2 in training keeps its blocks in chunks, and numbers them through.
        (r"blocks\.\d+\.(\d+)\.(.*)", r"blocks.\1.\2"),
        # DeiT's own DeiT-III, and BEiT.
        (r"(blocks\.\d+)\.gamma_([12])", r"\1.ls\2.gamma"),
        (r"register_tokens", r"reg_token"),
        # Where the decoder is a module of its own.
        (r"decoder\.((?:decoder|mask)_.*)", r"\1"),
    )
]
_QKV = re.compile(r"(\w+\.\d+\.attn)\.(?:([qkv])_?(?:proj)?\.(weight|bias)|([qkv])_(bias))")


def is_mmpretrain(names: Mapping[str, object]) -> bool:
    """Return whether weights have mmpretrain's names."""
    return any(re.match(r"layers\.\d+\.ffn\.", name) for name in names)


def to_reference_names(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return weights under the reference's names where they are known; others as they are.

    Queries, keys and values that are apart are joined; where one of the three has no bias, as in
    BEiT and EVA, its bias is 0.
    """
    rules = _OTHERS
    if is_mmpretrain(weights):
        rules = [*_MM, *_MM_BLOCKS, *_OTHERS]
    renamed: dict[str, np.ndarray] = {}
    parts: dict[str, dict[str, tuple[str, np.ndarray]]] = {}
    for name, value in weights.items():
        short = name
        for pattern, replacement in rules:
            short = pattern.sub(replacement, short) if pattern.fullmatch(short) else short
        if match := _QKV.fullmatch(short):
            letter, leaf = match[2] or match[4], match[3] or match[5]
            parts.setdefault(f"{match[1]}.qkv.{leaf}", {})[letter] = (name, value)
        else:
            # Two names that mean one: neither is taken for the other.
            renamed[name if short in renamed else short] = value
    for joint, part in parts.items():
        renamed.update(joined(joint, part))
    return renamed


def joined(joint: str, parts: Mapping[str, tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return queries, keys and values under their joint name, or, if some lack, under their own.

    Args:
        joint: string, the joint weight's name; one that ends in "bias" may lack some, which are 0.
        parts: dict, "q", "k" and "v" to (own name, array).
    """
    known = [value for _, value in parts.values()]
    shapes = {np.shape(value) for value in known}
    if len(shapes) > 1 or (set(parts) != set("qkv") and not joint.endswith(".bias")):
        return dict(parts.values())
    zeros = np.zeros(shapes.pop(), "float32")
    return {joint: np.concatenate([parts.get(letter, ("", zeros))[1] for letter in "qkv"])}
