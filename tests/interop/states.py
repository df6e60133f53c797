"""State dicts with Meta's names, made by hand from models of transformers."""

import torch

# Heads, which no weight tells, are those of the preset of the same width and depth.
PRESET = {"image_size": 28, "patch_size": 4, "hidden": (96, 4, 3), "decoder": (64, 2, 4)}


def encoder_state(vit, final_norm=True):
    """Return the weights of a ViTMAEModel or ViTModel under Meta's and timm's names."""
    embeddings = vit.embeddings
    state = {
        "cls_token": embeddings.cls_token,
        "pos_embed": embeddings.position_embeddings,
        "patch_embed.proj.weight": embeddings.patch_embeddings.projection.weight,
        "patch_embed.proj.bias": embeddings.patch_embeddings.projection.bias,
        **_blocks("blocks", vit.layers),
    }
    if final_norm:
        state |= {"norm.weight": vit.layernorm.weight, "norm.bias": vit.layernorm.bias}
    return {name: value.detach().clone() for name, value in state.items()}


def autoencoder_state(oracle):
    decoder = oracle.decoder
    state = {
        "mask_token": decoder.mask_token,
        "decoder_pos_embed": decoder.decoder_pos_embed,
        **_blocks("decoder_blocks", decoder.decoder_layers),
    }
    for name in ("decoder_embed", "decoder_norm", "decoder_pred"):
        state[f"{name}.weight"] = getattr(decoder, name).weight
        state[f"{name}.bias"] = getattr(decoder, name).bias
    state = {name: value.detach().clone() for name, value in state.items()}
    return {**encoder_state(oracle.vit), **state}


def _blocks(stack, layers):
    state = {}
    for i, layer in enumerate(layers):
        attention = layer.attention
        joint = [attention.q_proj, attention.k_proj, attention.v_proj]
        for leaf in ("weight", "bias"):
            block = {
                "norm1": getattr(layer.layernorm_before, leaf),
                "attn.qkv": torch.cat([getattr(part, leaf) for part in joint]),
                "attn.proj": getattr(attention.o_proj, leaf),
                "norm2": getattr(layer.layernorm_after, leaf),
                "mlp.fc1": getattr(layer.mlp.fc1, leaf),
                "mlp.fc2": getattr(layer.mlp.fc2, leaf),
            }
            state |= {f"{stack}.{i}.{name}.{leaf}": value for name, value in block.items()}
    return state
