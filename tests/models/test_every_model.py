"""Each model through the harness, with every masking, decoder and schedule among them."""

import keras
import numpy as np
import pytest
from harness import check_layer
from tiny import GRID, TINY, N, P, images, noise, tiny

from keras_mae import MAEDecoder, MaskedAutoencoder, ViTEncoder, layers

ENCODER = {key: value for key, value in TINY.items() if not key.startswith("decoder_")}
DECODER = {"grid_size": GRID, "patch_dim": P, "input_dim": 16, "hidden_dim": 12}
DECODER |= {"num_layers": 2, "num_heads": 3}
PARTS = {"layer_scale": 0.1, "pre_norm": True, "num_class_tokens": 3, "num_registers": 3}
KEEP_IDS = np.stack([np.random.default_rng(i).permutation(N)[:6] for i in range(4)]).astype("int32")
QUERY_IDS = np.stack([np.setdiff1d(np.arange(N), ids) for ids in KEEP_IDS]).astype("int32")
LATENT = np.random.default_rng(0).normal(size=(4, 7, 16)).astype("float32")


def block(dim, mlp):
    attention = 4 * (dim * dim + dim)
    return attention + (dim * mlp + mlp) + (mlp * dim + dim) + 2 * 2 * dim


def encoder_weights(dim=16, mlp=64, layers=2):
    patches, class_token, norm = P * dim + dim, dim, 2 * dim
    return patches + class_token + layers * block(dim, mlp) + norm, (1 + N) * dim


def decoder_weights(cross=False, dim=12, mlp=48, layers=2):
    context_norm = 2 * dim if cross else 0
    ends = (16 * dim + dim) + dim + 2 * dim + (dim * P + P) + context_norm
    return ends + layers * block(dim, mlp), (1 + N) * dim


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, inputs, weights",
    [
        ({"drop_path": 0.1, "mean": (0.1, 0.2), "std": (1, 2)}, {}, encoder_weights()),
        ({"mlp_dim": 20, "norm_epsilon": 1e-5}, {"keep_ids": KEEP_IDS}, encoder_weights(mlp=20)),
        ({"learned_positions": True}, {}, (sum(encoder_weights()), 0)),
        ({"final_norm": False}, {}, (encoder_weights()[0] - 32, 25 * 16)),
        (PARTS, {"keep_ids": KEEP_IDS}, (encoder_weights()[0] + 16 * (2 * 2 + 2 + 2 + 3), 25 * 16)),
    ],
)
def test_encoder(config, inputs, weights, tmp_path):
    inputs = {"images": images(), **inputs}
    check_layer(ViTEncoder, {**ENCODER, **config}, inputs, tmp_path, weights=weights)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["self", "masked", "cross"])
@pytest.mark.parametrize("predict_visible", [False, True])
def test_decoder(attention, predict_visible, tmp_path):
    _, (output,) = check_layer(
        MAEDecoder,
        {**DECODER, "attention": attention},
        {"latent": LATENT, "keep_ids": KEEP_IDS, "query_ids": QUERY_IDS},
        tmp_path,
        call={"predict_visible": predict_visible},
        weights=decoder_weights(attention == "cross"),
    )
    assert output.shape == (4, N if predict_visible else 18, P)


@keras.saving.register_keras_serializable(package="keras_mae_tests")
class RowMasking(layers.MaskingStrategy):
    """Keep whole rows of the grid, at random: a masking that a user wrote."""

    def __init__(self, upside_down=False):
        self.upside_down = upside_down

    def noise_size(self, grid_size):
        return grid_size[0]

    def scores(self, noise, grid_size, num_keep):
        scores = keras.ops.repeat(noise, grid_size[1], axis=1)
        return -scores if self.upside_down else scores

    def get_config(self):
        return {"upside_down": self.upside_down}


VARIANTS = {
    "random, self": {"masking": "random", "decoder_attention": "self"},
    "block, masked": {"masking": "block", "decoder_attention": "masked", "norm_pix_loss": False},
    "grid, cross": {"masking": "grid", "decoder_attention": "cross", "prediction_ratio": 0.5},
    "other parts": {
        "layer_scale": 0.1,
        "num_class_tokens": 2,
        "num_registers": 1,
        "decoder_attention": "masked",
    },
    "own, schedule": {
        "masking": RowMasking(upside_down=True),
        "mask_ratio": layers.MaskRatioSchedule(0.25, 0.75, total_steps=10, num_levels=3),
        "mean": (0.1, 0.2),
        "std": (1.0, 2.0),
        "seed": 5,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_autoencoder(variant, tmp_path):
    config = {**TINY, **VARIANTS[variant]}
    inputs = {"images": images(), "noise": noise(tiny(**VARIANTS[variant]))}
    cross = config.get("decoder_attention") == "cross"
    weights = np.add(encoder_weights(), decoder_weights(cross))
    weights[0] += 16 * (6 if variant == "other parts" else 0)  # scales, a token and a register
    model, (mask, prediction) = check_layer(
        MaskedAutoencoder,
        config,
        inputs,
        tmp_path,
        weights=tuple(weights),
        dtypes=["float32", "compute"],  # of the mask, the prediction
    )
    assert prediction.shape == (4, N, P)
    np.testing.assert_array_equal(np.sum(mask, axis=1), 18)
    assert model.encoder.mean == config.get("mean", (0.5, 0.5))
    # The encoder alone, as it is kept after pre-training.
    model.encoder.save(tmp_path / "encoder.keras")
    encoder = keras.saving.load_model(tmp_path / "encoder.keras")
    assert encoder.get_config() == model.encoder.get_config()
    np.testing.assert_array_equal(encoder(images()), model.encoder(images()))


def test_images_of_one_channel_and_patches_that_are_not_square(tmp_path):
    config = {**TINY, "image_size": (6, 8), "channels": 1, "patch_size": (3, 2)}
    model = MaskedAutoencoder(**config)
    inputs = np.random.default_rng(0).normal(size=(2, 6, 8, 1)).astype("float32")
    result = model.reconstruct(inputs)
    assert result["prediction"].shape == (2, 8, 6)
    assert result["reconstruction"].shape == inputs.shape
