"""Layer-wise learning rates: the nearer a variable is to the pixels, the less it is changed."""

from keras_mae.models.encoder import ViTEncoder
from keras_mae.models.saved_model_encoder import SavedModelEncoder


def encoder_of(model):
    """Return the encoder in a model: its attribute `encoder`, or the only `ViTEncoder` inside.

    Raises:
        ValueError: if there is none, or more than one.
    """
    if hasattr(model, "encoder"):
        return model.encoder
    found = [layer for layer in model._flatten_layers() if isinstance(layer, ViTEncoder)]
    if len(found) != 1:
        raise ValueError(f"`model` must have one ViTEncoder in it. Received: {len(found)}")
    return found[0]


def variable_depths(model):
    """Return how deep each trainable variable of a model lies, by its encoder's blocks.

    Args:
        model: one of ours with a `ViTEncoder` of L blocks, such as a `ViTClassifier`; or any with
            one inside, such as a KerasCV detector on `keras_mae.backbones.keras_cv(encoder)`.
    Returns:
        list of ints, one for each of `model.trainable_variables`: 0 for class tokens, registers,
        patch embedding, positions and a norm before the blocks, i + 1 for block i, L + 1 for norms
        after the blocks and the head.
    """
    encoder = encoder_of(model)
    depths = {id(variable): 0 for variable in encoder.no_weight_decay}
    parts = [(encoder.patch_embedding, 0), (encoder.positions, 0), (encoder.input_norm, 0)]
    parts += [(block, depth) for depth, block in enumerate(encoder.blocks, start=1)]
    for part, depth in parts:
        if part is not None:
            depths.update({id(variable): depth for variable in part.variables})
    return [depths.get(id(v), encoder.num_layers + 1) for v in model.trainable_variables]


def layer_rate_scales(model, layer_decay):
    """Return what the learning rate of each trainable variable is multiplied by.

    It is `layer_decay ** (L + 1 - depth)`, with the depths of `variable_depths`: 1 for the head.

    Args:
        model: see `variable_depths`.
        layer_decay: float in (0, 1]. 1 gives all the same rate.
    Returns:
        list of floats, for `keras_mae.training.optimizers.AdamW(rate_scales=...)`.
    Raises:
        ValueError: if `layer_decay` is out of range, or not 1 for a `SavedModelEncoder`, whose
            blocks cannot be told apart.
    Reference: Clark et al. 2020, arXiv:2003.10555; Bao et al. 2021, arXiv:2106.08254, section A.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"`layer_decay` must be in (0, 1]. Received: {layer_decay}")
    if layer_decay == 1:
        return [1.0] * len(model.trainable_variables)
    encoder = encoder_of(model)
    if isinstance(encoder, SavedModelEncoder):
        raise ValueError(
            "`layer_decay` must be 1 for a SavedModel, in which blocks cannot be told apart. "
            f"Received: {layer_decay}"
        )
    last = encoder.num_layers + 1
    return [layer_decay ** (last - depth) for depth in variable_depths(model)]
