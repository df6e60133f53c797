"""Vision transformers of other libraries, written by their own writers: the same tokens and logits.

Weights are random, and every one of them matters: biases, norms, positions and scales too.
"""

import json
import logging

import numpy as np
import pytest
import torch
import transformers

from keras_mae import MaskedAutoencoder, ViTClassifier, ViTEncoder
from keras_mae.interop import load_pretrained, load_weights_into, save_pretrained
from keras_mae.interop.adapt import Start
from keras_mae.models.weights import get_weights
from keras_mae.testing import oracle

HF = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}
TIMM = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0}


def randomised(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def images(height=32, width=32, channels=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, height, width, channels)).astype("float32")


def outputs(model, x, method=None):
    with torch.no_grad():
        return (getattr(model, method) if method else model)(oracle.to_torch(x))


def transformers_model(name, **config):
    config = {**HF, **config}
    kind = "".join(name.partition("For")[:1]).removesuffix("Model")
    return randomised(getattr(transformers, name)(getattr(transformers, f"{kind}Config")(**config)))


def timm_folder(kind, folder, **arguments):
    """Write a model as timm does, and return it."""
    timm = pytest.importorskip("timm")
    arguments = {**TIMM, **arguments}
    model = randomised(timm.create_model(kind, **arguments))
    timm.models.save_for_hf(model, folder, model_args=arguments)
    return model


def check_tokens(folder, expected, x=None, **overrides):
    """Compare class tokens and patches: what registers give is not returned."""
    ours = load_pretrained(folder, **overrides)
    assert isinstance(ours, ViTEncoder)
    found = np.asarray(ours(images() if x is None else x))
    first = ours.num_class_tokens
    np.testing.assert_allclose(found[:, :first], expected[:, :first], atol=1e-4)
    patches = found.shape[1] - first
    np.testing.assert_allclose(found[:, first:], expected[:, -patches:], atol=1e-4)
    return ours


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, config, parts",
    [
        ("Dinov2Model", {}, {"layer_scale": 1e-5}),
        ("Dinov2Model", {"qkv_bias": False}, {"layer_scale": 1e-5}),
        ("Dinov2WithRegistersModel", {"num_register_tokens": 3}, {"num_registers": 3}),
        ("PixioModel", {"n_cls_tokens": 5}, {"num_class_tokens": 5, "layer_scale": None}),
        ("ViTMSNModel", {"intermediate_size": 40}, {"mlp_dim": 40}),
        ("ViTModel", {"intermediate_size": 40, "layer_norm_eps": 0.1}, {"norm_epsilon": 0.1}),
    ],
)
def test_encoders_of_transformers(name, config, parts, tmp_path):
    theirs = transformers_model(name, **config)
    theirs.save_pretrained(tmp_path)
    expected = outputs(theirs, images()).last_hidden_state.numpy()
    ours = check_tokens(tmp_path, expected)
    assert {key: getattr(ours, key) for key in parts} == parts


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, pooling",
    [
        ("Dinov2ForImageClassification", "both"),
        ("Dinov2WithRegistersForImageClassification", "both"),
        ("ViTForImageClassification", "token"),
    ],
)
def test_classifiers_of_transformers(name, pooling, tmp_path):
    theirs = transformers_model(name, num_labels=4)
    theirs.save_pretrained(tmp_path)
    ours = load_pretrained(tmp_path)
    assert isinstance(ours, ViTClassifier) and ours.pooling == pooling
    np.testing.assert_allclose(ours(images()), outputs(theirs, images()).logits, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, arguments",
    [
        ("deit3_small_patch16_224", {}),
        ("vit_small_patch14_dinov2", {"patch_size": 16}),
        ("vit_small_patch14_reg4_dinov2", {"patch_size": 16}),
        # Registers with positions.
        ("vit_tiny_patch16_224", {"reg_tokens": 2}),
        ("vit_tiny_patch16_224", {"qkv_bias": False, "proj_bias": False}),
        ("vit_base_patch16_clip_224", {}),
    ],
)
@pytest.mark.parametrize("size", [(64, 64), (32, 80)])
def test_encoders_of_timm(kind, arguments, size, tmp_path):
    theirs = timm_folder(kind, tmp_path, img_size=size, **arguments)
    expected = outputs(theirs, images(*size), "forward_features").numpy()
    ours = check_tokens(tmp_path, expected, images(*size))
    assert ours.image_size == size


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, pooling, head_norm",
    [
        ({"global_pool": "token"}, "token", None),
        ({"global_pool": "avg"}, "mean", "layer"),
        ({"global_pool": "avg", "fc_norm": False}, "mean", None),
        ({"global_pool": "avg", "reg_tokens": 2, "init_values": 0.1}, "mean", "layer"),
        ({"global_pool": "token", "fc_norm": True}, "token", "layer"),
    ],
)
def test_classifiers_of_timm(arguments, pooling, head_norm, tmp_path):
    arguments = {"img_size": [64, 64], "num_classes": 4, **arguments}
    theirs = timm_folder("vit_tiny_patch16_224", tmp_path, **arguments)
    ours = load_pretrained(tmp_path)
    assert (ours.pooling, ours.head_norm) == (pooling, head_norm)
    np.testing.assert_allclose(ours(images(64, 64)), outputs(theirs, images(64, 64)), atol=1e-4)


def test_an_encoder_whose_head_was_taken_off(tmp_path, caplog):
    # timm then normalises nothing before the pooling, and keeps the head's norm.
    theirs = timm_folder("vit_tiny_patch16_224", tmp_path, img_size=[64, 64], global_pool="avg")
    x = images(64, 64)
    ours = check_tokens(tmp_path, outputs(theirs, x, "forward_features").numpy(), x)
    assert ours.norm is None and "fc_norm" in caplog.text or "feature_norm" in caplog.text


@pytest.mark.parametrize("said", [True, False])
def test_rows_of_positions_without_a_config(said, tmp_path):
    """A PyTorch file alone: the rows tell a square with the class token's row, or without it."""
    timm = pytest.importorskip("timm")
    arguments = {**TIMM, "img_size": 64, "no_embed_class": not said, "reg_tokens": 0}
    theirs = randomised(timm.create_model("vit_tiny_patch16_224", **arguments))
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    x = images(64, 64)
    expected = outputs(theirs, x, "forward_features").numpy()
    ours = check_tokens(tmp_path / "x.pth", expected, x, num_heads=3)
    table = np.asarray(ours.positions.table)
    assert len(table) == 17 and table[0].any() == said


def test_rows_that_can_be_of_two_grids_are_asked_for(tmp_path):
    timm = pytest.importorskip("timm")
    # 9 rows: 3 x 3 patches alone, or 2 x 2 with the class token and four registers.
    arguments = {**TIMM, "reg_tokens": 4, "patch_size": 8}
    for size, embedded in ((24, True), (16, False)):
        model = timm.create_model(
            "vit_tiny_patch16_224", img_size=size, no_embed_class=embedded, **arguments
        )
        randomised(model)
        torch.save(model.state_dict(), tmp_path / "x.pth")
        with pytest.raises(ValueError, match="`image_size`"):
            load_pretrained(tmp_path / "x.pth", num_heads=3)
        x = images(size, size)
        expected = outputs(model, x, "forward_features").numpy()
        check_tokens(tmp_path / "x.pth", expected, x, num_heads=3, image_size=size)


MM_NAMES = (
    ("patch_embed.proj.", "patch_embed.projection."),
    ("norm_pre.", "pre_norm."),
    (".norm1.", ".ln1."),
    (".norm2.", ".ln2."),
    (".mlp.fc1.", ".ffn.layers.0.0."),
    (".mlp.fc2.", ".ffn.layers.1."),
    (".ls1.gamma", ".attn.gamma1.weight"),
    (".ls2.gamma", ".ffn.gamma2.weight"),
    ("fc_norm.", "ln2."),
    ("blocks.", "layers."),
)


def mm_state(model):
    """Return a timm model's weights under mmpretrain's names."""
    state = {}
    for name, value in model.state_dict().items():
        if name.startswith("head."):
            state[name.replace("head.", "head.layers.head.")] = value
            continue
        for theirs, mm in MM_NAMES:
            name = name.replace(theirs, mm)
        state["backbone." + (f"ln1.{name[5:]}" if name.startswith("norm.") else name)] = value
    return state


@pytest.mark.parametrize(
    "kind, arguments",
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}),
        ("deit3_small_patch16_224", {}),
    ],
)
def test_names_of_mmpretrain(kind, arguments, tmp_path):
    timm = pytest.importorskip("timm")
    arguments = {**TIMM, "num_classes": 4, "img_size": 64, **arguments}
    theirs = randomised(timm.create_model(kind, **arguments))
    state = mm_state(theirs)
    assert "backbone.layers.1.ffn.layers.0.0.weight" in state
    torch.save({"state_dict": state, "meta": {"epoch": 3}}, tmp_path / "mm.pth")
    ours = load_pretrained(tmp_path / "mm.pth", num_heads=3)
    np.testing.assert_allclose(ours(images(64, 64)), outputs(theirs, images(64, 64)), atol=1e-4)


@pytest.mark.parametrize("names", ["q, k, v", "q_proj, k_proj, v_proj", "q_bias, v_bias"])
def test_queries_keys_and_values_apart(names, tmp_path):
    timm = pytest.importorskip("timm")
    theirs = randomised(timm.create_model("vit_tiny_patch16_224", img_size=64, **TIMM))
    state = dict(theirs.state_dict())
    for i in range(2):
        start = f"blocks.{i}.attn"
        weight, bias = state[f"{start}.qkv.weight"], state.pop(f"{start}.qkv.bias")
        bias[24:48] = 0  # BEiT's keys have no bias; so here, in all three
        if "bias" in names:
            state[f"{start}.q_bias"], _, state[f"{start}.v_bias"] = bias.chunk(3)
            continue
        del state[f"{start}.qkv.weight"]
        for name, w, b in zip(names.split(", "), weight.chunk(3), bias.chunk(3), strict=True):
            state |= {f"{start}.{name}.weight": w, f"{start}.{name}.bias": b}
    torch.save(state, tmp_path / "x.pth")
    x = images(64, 64)
    expected = outputs(theirs, x, "forward_features").numpy()  # its biases are zeroed in place
    check_tokens(tmp_path / "x.pth", expected, x, num_heads=3)


def test_names_of_deit_and_of_dinov2_in_training(tmp_path):
    timm = pytest.importorskip("timm")
    theirs = randomised(timm.create_model("deit3_small_patch16_224", img_size=64, **TIMM))
    state = {n.replace("ls1.gamma", "gamma_1"): v for n, v in theirs.state_dict().items()}
    state = {n.replace("ls2.gamma", "gamma_2"): v for n, v in state.items()}
    x = images(64, 64)
    expected = outputs(theirs, x, "forward_features").numpy()
    torch.save({"model": state}, tmp_path / "deit.pth")
    check_tokens(tmp_path / "deit.pth", expected, x, num_heads=3)
    chunks = {n.replace("blocks.", "blocks.0.", 1): v for n, v in theirs.state_dict().items()}
    chunks["mask_token"] = torch.zeros(1, 24)
    torch.save({"teacher": {f"backbone.{n}": v for n, v in chunks.items()}}, tmp_path / "d.pth")
    check_tokens(tmp_path / "d.pth", expected, x, num_heads=3)


@pytest.mark.parametrize(
    "weight, word",
    [
        ("blocks.0.mlp.w12.weight", "SwiGLU"),
        ("blocks.0.mlp.fc1_g.weight", "SwiGLU"),
        ("rope.freqs", "RoPE"),
        ("blocks.0.attn.relative_position_bias_table", "windows"),
        ("blocks.0.attn.q_norm.weight", "QK norm"),
        ("dist_token", "distillation"),
        ("attn_pool.latent", "attention pooling"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(weight, word, tmp_path):
    timm = pytest.importorskip("timm")
    state = timm.create_model("vit_tiny_patch16_224", img_size=64, **TIMM).state_dict()
    torch.save({**state, weight: torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=word) as raised:
        load_pretrained(tmp_path / "x.pth", num_heads=3)
    assert "skip" not in str(raised.value)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"use_swiglu_ffn": True}, "SwiGLU"),
        ({"hidden_act": "quick_gelu"}, "hidden_act"),
        ({"model_type": "dinov3_vit"}, "RoPE"),
        ({"window_size": 14}, "window_size"),
        ({"num_hidden_layers": 3}, "num_layers"),
        ({"num_channels": 1}, "channels"),
    ],
)
def test_a_config_that_says_more_is_refused(change, word, tmp_path):
    transformers_model("Dinov2Model").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=word):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"global_pool": "max"}, "max"),
        ({"model_args": {"act_layer": "gelu_tanh"}}, "act_layer"),
        ({"model_args": {"qk_norm": True}}, "qk_norm"),
        ({"model_args": {"something_new": 1}}, "something_new"),
        ({"architecture": "vit_base_patch16_clip_quickgelu_224"}, "QuickGELU"),
        ({"model_args": {"depth": 3}}, "num_layers"),
    ],
)
def test_a_config_of_timm_that_says_more_is_refused(change, word, tmp_path):
    timm_folder("vit_tiny_patch16_224", tmp_path, img_size=[64, 64], num_classes=4)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=word):
        load_pretrained(tmp_path, num_heads=3)


def test_a_preprocessor_that_does_more_is_refused(tmp_path):
    transformers_model("Dinov2Model").save_pretrained(tmp_path)
    for step in ({"do_flip_channel_order": True}, {"offset": True}):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(step))
        with pytest.raises(ValueError, match=next(iter(step))):
            load_pretrained(tmp_path)


def test_statistics_are_the_files_own_or_a_guess_that_is_said(tmp_path, caplog):
    timm_folder("vit_tiny_patch16_224.augreg_in21k", tmp_path, img_size=[64, 64])
    assert load_pretrained(tmp_path).mean == (0.5,) * 3
    assert "mean=" not in caplog.text
    assert load_pretrained(tmp_path, mean=(0.1,) * 3).mean == (0.1,) * 3
    (tmp_path / "config.json").unlink()
    ours = load_pretrained(tmp_path, num_heads=3)
    assert ours.mean == (0.485, 0.456, 0.406)
    assert "mean=(0.485, 0.456, 0.406)" in caplog.text and "does not tell" in caplog.text


def test_names_of_classes_by_number(tmp_path):
    names = [f"class {letter}" for letter in "lkjihgfedcba"]
    timm_folder("vit_tiny_patch16_224", tmp_path, img_size=[64, 64], num_classes=12)
    config = json.loads((tmp_path / "config.json").read_text())
    config["label_names"] = {str(number): name for number, name in enumerate(names)}
    (tmp_path / "config.json").write_text(json.dumps(config, sort_keys=True))
    assert load_pretrained(tmp_path).class_names == names
    del config["label_names"]["3"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_pretrained(tmp_path).class_names == [*names[:3], "3", *names[4:]]
    config["label_names"] = names[:5]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="`class_names`"):
        load_pretrained(tmp_path)


def test_bit_equal_by_way_of_meta_and_into_a_model(tmp_path, caplog):
    model = ViTEncoder(
        image_size=16,
        patch_size=4,
        hidden_dim=24,
        num_layers=2,
        num_heads=3,
        layer_scale=0.1,
        pre_norm=True,
        num_class_tokens=2,
        num_registers=3,
    )
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    save_pretrained(model, tmp_path / "meta", "meta")
    with caplog.at_level(logging.WARNING):
        loaded = load_pretrained(tmp_path / "meta")
    assert not caplog.records
    assert loaded.get_config() == {**model.get_config(), "name": loaded.name}
    fresh = ViTEncoder.from_config(model.get_config())
    load_weights_into(fresh, tmp_path / "meta")
    for name, value in get_weights(model).items():
        np.testing.assert_array_equal(get_weights(loaded)[name], value)
        np.testing.assert_array_equal(get_weights(fresh)[name], value)
    with pytest.raises(ValueError, match="`format`"):
        save_pretrained(model, tmp_path / "hf", "hf")


def test_pre_training_goes_on_from_an_encoder_with_scales_and_registers(tmp_path):
    theirs = transformers_model("Dinov2WithRegistersModel", num_register_tokens=2)
    theirs.save_pretrained(tmp_path)
    start = Start(tmp_path)
    decoder = {"decoder_hidden_dim": 8, "decoder_num_layers": 1, "decoder_num_heads": 2}
    model, lines = start.autoencoder(start.inputs, **decoder)
    assert lines == ["decoder: new, for the weights have none"]
    np.testing.assert_array_equal(model.encoder(images()), start.encoder(images()))
    assert model.reconstruct(images())["prediction"].shape == (2, 16, 192)
    again = MaskedAutoencoder.from_config(model.get_config())
    assert again.encoder.num_registers == 2 and again.encoder.layer_scale is not None
