"""The names and layouts of the weights: ours, and the reference's, which timm shares.

The reference's stand in the middle: a checkpoint of transformers is first renamed to them (see
`transformers_format.py`), and they are then renamed to ours and laid out as ours.
"""

import re

import numpy as np

_LAYERS = {
    "patch_embed.proj": "encoder.patch_embedding.projection",
    "norm_pre": "encoder.input_norm",
    "norm": "encoder.norm",
    "decoder_embed": "decoder.projection",
    "decoder_norm": "decoder.norm",
    "decoder_pred": "decoder.prediction",
    "fc_norm": "feature_norm",
    "head": "head",
    # The linear probe's head is a BatchNorm without scale and offset, then a linear layer.
    "head.0": "feature_norm",
    "head.1": "head",
}
_TOKENS = {
    "cls_token": "encoder.class_token",
    "reg_token": "encoder.register_tokens",
    "pos_embed": "encoder.positions.table",
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.positions.table",
}
_STACKS = {"blocks": "encoder.blocks", "decoder_blocks": "decoder.blocks"}
_BLOCK_LAYERS = {
    "norm1": "attention_norm",
    "attn.qkv": "attention.query_key_value",
    "attn.proj": "attention.output_projection",
    "ls1": "attention_scale",
    "norm2": "mlp_norm",
    "mlp.fc1": "mlp.hidden",
    "mlp.fc2": "mlp.output_projection",
    "ls2": "mlp_scale",
}
_NORM_LEAVES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_LINEAR_LEAVES = {"weight": "kernel", "bias": "bias"}
_SCALE_LEAVES = {"gamma": "gamma"}
BLOCK_NAME = re.compile(r"(\w+)\.(\d+)\.(.+)")


def our_name(name: str) -> str | None:
    """Return our name of one of the reference's, or None if it has none."""
    if name in _TOKENS:
        return _TOKENS[name]
    layer, _, leaf = name.rpartition(".")
    ours = _LAYERS.get(layer)
    block = BLOCK_NAME.fullmatch(layer)
    if block and block[1] in _STACKS and block[3] in _BLOCK_LAYERS:
        ours = f"{_STACKS[block[1]]}.{int(block[2])}.{_BLOCK_LAYERS[block[3]]}"
    if ours is None:
        return None
    our_leaf = _leaves(ours).get(leaf)
    return f"{ours}.{our_leaf}" if our_leaf else None


def reference_name(name: str, batch_norm_head: bool = False) -> str:
    """Return the reference's name of one of ours; `our_name` of it is the name again.

    Args:
        name: str, see `keras_mae.models.weights.named_weights`.
        batch_norm_head: bool. Whether the head is a linear probe's.
    Raises:
        ValueError: if the reference has no such weight.
    """
    tokens = {ours: theirs for theirs, ours in _TOKENS.items()}
    if name in tokens:
        return tokens[name]
    layer, _, leaf = name.rpartition(".")
    probe = [(t, o) for t, o in _LAYERS.items() if t.startswith("head.")]
    plain = [(t, o) for t, o in _LAYERS.items() if not t.startswith("head.")]
    layers = {ours: theirs for theirs, ours in (plain + probe if batch_norm_head else plain)}
    theirs = layers.get(layer)
    block = re.fullmatch(r"(\w+\.blocks)\.(\d+)\.(.+)", layer)
    if block:
        stacks = {ours: theirs for theirs, ours in _STACKS.items()}
        in_block = {ours: theirs for theirs, ours in _BLOCK_LAYERS.items()}.get(block[3])
        theirs = in_block and f"{stacks[block[1]]}.{block[2]}.{in_block}"
    their_leaf = {ours: theirs for theirs, ours in _leaves(layer).items()}.get(leaf)
    if not theirs or not their_leaf:
        raise ValueError(f"`model` holds a weight that no other library has: {name}")
    return f"{theirs}.{their_leaf}"


def _leaves(layer: str) -> dict[str, str]:
    """Return the names of a layer's weights, theirs to ours, by our name of the layer."""
    if layer.endswith("norm"):
        return _NORM_LEAVES
    return _SCALE_LEAVES if layer.endswith("_scale") else _LINEAR_LEAVES


def to_our_layout(name: str, value: np.ndarray) -> np.ndarray:
    """Lay a weight out as ours: linear maps `(inputs, outputs)`, tables without a batch axis.

    Args:
        name: str, our name.
        value: array in PyTorch's layout; the patch projection is `(D, C, p, q)`.
    Raises:
        ValueError: if the array has not the number of axes such a weight has.
    """
    if name.endswith(".positions.table"):
        return _with_axes(name, value, 3)[0]
    if name in ("encoder.class_token", "encoder.register_tokens"):
        return _with_axes(name, value, 3)
    if name == "encoder.patch_embedding.projection.kernel":
        value = _with_axes(name, value, 4)
        return value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
    if name.endswith(".kernel"):
        return _with_axes(name, value, 2).T
    return value


def to_reference_layout(name: str, value: np.ndarray, patch_size: tuple[int, int]) -> np.ndarray:
    """Undo `to_our_layout`; `patch_size` is (p, q)."""
    if name.endswith(".positions.table"):
        return value[None]
    if name == "encoder.patch_embedding.projection.kernel":
        return value.reshape(*patch_size, -1, value.shape[1]).transpose(3, 2, 0, 1)
    if name.endswith(".kernel"):
        return value.T
    return value


def _with_axes(name: str, value: np.ndarray, axes: int) -> np.ndarray:
    if value.ndim != axes:
        raise ValueError(
            f"`path` is of another architecture: expected {axes} axes for {name}. "
            f"Received: shape {value.shape}"
        )
    return value
