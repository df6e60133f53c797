"""Sizes and FLOP of vision transformers, and a way around an import, for the benchmarks."""

SIZES = {  # encoder width, blocks, heads, patch: He et al. 2021
    "tiny": (192, 12, 3, 16),
    "small": (384, 12, 6, 16),
    "base": (768, 12, 12, 16),
    "large": (1024, 24, 16, 16),
    "huge": (1280, 32, 16, 14),
}


def block_flops(tokens, width):
    """Return the FLOP of a block's matrix products, forward, for an image's tokens."""
    return 2 * tokens * 12 * width**2 + 4 * tokens**2 * width


def step_flops(model, image_size=224, kept=0.25, decoder_blocks=8):
    """Return the FLOP of a step for an image: matrix products only, three times the forward's.

    Args:
        model: string, of `SIZES`.
        image_size: int.
        kept: float. Share of the patches that the encoder sees; the loss is of .75 of them.
        decoder_blocks: int.
    """
    width, blocks, _, patch = SIZES[model]
    patches = (image_size // patch) ** 2
    visible, hidden = int(patches * kept), patches - int(patches * 0.25)
    values = patch * patch * 3
    encoder = 2 * visible * values * width + blocks * block_flops(visible + 1, width)
    decoder = 2 * (visible + 1) * width * 512 + decoder_blocks * block_flops(patches + 1, 512)
    return 3 * (encoder + decoder + 2 * hidden * 512 * values)


def declare_torchvision_operators():
    """Let torchvision be imported, which the peers do where it is installed.

    One made for GPUs does not load its operators beside a torch made for CPUs, and then cannot be
    imported unless these two, which nothing here calls, are known.
    """
    try:
        import torchvision  # noqa: F401 (it has operators of its own, or there is none)
    except (ImportError, OSError, RuntimeError):
        from torch import library

        operators = library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            operators.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        return operators  # they are forgotten with it
