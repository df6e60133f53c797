"""What is written opens elsewhere, comes back bit by bit, and appears whole or not at all."""

import json
import logging
import os

import numpy as np
import pytest
import torch
import transformers

from keras_mae import MaskedAutoencoder, ViTEncoder
from keras_mae.interop import load_pretrained, save_pretrained
from keras_mae.models import ViTClassifier
from keras_mae.models.weights import get_weights, named_weights
from keras_mae.testing import oracle

SMALL = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_dim": 24,
    "num_layers": 2,
    "num_heads": 3,
    "mlp_dim": 40,
    "decoder_hidden_dim": 16,
    "decoder_num_layers": 2,
    "decoder_num_heads": 4,
    "decoder_mlp_dim": 24,
}


def scrambled(model):
    """Give every weight random values, positions too."""
    rng = np.random.default_rng(0)
    for weight in named_weights(model).values():
        weight.assign(rng.normal(size=weight.shape, scale=0.3))
    return model


def autoencoder(**others):
    return scrambled(MaskedAutoencoder(**{**SMALL, **others}))


def encoder(**others):
    config = {k: v for k, v in SMALL.items() if not k.startswith("decoder_")}
    return scrambled(ViTEncoder(**{**config, **others}))


def check_same(model, other):
    assert type(other) is type(model)
    weights, others = get_weights(model), get_weights(other)
    assert set(weights) == set(others)
    for name, value in weights.items():
        np.testing.assert_array_equal(others[name], value)
    first = named_weights(other)
    assert [w.trainable for w in first.values()] == [
        w.trainable for w in named_weights(model).values()
    ]


MODELS = {
    "autoencoder": lambda: autoencoder(mask_ratio=0.6, norm_pix_loss=True, mean=(0.1, 0.2, 0.3)),
    "1 channel": lambda: autoencoder(channels=1, std=(0.3,), norm_epsilon=1e-5),
    "encoder": encoder,
    "class token": lambda: scrambled(ViTClassifier(encoder(), 5)),
}
META_MODELS = {
    **MODELS,
    "rectangles": lambda: autoencoder(image_size=(8, 24), patch_size=(4, 2)),
    "mean": lambda: scrambled(ViTClassifier(encoder(), 5, pooling="mean", drop_path=0.1)),
    "probe": lambda: scrambled(ViTClassifier(encoder(), 5, head_norm="batch", trainable_blocks=0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_bit_equal_by_way_of_transformers(name, tmp_path):
    model = MODELS[name]()
    save_pretrained(model, tmp_path / "hf")
    check_same(model, load_pretrained(tmp_path / "hf"))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "hf")
    theirs = getattr(transformers, theirs.architectures[0]).from_pretrained(tmp_path / "hf")
    theirs.save_pretrained(tmp_path / "again")
    check_same(model, load_pretrained(tmp_path / "again"))


@pytest.mark.slow
@pytest.mark.parametrize("name", META_MODELS)
def test_bit_equal_by_way_of_meta(name, tmp_path):
    model = META_MODELS[name]()
    save_pretrained(model, tmp_path / "meta", format="meta")
    loaded = load_pretrained(tmp_path / "meta")
    check_same(model, loaded)
    config, other = model.get_config(), loaded.get_config()
    if name in ("class token", "mean", "probe"):
        config |= model.encoder.get_config()
        other |= loaded.encoder.get_config()
    for key in set(config) - {"name", "encoder"}:
        assert json.dumps(config[key]) == json.dumps(other[key]), key
    file = torch.load(tmp_path / "meta" / "checkpoint.pth", weights_only=True)
    assert {"cls_token", "pos_embed", "blocks.1.attn.qkv.weight"} <= set(file["model"])


def test_transformers_opens_it_without_a_warning_and_says_the_same(tmp_path, caplog):
    model = autoencoder()
    save_pretrained(model, tmp_path / "hf")
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_warning()
    try:
        theirs, found = transformers.ViTMAEForPreTraining.from_pretrained(
            tmp_path / "hf", output_loading_info=True
        )
        processor = transformers.ViTImageProcessorPil.from_pretrained(tmp_path / "hf")
    finally:
        transformers.logging.set_verbosity(verbosity)
        logger.removeHandler(caplog.handler)
    assert not caplog.records and not any(found.values())
    batch = oracle.random_batch(theirs.config)
    differences = oracle.differences(
        oracle.our_outputs(model, *batch), oracle.oracle_outputs(theirs.eval(), *batch)
    )
    assert max(differences.values()) <= 1e-4
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pixels = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(pixels, (image / 255 - model.mean) / model.std, atol=1e-5)


@pytest.mark.parametrize("format", ["hf", "meta"])
def test_an_existing_directory_is_refused_and_an_empty_one_used(format, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="`directory` must be new or empty"):
        save_pretrained(encoder(), tmp_path / "full", format)
    assert os.listdir(tmp_path / "full") == ["file"]
    (tmp_path / "empty").mkdir()
    save_pretrained(encoder(), tmp_path / "empty", format)
    assert sorted(os.listdir(tmp_path)) == ["empty", "full"]
    assert (tmp_path / "empty").stat().st_mode == (tmp_path / "full").stat().st_mode


@pytest.mark.parametrize("format,writer", [("hf", "json.dump"), ("meta", "torch.save")])
def test_what_fails_half_way_leaves_nothing(format, writer, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(writer, fail)
    with pytest.raises(OSError, match="disk full"):
        save_pretrained(encoder(), tmp_path / "out", format)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "model,format,message",
    [
        (lambda: encoder(), "onnx", "`format` must be one of"),
        (lambda: "encoder", "hf", "`model` must be one of"),
        (lambda: autoencoder(decoder_attention="cross"), "hf", "decoder_attention='self'"),
        (lambda: autoencoder(decoder_attention="masked"), "meta", "decoder_attention='self'"),
        (META_MODELS["rectangles"], "hf", "square images and patches only"),
        (META_MODELS["mean"], "hf", "pooling='token' and head_norm=None only"),
        (lambda: encoder(final_norm=False), "hf", "a final LayerNorm only"),
        (lambda: ViTClassifier(encoder(), 5, pooled_blocks=2), "hf", "the last block's tokens"),
        (lambda: ViTClassifier(encoder(), 5, pooled_blocks=2), "meta", "the last block's tokens"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(model, format, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_pretrained(model(), tmp_path / "out", format)
    assert os.listdir(tmp_path) == []


def test_masking_that_transformers_has_not_is_logged(tmp_path, caplog):
    save_pretrained(autoencoder(masking="block"), tmp_path / "out")
    assert "transformers masks at random; BlockMasking is not saved" in caplog.text
