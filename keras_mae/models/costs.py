"""What a training step takes: parameters, operations, values kept for the gradient."""

from keras_mae.layers.arguments import grid_size, pair


class StepCosts:
    """What a training step of an architecture takes, counted by hand; nothing is measured.

    Args:
        config: dict, as of `keras_mae.presets.preset_config` or `MaskedAutoencoder.get_config`.
        mask_ratio: float in (0, 1).
    Attributes:
        parameters, trainable: ints. The difference is the two tables of positions.
        flops: float. Of a training step, for an image: two for each multiplication and addition
            of a matrix product in the forward pass, and twice as many for the gradients.
        encoding: float. Operations of the encoder for an image without a mask, forward only.
        activations: float. Values kept for the gradient, for an image.
        inputs: float. Values kept by `recompute`: the inputs of all blocks, and one whole block.
    Example:
        StepCosts(preset_config("mae_vit_base_patch16"), 0.75).flops  # 5.8e10
    """

    def __init__(self, config, mask_ratio):
        rows, columns = grid_size(config["image_size"], config["patch_size"])
        height, width_of_patch = pair(config["patch_size"], "patch_size")
        patches = rows * columns
        values = height * width_of_patch * config["channels"]
        width, layers = config["hidden_dim"], config["num_layers"]
        decoder_width, decoder_layers = config["decoder_hidden_dim"], config["decoder_num_layers"]
        tables = (1 + patches) * (width + decoder_width)
        self.parameters = (
            (values * width + width)  # patch embedding
            + width  # class token
            + layers * _block_parameters(width)
            + 2 * width  # last LayerNorm
            + (width * decoder_width + decoder_width)
            + decoder_width  # mask token
            + decoder_layers * _block_parameters(decoder_width)
            + 2 * decoder_width
            + (decoder_width * values + values)  # prediction
            + tables
        )
        self.trainable = self.parameters - tables
        visible = 1 + int(patches * (1 - mask_ratio))
        every = 1 + patches
        products = (
            visible * values * width
            + layers * _block_products(visible, width)
            + visible * width * decoder_width
            + decoder_layers * _block_products(every, decoder_width)
            + every * decoder_width * values
        )
        self.flops = 3 * 2 * products
        self.encoding = 2 * (every * values * width + layers * _block_products(every, width))
        heads, decoder_heads = config["num_heads"], config["decoder_num_heads"]
        block = _block_activations(visible, width, heads)
        decoder_block = _block_activations(every, decoder_width, decoder_heads)
        self.activations = layers * block + decoder_layers * decoder_block
        self.inputs = (
            layers * visible * width
            + decoder_layers * every * decoder_width
            + max(block, decoder_block)
        )


def _block_parameters(width):
    """12 D^2 of matrices, 9 D of their biases, 4 D of two LayerNorms."""
    return 12 * width**2 + 13 * width


def _block_products(tokens, width):
    """Multiplications of a block: its matrices for each token, and scores and their use."""
    return 12 * tokens * width**2 + 2 * tokens**2 * width


def _block_activations(tokens, width, heads):
    """Two LayerNorms' outputs, query, key, value, context, two sums: 8 D a token; before and after
    GELU: 8 D; attention weights before and after the softmax."""
    return 16 * tokens * width + 2 * heads * tokens**2
