"""Presets: the paper's numbers of parameters, to the last one."""

import keras
import numpy as np
import pytest
from tiny import images

import keras_mae
from keras_mae import MaskedAutoencoder
from keras_mae.presets import preset_config

# Encoder without the fixed position table (of (1 + N) * D values), and the whole with all tables.
COUNTS = {
    "mae_vit_base_patch16": (85_798_656 - 197 * 768, 111_907_840),
    "mae_vit_large_patch16": (303_301_632 - 197 * 1024, 329_541_888),
    "mae_vit_huge_patch14": (630_764_800 - 257 * 1280, 657_074_508),
}


def transformer(dim, layers):
    """Blocks with an MLP of 4 * dim: 12 dim^2 + 13 dim each; and the last LayerNorm."""
    return layers * (12 * dim * dim + 13 * dim) + 2 * dim


def by_formula(name):
    """Return (encoder without positions, all) of a preset."""
    config = preset_config(name)
    patches = (config["image_size"] // config["patch_size"]) ** 2
    values = config["patch_size"] ** 2 * config["channels"]
    dim, width = config["hidden_dim"], config["decoder_hidden_dim"]
    encoder = values * dim + dim + dim + transformer(dim, config["num_layers"])
    decoder = dim * width + width + width + transformer(width, config["decoder_num_layers"])
    decoder += width * values + values
    return encoder, encoder + decoder + (1 + patches) * (dim + width)


def count(weights):
    return sum(int(np.prod(weight.shape)) for weight in weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", keras_mae.list_presets())
def test_parameter_counts(name):
    # Variables made in such a scope know their shapes and hold no memory.
    with keras.StatelessScope(initialize_variables=False):
        model = MaskedAutoencoder.from_preset(name)
    counts = count(model.encoder.trainable_weights), count(model.weights)
    keras.utils.clear_session()  # or the next such scope would make them after all
    assert counts == by_formula(name)
    assert counts == COUNTS.get(name, counts)


def test_names():
    presets = keras_mae.list_presets()
    assert set(COUNTS) <= set(presets)
    assert {"mae_vit_tiny_patch16", "mae_vit_small_patch16"} <= set(presets)
    sizes = [by_formula(name)[1] for name in presets]
    assert sizes == sorted(sizes)


def test_overrides():
    model = MaskedAutoencoder.from_preset(
        "mae_vit_mini_patch4",
        image_size=(8, 12),
        channels=2,
        patch_size=2,
        hidden_dim=16,
        num_heads=2,
        num_layers=1,
        mlp_dim=20,
        decoder_hidden_dim=8,
        decoder_mlp_dim=24,
        decoder_num_layers=1,
        mask_ratio=0.5,
        masking="grid",
        norm_pix_loss=False,
        decoder_attention="masked",
        seed=3,
        dtype="mixed_bfloat16",
    )
    config = model.get_config()
    assert config["mlp_dim"] == 20 and config["decoder_mlp_dim"] == 24
    assert config["decoder_num_heads"] == 4  # the preset's
    assert model.compute_dtype == "bfloat16"
    assert model.reconstruct(images())["prediction"].shape == (4, 24, 8)


def test_widths_of_mlps_follow_an_overridden_width():
    model = MaskedAutoencoder.from_preset("mae_vit_mini_patch4", hidden_dim=12)
    assert model.encoder.mlp_dim == 48


def test_unknown_name():
    with pytest.raises(ValueError, match="`name` must be one of .*base_patch16.*'vit_b'"):
        MaskedAutoencoder.from_preset("vit_b")


def test_unknown_override():
    with pytest.raises(ValueError, match=r"`overrides` must be among .*\['depth', 'width'\]"):
        MaskedAutoencoder.from_preset("mae_vit_mini_patch4", width=3, depth=4)
