import numpy as np
import pytest

import keras_mae
from keras_mae.evaluation.baseline import mean_predictor_loss


def model(norm_pix_loss):
    return keras_mae.MaskedAutoencoder(
        image_size=4,
        channels=1,
        patch_size=2,
        hidden_dim=8,
        num_layers=1,
        num_heads=2,
        decoder_hidden_dim=8,
        decoder_num_layers=1,
        decoder_num_heads=2,
        norm_pix_loss=norm_pix_loss,
    )


def test_loss_of_the_mean_image_by_hand():
    train = [np.full((1, 4, 4, 1), 1.0, "float32"), np.full((1, 4, 4, 1), 3.0, "float32")]
    heldout = [(np.full((1, 4, 4, 1), 5.0, "float32"), np.array([7]))]
    # The mean image is 2 everywhere: off by 3.
    assert mean_predictor_loss(model(False), train, heldout) == pytest.approx(9.0)


def test_normalised_targets_of_flat_patches_are_all_zero():
    flat = [np.full((2, 4, 4, 1), 3.0, "float32")]
    assert mean_predictor_loss(model(True), flat, flat) == pytest.approx(0.0)
