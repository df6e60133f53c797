"""Exports of an embedder: `pooled` is what it gives, whitening and all."""

import json

import numpy as np
import pytest
import tensorflow as tf
from shaken import encoder, normalised, shake

from keras_mae import ViTEmbedder, export_encoder

pytestmark = [pytest.mark.export, pytest.mark.slow]


def embedder():
    plain = ViTEmbedder(encoder(), "grid:2")
    shake(plain.encoder)
    shape = (20, *plain.encoder.image_size, plain.encoder.channels)
    known = np.random.default_rng(1).integers(0, 256, shape).astype("float32")
    return plain.whitened(np.asarray(plain(normalised(plain.encoder, known))), 5)


@pytest.mark.parametrize("format, options", [("saved_model", {"warmup": False}), ("onnx", {})])
def test_pooled_is_what_the_embedder_gives(tmp_path, format, options):
    if format == "onnx":
        pytest.importorskip("tf2onnx")
    model = embedder()
    # It compares the file with the model before it gives it its name.
    path = export_encoder(model, tmp_path / "out", format, fresh_process=False, **options)
    card = json.loads(((path if path.is_dir() else path.parent) / "card.json").read_text())
    found = (card["kind"], card["pooling"], card["whiten"], card["pooled_blocks"])
    assert found == ("embedder", "grid:2", 5, 1)
    if format == "saved_model":
        shape = (3, *model.encoder.image_size, model.encoder.channels)
        images = np.random.default_rng(2).integers(0, 256, shape).astype("float32")
        signature = tf.saved_model.load(str(path)).signatures["serving_default"]
        pooled = signature(images=tf.constant(images))["pooled"]
        np.testing.assert_allclose(
            pooled, model(normalised(model.encoder, images)), atol=1e-3, rtol=1e-3
        )
