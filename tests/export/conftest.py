"""An encoder that was trained, if for a few steps only: what int8 loses depends on the weights."""

import keras
import pytest
from shaken import SIZES, encoder

from keras_mae import MaskedAutoencoder
from keras_mae.data import load_source, pretrain_dataset
from keras_mae.export import export_encoder
from keras_mae.training.optimizers import AdamW


@pytest.fixture(scope="session")
def trained():
    """Return a small encoder of digits after 40 steps of pre-training."""
    keras.utils.set_random_seed(0)
    model = MaskedAutoencoder(
        **SIZES,
        decoder_hidden_dim=32,
        decoder_num_layers=1,
        decoder_num_heads=2,
        mask_ratio=0.75,
    )
    model.compile(optimizer=AdamW(2e-3), jit_compile=False)
    digits = pretrain_dataset(
        load_source("mnist5k"), image_size=28, batch_size=64, mean=SIZES["mean"], std=SIZES["std"]
    )
    model.fit(digits, steps_per_epoch=40, epochs=1, verbose=0)
    return model.encoder


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """Return a SavedModel of `shaken.encoder()` that a new process has checked."""
    pytest.importorskip("tensorflow_serving.apis")
    return export_encoder(encoder(), tmp_path_factory.mktemp("served") / "digits", dense=True)
