"""Which of a file's weights are opened: prefixes, several copies, and what stands beside."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from keras_mae import MaskedAutoencoder, ViTClassifier, ViTEncoder
from keras_mae.interop import load_pretrained
from keras_mae.interop.copies import model_weights
from keras_mae.models.weights import get_weights

D, P = 24, 8


def vit(seed=0, width=D):
    """Return a vision transformer of one block under timm's names, for 4 x 4 patches."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 17, width),
        "patch_embed.proj.weight": (width, 3, P, P),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for name, out, into in (
        ("attn.qkv", 3 * width, width),
        ("attn.proj", width, width),
        ("mlp.fc1", 4 * width, width),
        ("mlp.fc2", width, 4 * width),
    ):
        shapes |= {f"blocks.0.{name}.weight": (out, into), f"blocks.0.{name}.bias": (out,)}
    for name in ("norm1", "norm2"):
        shapes |= {f"blocks.0.{name}.{leaf}": (width,) for leaf in ("weight", "bias")}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def prefixed(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


def save(content, path):
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path


def check_opened(path, weights, kind=ViTEncoder):
    model = load_pretrained(path, num_heads=4)
    assert type(model) is kind
    ours = get_weights(model)
    np.testing.assert_array_equal(ours["encoder.norm.beta"], weights["norm.bias"])
    kernel = weights["blocks.0.mlp.fc1.weight"].T
    np.testing.assert_array_equal(ours["encoder.blocks.0.mlp.hidden.kernel"], kernel)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "prefix",
    [
        *("", "module.", "backbone.", "model.", "encoder.", "_orig_mod.", "teacher."),
        *("student.module.backbone.", "model._orig_mod.vit.", "any_other.name."),
    ],
)
def test_prefixes(prefix, suffix, tmp_path):
    check_opened(save(prefixed(prefix, vit()), tmp_path / f"x{suffix}"), vit())


def test_wrappers_inside_of_names(tmp_path):
    weights = {n.replace("blocks.0.", "blocks.0._orig_mod."): v for n, v in vit().items()}
    check_opened(save({"state_dict": prefixed("net.", weights)}, tmp_path / "x.pth"), vit())


PLAIN, AVERAGE = vit(1), vit(2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        {"student": prefixed("module.backbone.", PLAIN), "teacher": prefixed("backbone.", AVERAGE)},
        {"model": prefixed("student.", PLAIN) | prefixed("teacher.", AVERAGE)},
        {"state_dict": PLAIN, "state_dict_ema": AVERAGE},
        {"model": PLAIN, "model_ema": AVERAGE, "optimizer": {"state": {0: torch.zeros(3)}}},
        {"current_model_state": prefixed("net.", PLAIN), "state_dict": prefixed("net.", AVERAGE)},
        {**PLAIN, **prefixed("ema.", AVERAGE)},
        {"state_dict": prefixed("net.", PLAIN) | prefixed("net_momentum.", AVERAGE)},
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_of_two_copies_the_averaged_one_is_opened(content, reverse, tmp_path, caplog):
    if reverse:
        content = {
            key: dict(reversed(value.items())) if isinstance(value, dict) else value
            for key, value in reversed(content.items())
        }
    check_opened(save(content, tmp_path / "x.pth"), AVERAGE)
    assert "the averaged weights, and left out" in caplog.text


@pytest.mark.parametrize(
    "content, words",
    [
        ({"a": PLAIN, "b": AVERAGE}, ("a", "b")),
        ({"a.x": 0, **prefixed("left.", PLAIN), **prefixed("right.", AVERAGE)}, ("left", "right")),
        # A teacher that is another model is no average.
        ({"student": PLAIN, "teacher": vit(2, width=48)}, ("student", "teacher")),
        ({"teacher": PLAIN, "ema": AVERAGE}, ("teacher", "ema")),
    ],
)
def test_copies_of_which_none_is_known_to_be_the_average(content, words, tmp_path):
    with pytest.raises(ValueError, match="`path`") as raised:
        load_pretrained(save(content, tmp_path / "x.pth"), num_heads=4)
    assert all(word in str(raised.value) for word in words)


def test_a_head_beside_the_encoder_is_its_head(tmp_path):
    head = {"head.weight": torch.randn(5, D), "head.bias": torch.randn(5)}
    content = {"state_dict": prefixed("model.backbone.", vit()) | prefixed("model.", head)}
    model = check_opened(save(content, tmp_path / "x.pth"), vit(), ViTClassifier)
    np.testing.assert_array_equal(model.head.bias, head["head.bias"])


def test_what_is_beside_the_encoder_is_not_taken_for_its_own(tmp_path):
    content = prefixed("backbone.", vit()) | {"norm.weight": torch.zeros(D)}
    with pytest.raises(ValueError, match=r"norm\.weight \(beside backbone\)"):
        load_pretrained(save(content, tmp_path / "x.pth"), num_heads=4)


@pytest.mark.parametrize(
    "others, word",
    [
        ({"pooler.dense.weight": torch.zeros(D, D)}, "pooler"),
        ({"decoder.0.weight": torch.zeros(192, D, 1, 1)}, "decoder"),
        ({"mask_token": torch.zeros(1, D)}, "mask token"),
        ({"head.mlp.0.weight": torch.zeros(9, D)}, "head"),
        ({"dino_head.last_layer.weight_v": torch.zeros(9, D)}, "head"),
        ({"fc_norm.weight": torch.zeros(D), "fc_norm.bias": torch.zeros(D)}, "head"),
        # A decoder of our names that predicts something else, 7 numbers a patch.
        (
            {"decoder_embed.weight": torch.zeros(8, D), "decoder_pred.weight": torch.zeros(7, 8)},
            "decoder",
        ),
    ],
)
def test_parts_of_other_methods_are_left_out_and_named(others, word, tmp_path, caplog):
    check_opened(save({**vit(), **others}, tmp_path / "x.pth"), vit())
    assert "opened without" in caplog.text and word in caplog.text


def test_a_part_of_a_head_that_is_known_is_not_left_out(tmp_path):
    head = {"head.weight": torch.zeros(5, D), "head.bias": torch.zeros(5)}
    content = {**vit(), **head, "head.scale.weight": torch.zeros(5)}
    with pytest.raises(ValueError, match=r"head\.scale\.weight"):
        load_pretrained(save(content, tmp_path / "x.pth"), num_heads=4)


def test_a_decoder_of_which_a_part_is_lost_is_an_error(tmp_path):
    model = MaskedAutoencoder(16, 3, 8, D, 1, 4, None, 8, 1, 2)
    from keras_mae.interop import save_pretrained

    save_pretrained(model, tmp_path / "meta", "meta")
    content = torch.load(tmp_path / "meta" / "checkpoint.pth")
    del content["model"]["decoder_pred.weight"]
    with pytest.raises(ValueError, match=r"Missing: decoder\.prediction\.kernel"):
        load_pretrained(save(content, tmp_path / "x.pth"))


def test_a_bias_that_one_block_lacks_is_an_error_and_one_that_all_lack_is_0(tmp_path):
    weights = vit()
    weights |= {n.replace(".0.", ".1."): v for n, v in vit().items() if n.startswith("blocks")}
    del weights["blocks.1.attn.qkv.bias"]
    with pytest.raises(ValueError, match=r"blocks\.1\.attention\.query_key_value\.bias"):
        load_pretrained(save(weights, tmp_path / "x.pth"), num_heads=4)
    del weights["blocks.0.attn.qkv.bias"]
    model = load_pretrained(save(weights, tmp_path / "x.pth"), num_heads=4)
    assert not np.asarray(model.blocks[1].attention.query_key_value.bias).any()


def test_counters_of_pytorch_are_no_weights(tmp_path):
    content = {**prefixed("module.", vit()), "n_averaged": torch.tensor(3)}
    check_opened(save(content, tmp_path / "x.pth"), vit())


def test_without_an_encoder_the_tensors_are_returned_as_they_are():
    assert model_weights({"epoch": 3, "a": {"x.weight": np.zeros(2)}})[0].keys() == {"x.weight"}
    assert model_weights({})[0] == {}
