"""All named architectures, in one table.

`base`, `large` and `huge` are the encoders and the decoder of He et al. 2021 (arXiv:2111.06377,
appendix A.1 and table 1). `tiny` and `small` are the encoders of DeiT (arXiv:2012.12877, table 1)
with decoders of half the paper's depth, narrowed alike. `mini` is ours, for images of 28 to 96
pixels. Widths of MLPs are four times the width of the tokens.
"""

from typing import Any

#   name                     image  C  p   encoder D, layers, heads   decoder D, layers, heads
_TABLE = {
    "mae_vit_mini_patch4": (28, 1, 4, (96, 4, 3), (64, 2, 4)),
    "mae_vit_mini_patch8": (64, 3, 8, (96, 4, 3), (64, 2, 4)),
    "mae_vit_tiny_patch16": (224, 3, 16, (192, 12, 3), (192, 4, 3)),
    "mae_vit_small_patch16": (224, 3, 16, (384, 12, 6), (256, 4, 8)),
    "mae_vit_base_patch16": (224, 3, 16, (768, 12, 12), (512, 8, 16)),
    "mae_vit_large_patch16": (224, 3, 16, (1024, 24, 16), (512, 8, 16)),
    "mae_vit_huge_patch14": (224, 3, 14, (1280, 32, 16), (512, 8, 16)),
}


def list_presets() -> list[str]:
    """Return the names that `MaskedAutoencoder.from_preset` knows, smallest model first."""
    return list(_TABLE)


def preset_config(name: str) -> dict[str, Any]:
    """Return the architecture of a preset as arguments of `MaskedAutoencoder`.

    Raises:
        ValueError: if the name is unknown, with the names that are.
    """
    if name not in _TABLE:
        raise ValueError(f"`name` must be one of {list_presets()}. Received: {name!r}")
    image_size, channels, patch_size, encoder, decoder = _TABLE[name]
    config = {"image_size": image_size, "channels": channels, "patch_size": patch_size}
    for prefix, (dim, layers, heads) in (("", encoder), ("decoder_", decoder)):
        config[f"{prefix}hidden_dim"] = dim
        config[f"{prefix}num_layers"] = layers
        config[f"{prefix}num_heads"] = heads
    return config
