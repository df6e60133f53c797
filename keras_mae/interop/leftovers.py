"""What is in a file beside an encoder: left out, with a line that says so, or refused by name."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence

from keras_mae.types import AnyPath

logger = logging.getLogger(__name__)

# Parts that change the tokens or logits, which our models do not have.
_UNSUPPORTED = (
    (r"dist(illation)?_token|head_dist|distillation_classifier", "a distillation token"),
    (r"rope|rotary|freqs_cis|inv_freq", "rotary positions (RoPE)"),
    (r"relative_position|rel_pos|(^|\.)downsample\.", "windows or relative positions"),
    (
        r"mlp\.(w12|w1|w2|w3|fc1_g|fc1_x|weights_in|weights_out|gate_proj|up_proj|down_proj)\b",
        "SwiGLU",
    ),
    (r"\.[qk]_norm\.|(query|key)_norm\.", "normalised queries and keys (QK norm)"),
    (r"attn_pool\.|probe$", "attention pooling"),
    (r"attn\.norm\.|mlp\.norm\.|inner_attn_ln|ffn_ln", "norms inside of attention or MLP"),
    (r"(^|\.)(cross_attn|crossattention)\.", "cross-attention"),
    (r"(^|\.)adapter|lora_", "adapters: merge them first"),
)
# Parts of pre-training that say nothing of the encoder's tokens.
_APART = (
    (r"pooler\.", "the pooler"),
    (r"decoder\w*\.|decoder_\w+$|neck\.", "the decoder of another method"),
    (r"mask_token$", "the mask token of another method"),
    (
        r"(\w+_)?(head|heads|projector|predictor|prototypes|projection)\.",
        "the head of another method",
    ),
    (r"(\w+_)?(loss|losses|criterion)\.|center$|queue\w*$", "the state of a loss"),
)
# Counters and indices that PyTorch keeps beside weights.
_COUNTERS = re.compile(r"(.*\.)?(num_batches_tracked|n_averaged|position_ids)")


def sort_unknown(path: AnyPath, names: Iterable[str], has_head: bool) -> list[str]:
    """Return the names that nothing is known of; say which parts are left out.

    Args:
        path: for the messages.
        names: of weights that have no name of ours, without the prefix of the model.
        has_head: bool. Whether there is a head of ours: what else is of a head belongs to it.
    Raises:
        ValueError: naming a part that our models do not have.
    """
    left_out: dict[str, list[str]] = {}
    unknown: list[str] = []
    for whole in names:
        name = whole.partition(" ")[0]  # without where it was found
        for pattern, what in _UNSUPPORTED:
            if re.search(pattern, name):
                raise unsupported(path, what, name)
        if _COUNTERS.fullmatch(name):
            continue
        part = next((part for pattern, part in _APART if re.match(pattern, _last(name))), None)
        if part is None or (has_head and "head" in part):
            unknown.append(whole)
        else:
            left_out.setdefault(part, []).append(name)
    say_left_out(path, left_out)
    return unknown


def _last(name: str) -> str:
    """Return a name without transformers' `embeddings.`, and without the model's own name."""
    return re.sub(r"^(\w+\.)?embeddings\.", "", name)


def say_left_out(path: AnyPath, left_out: Mapping[str, Sequence[str]]) -> None:
    """Log one line about parts of a file that are not opened."""
    if left_out:
        parts = [f"{what} ({_first(names)})" for what, names in left_out.items()]
        logger.warning("%s: opened without %s", path, ", ".join(parts))


def unsupported(path: AnyPath, what: str, received: str) -> ValueError:
    """Return the error for a file whose model has what ours have not."""
    return ValueError(
        f"`path` must be a plain vision transformer; this one has {what}, which is not supported. "
        f"Received: {path}, with {received}"
    )


def _first(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
