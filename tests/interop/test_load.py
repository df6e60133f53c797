"""Every checkpoint that is known, told by its content, and what it gives."""

import argparse
import builtins
import json
import logging

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from states import PRESET, autoencoder_state, encoder_state

from keras_mae import MaskedAutoencoder, ViTEncoder
from keras_mae.interop import load_pretrained, load_weights_into
from keras_mae.layers import sincos_positions
from keras_mae.models import ViTClassifier
from keras_mae.models.weights import get_weights
from keras_mae.testing import oracle


@pytest.fixture(scope="module")
def theirs():
    return oracle.make_oracle(oracle.mae_config(**PRESET))


@pytest.fixture(scope="module")
def batch(theirs):
    return oracle.random_batch(theirs.config)


@pytest.fixture(scope="module")
def vit():
    """A classifier of transformers, of the preset's sizes."""
    config = transformers.ViTConfig(
        image_size=28,
        patch_size=4,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=384,
        layer_norm_eps=1e-6,
        num_labels=5,
    )
    return oracle.make_oracle(config, transformers.ViTForImageClassification)


def logits_of(vit, images):
    with torch.no_grad():
        return vit(oracle.to_torch(images)).logits.numpy()


def features_of(vit, images):
    """Return the tokens `(B, 1 + N, D)` before the final norm."""
    found = []
    hook = vit.vit.layernorm.register_forward_hook(lambda *args: found.append(args[1][0]))
    logits_of(vit, images)
    hook.remove()
    return found[0]


def save(state, path, **others):
    torch.save({"model": state, **others}, path)
    return path


@pytest.mark.slow
def test_meta_with_decoder(theirs, batch, tmp_path):
    path = save(autoencoder_state(theirs), tmp_path / "any.name")
    ours = load_pretrained(path)
    assert isinstance(ours, MaskedAutoencoder) and not ours.norm_pix_loss
    assert (ours.image_size, ours.patch_size, ours.encoder.num_heads) == ((28, 28), (4, 4), 3)
    found = oracle.differences(
        oracle.our_outputs(ours, *batch), oracle.oracle_outputs(theirs, *batch)
    )
    assert max(found.values()) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapping", ["model", "state_dict", "bare", "module."])
def test_meta_encoder_alone(theirs, batch, wrapping, legacy, tmp_path):
    state = encoder_state(theirs.vit)
    if wrapping == "module.":
        state = {f"module.{name}": value for name, value in state.items()}
    content = {wrapping: state} if wrapping in ("model", "state_dict") else state
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    ours = load_pretrained(tmp_path / "x.pth")
    assert isinstance(ours, ViTEncoder)
    keep = np.argsort(batch[1], axis=1)[:, :12].astype("int32")
    expected = oracle.oracle_outputs(theirs, *batch)["latent"]
    np.testing.assert_allclose(ours(batch[0], keep_ids=keep), expected, atol=1e-4)


@pytest.mark.slow
def test_training_arguments_in_a_checkpoint_are_used(theirs, tmp_path):
    arguments = argparse.Namespace(norm_pix_loss=True, mask_ratio=0.6, output_dir="x", lr=1e-3)
    path = save(autoencoder_state(theirs), tmp_path / "c.pth", args=arguments, epoch=3)
    ours = load_pretrained(path)
    assert ours.norm_pix_loss and ours.mask_ratio == 0.6
    assert load_pretrained(path, mask_ratio=0.5).mask_ratio == 0.5


def test_meta_fine_tuned_by_class_token(vit, batch, tmp_path):
    head = vit.classifier
    state = encoder_state(vit.vit) | {"head.weight": head.weight, "head.bias": head.bias}
    ours = load_pretrained(save(state, tmp_path / "f.pth"))
    assert isinstance(ours, ViTClassifier)
    assert (ours.pooling, ours.head_norm, ours.num_classes) == ("token", None, 5)
    np.testing.assert_allclose(ours(batch[0]), logits_of(vit, batch[0]), atol=1e-4)


def test_meta_fine_tuned_by_mean(vit, batch, tmp_path):
    norm = torch.nn.LayerNorm(96, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    state = encoder_state(vit.vit, final_norm=False)
    state |= {"fc_norm.weight": norm.weight, "fc_norm.bias": norm.bias}
    state |= {"head.weight": vit.classifier.weight, "head.bias": vit.classifier.bias}
    ours = load_pretrained(save(state, tmp_path / "f.pth"))
    assert (ours.pooling, ours.head_norm, ours.encoder.norm) == ("mean", "layer", None)
    with torch.no_grad():
        expected = vit.classifier(norm(features_of(vit, batch[0])[:, 1:].mean(1)))
    np.testing.assert_allclose(ours(batch[0]), expected, atol=1e-4)


def test_meta_linear_probe(vit, batch, tmp_path):
    head = torch.nn.Sequential(
        torch.nn.BatchNorm1d(96, affine=False, eps=1e-6), torch.nn.Linear(96, 5)
    ).eval()
    torch.nn.init.normal_(head[0].running_mean)
    torch.nn.init.uniform_(head[0].running_var, 0.5, 2)
    state = encoder_state(vit.vit)
    state |= {f"head.{name}": value for name, value in head.state_dict().items()}
    ours = load_pretrained(save(state, tmp_path / "l.pth"))
    assert (ours.pooling, ours.head_norm) == ("token", "batch")
    with torch.no_grad():
        expected = head(vit.vit.layernorm(features_of(vit, batch[0]))[:, 0])
    np.testing.assert_allclose(ours(batch[0]), expected, atol=1e-4)


def test_timm_folder(vit, batch, tmp_path):
    state = encoder_state(vit.vit)
    save_file(state, tmp_path / "model.safetensors")
    config = {"architecture": "vit_x.mae", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.2] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = load_pretrained(tmp_path)
    assert isinstance(ours, ViTEncoder) and ours.mean == (0.5,) * 3 and ours.std == (0.2,) * 3
    with torch.no_grad():
        expected = vit.vit.layernorm(features_of(vit, batch[0])).numpy()
    np.testing.assert_allclose(ours(batch[0]), expected, atol=1e-4)
    # Mean pooling with the encoder's norm before it: only the config tells.
    state |= {"head.weight": vit.classifier.weight, "head.bias": vit.classifier.bias}
    save_file({n: v.detach() for n, v in state.items()}, tmp_path / "model.safetensors")
    names = [f"species {i}" for i in range(len(vit.classifier.bias))]
    config |= {"global_pool": "avg", "label_names": names}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = load_pretrained(tmp_path)
    assert ours.class_names == names
    expected = expected[:, 1:].mean(1) @ vit.classifier.weight.detach().numpy().T
    expected = expected + vit.classifier.bias.detach().numpy()
    np.testing.assert_allclose(ours(batch[0]), expected, atol=1e-4)


@pytest.mark.slow
def test_transformers_folders_and_files(theirs, vit, batch, tmp_path):
    theirs.save_pretrained(tmp_path / "pre")
    theirs.vit.save_pretrained(tmp_path / "model")
    vit.save_pretrained(tmp_path / "head")
    torch.save(theirs.state_dict(), tmp_path / "in_memory_names.bin")
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1.0, 2.0, 3.0]}
    (tmp_path / "pre" / "preprocessor_config.json").write_text(json.dumps(processor))

    pre = load_pretrained(tmp_path / "pre")
    assert isinstance(pre, MaskedAutoencoder) and pre.mean == (0.1, 0.2, 0.3)
    assert isinstance(load_pretrained(tmp_path / "model"), ViTEncoder)
    file = load_pretrained(tmp_path / "pre" / "model.safetensors")
    memory = load_pretrained(tmp_path / "in_memory_names.bin")
    for name, value in get_weights(pre).items():
        np.testing.assert_array_equal(get_weights(file)[name], value)
        np.testing.assert_array_equal(get_weights(memory)[name], value)
    head = load_pretrained(tmp_path / "head")
    np.testing.assert_allclose(head(batch[0]), logits_of(vit, batch[0]), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_half_precision_files(theirs, dtype, suffix, tmp_path):
    state = {name: value.to(dtype) for name, value in encoder_state(theirs.vit).items()}
    path = tmp_path / f"half.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    ours = get_weights(load_pretrained(path))["encoder.blocks.3.mlp.hidden.kernel"]
    np.testing.assert_array_equal(ours, state["blocks.3.mlp.fc1.weight"].float().numpy().T)


@pytest.mark.slow
def test_our_archives_and_overrides(tmp_path):
    model = MaskedAutoencoder.from_preset("mae_vit_mini_patch4", channels=1, norm_epsilon=1e-5)
    model.save(tmp_path / "mae.keras")
    images = np.random.default_rng(0).normal(size=(2, 28, 28, 1)).astype("float32")
    loaded = load_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.encoder(images), model.encoder(images))
    wide = load_pretrained(tmp_path, image_size=(16, 32), mask_ratio=0.5, norm_pix_loss=False)
    assert (wide.image_size, wide.mask_ratio, wide.norm_pix_loss) == ((16, 32), 0.5, False)
    assert wide.encoder.norm_epsilon == 1e-5
    np.testing.assert_array_equal(wide.encoder.positions.table, sincos_positions(96, (4, 8)))
    np.testing.assert_array_equal(wide.encoder.class_token, model.encoder.class_token)
    classifier = ViTClassifier(model, 4, pooling="mean")
    classifier.save(tmp_path / "c.keras")
    dropped = load_pretrained(tmp_path / "c.keras", drop_path=0.2, trainable_blocks=1)
    np.testing.assert_array_equal(dropped(images), classifier(images))
    assert (dropped.encoder.drop_path, dropped.trainable_blocks) == (0.2, 1)


def test_learned_tables_are_resampled_and_the_log_says_so(theirs, caplog, tmp_path):
    state = autoencoder_state(theirs)
    state["pos_embed"] += torch.randn_like(state["pos_embed"])
    path = save(state, tmp_path / "m.pth")
    ours = load_pretrained(path, image_size=(16, 40))
    assert "encoder.positions.table: learned table resampled from grid (7, 7)" in caplog.text
    patches = state["pos_embed"][:, 1:].reshape(1, 7, 7, 96).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(patches, size=(4, 10), mode="bicubic")
    expected = expected.permute(0, 2, 3, 1).reshape(40, 96)
    np.testing.assert_allclose(ours.encoder.positions.table[1:], expected, atol=1e-5)
    np.testing.assert_array_equal(ours.encoder.positions.table[0], state["pos_embed"][0, 0])
    np.testing.assert_array_equal(ours.decoder.positions.table, sincos_positions(64, (4, 10)))


def test_a_grid_that_is_not_square_is_told_by_image_size(theirs, tmp_path):
    state = encoder_state(theirs.vit)
    state["pos_embed"] = torch.randn(1, 1 + 3 * 4, 96)
    path = save(state, tmp_path / "m.pth")
    with pytest.raises(ValueError, match="`image_size`"):
        load_pretrained(path)
    table = load_pretrained(path, image_size=(12, 16)).positions.table
    np.testing.assert_array_equal(table, state["pos_embed"][0])


def test_heads_that_nothing_tells_are_asked_for(tmp_path):
    config = oracle.mae_config(**{**PRESET, "hidden": (96, 2, 3)})
    path = save(encoder_state(oracle.make_oracle(config).vit), tmp_path / "m.pth")
    with pytest.raises(ValueError, match="`num_heads` must be given"):
        load_pretrained(path)
    assert load_pretrained(path, num_heads=3).num_heads == 3


def test_overrides_that_do_not_fit_raise(theirs, tmp_path):
    path = save(encoder_state(theirs.vit), tmp_path / "m.pth")
    with pytest.raises(
        ValueError, match=r"`overrides` must be among .* Received: \['mask_ratio'\]"
    ):
        load_pretrained(path, mask_ratio=0.5)
    with pytest.raises(ValueError, match="Left over: encoder.blocks.2"):
        load_pretrained(path, num_layers=2, num_heads=3)


def test_weights_into_a_model(theirs, tmp_path, caplog):
    path = save(encoder_state(theirs.vit), tmp_path / "m.pth")
    model = MaskedAutoencoder.from_preset("mae_vit_mini_patch4", channels=3)
    before = get_weights(model)
    with pytest.raises(ValueError, match=r"Missing: decoder\.mask_token"):
        load_weights_into(model, path)
    for name, value in get_weights(model).items():
        np.testing.assert_array_equal(value, before[name])
    load_weights_into(model, path, skip=("decoder.*",))
    weights = get_weights(load_pretrained(path))
    for name, value in get_weights(model).items():
        np.testing.assert_array_equal(value, weights.get(name, before[name]))

    whole = save(autoencoder_state(theirs), tmp_path / "whole.pth")
    encoder = ViTEncoder(28, 3, 4, 96, 4, 3)
    with pytest.raises(ValueError, match=r"Left over: decoder\.mask_token"):
        load_weights_into(encoder, whole)
    load_weights_into(encoder, whole, skip="decoder.*")
    np.testing.assert_array_equal(encoder.class_token, weights["encoder.class_token"])


@pytest.mark.slow
def test_other_heads_than_the_checkpoint_says_raise(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    model = MaskedAutoencoder.from_preset("mae_vit_mini_patch4", channels=3, num_heads=4)
    with pytest.raises(ValueError, match="`model` must have num_heads=3"):
        load_weights_into(model, tmp_path)


def test_without_pytorch(theirs, monkeypatch, tmp_path):
    theirs.save_pretrained(tmp_path / "hf")
    path = save(encoder_state(theirs.vit), tmp_path / "m.pth")
    real_import = builtins.__import__

    def no_torch(name, *args, **kwargs):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_torch)
    with pytest.raises(ImportError, match=r'pip install "keras_mae\[interop\]"'):
        load_pretrained(path)
    assert isinstance(load_pretrained(tmp_path / "hf"), MaskedAutoencoder)


def test_the_number_of_heads_taken_is_logged(theirs, caplog, tmp_path):
    path = save(encoder_state(theirs.vit), tmp_path / "m.pth")
    with caplog.at_level(logging.INFO):
        load_pretrained(path)
    assert "num_heads=3, as the known model of the same sizes" in caplog.text
