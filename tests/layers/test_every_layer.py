"""Each public layer, through the harness."""

import keras
import numpy as np
import pytest
from harness import check_layer

from keras_mae import layers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 8)).astype("float32")
CONTEXT = RNG.normal(size=(2, 3, 12)).astype("float32")
KEEP_IDS = np.array([[3, 0], [5, 2]], "int32")
ATTENTION_MASK = RNG.uniform(size=(2, 1, 5, 5)) < 0.7
ATTENTION_MASK |= np.eye(5, dtype=bool)


@keras.saving.register_keras_serializable(package="keras_mae_tests")
class CornerMasking(layers.MaskingStrategy):
    """Keep the patches nearest to a corner: the few lines a user writes."""

    def __init__(self, power=1):
        self.power = power

    def scores(self, noise, grid_size, num_keep):
        rows, columns = np.indices(grid_size)
        return 0 * noise + (rows + columns).reshape(1, -1).astype("float32") ** self.power

    def get_config(self):
        return {"power": self.power}


D, S, H, F = 8, 12, 16, 4
MAPS = RNG.normal(size=(2, 7, D)).astype("float32")  # a class token and 2 x 3 patches
ATTENTION = D * 3 * D + 3 * D + D * D + D
CROSS = D * D + D + S * 2 * D + 2 * D + D * D + D
MLP = D * H + H + H * D + D
CASES = {
    "PatchEmbedding": (layers.PatchEmbedding, {"hidden_dim": 4}, {"patches": X}, (8 * 4 + 4, 0)),
    "PositionTable": (
        layers.PositionTable,
        {"grid_size": (2, 2)},
        {"tokens": X},
        (0, 5 * 8),
    ),
    "PositionTable learned, of some": (
        layers.PositionTable,
        {"grid_size": (2, 3), "learned": True},
        {"tokens": X[:, :3], "ids": KEEP_IDS},
        (7 * 8, 0),
    ),
    "Attention": (layers.Attention, {"num_heads": 2}, {"x": X}, (ATTENTION, 0)),
    "Attention masked": (
        layers.Attention,
        {"num_heads": 2},
        {"x": X, "attention_mask": ATTENTION_MASK},
        (ATTENTION, 0),
    ),
    "Attention cross": (
        layers.Attention,
        {"num_heads": 4, "cross": True},
        {"x": X, "context": CONTEXT},
        (CROSS, 0),
    ),
    "FeaturePyramid": (
        layers.FeaturePyramid,
        {"image_size": (4, 6), "patch_size": 2, "filters": F, "scales": (2, 1, 0.5, 0.25)},
        {"tokens": MAPS},
        ((D * 4 * (D // 2) + D // 2) + (D // 2 + 2 * D) * F + 3 * (9 * F * F + 4 * F), 0),
    ),
    "FeaturePyramid of two blocks": (
        layers.FeaturePyramid,
        {"image_size": (8, 12), "patch_size": 4, "filters": F, "scales": [4], "num_blocks": 2},
        {"tokens": np.concatenate([MAPS, MAPS[::-1]], axis=-1)},
        (
            (2 * D * D + D)
            + (D * 4 * (D // 2) + D // 2 + D)
            + (D // 2 * 4 * (D // 4) + D // 4)
            + (D // 4 * F + 9 * F * F + 4 * F),
            0,
        ),
    ),
    "MLP": (layers.MLP, {"mlp_dim": H}, {"x": X}, (MLP, 0)),
    "DropPath": (layers.DropPath, {"rate": 0.5, "seed": 3}, {"x": X}, (0, 0)),
    "LayerScale": (layers.LayerScale, {"initial": 0.5}, {"x": X}, (D, 0)),
    "PositionTable with registers": (
        layers.PositionTable,
        {"grid_size": (2, 1)},
        {"tokens": X},
        (0, 3 * 8),
    ),
    "PositionTable with registers, of some": (
        layers.PositionTable,
        {"grid_size": (2, 3)},
        {"tokens": X, "ids": KEEP_IDS},
        (0, 7 * 8),
    ),
    "TransformerBlock scaled": (
        layers.TransformerBlock,
        {"num_heads": 2, "mlp_dim": H, "layer_scale": 0.1},
        {"x": X},
        (ATTENTION + MLP + 6 * D, 0),
    ),
    "TransformerBlock": (
        layers.TransformerBlock,
        {"num_heads": 2, "mlp_dim": H, "drop_path": 0.1, "seed": 1, "norm_epsilon": 1e-5},
        {"x": X},
        (ATTENTION + MLP + 4 * D, 0),
    ),
    "Whitening": (
        layers.Whitening,
        {"num_components": 3},
        {"features": X[:, 0]},
        (0, D + D * 3),
    ),
    "TransformerBlock cross": (
        layers.TransformerBlock,
        {"num_heads": 2, "mlp_dim": H, "cross": True},
        {"x": X, "context": CONTEXT},
        (CROSS + MLP + 4 * D, 0),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_layer(case, tmp_path):
    cls, config, inputs, weights = CASES[case]
    check_layer(cls, config, inputs, tmp_path, weights=weights)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [layers.Attention, layers.TransformerBlock])
def test_first_query(cls, tmp_path):
    config = {"num_heads": 2} if cls is layers.Attention else {"num_heads": 2, "mlp_dim": H}
    count = ATTENTION if cls is layers.Attention else ATTENTION + MLP + 4 * D
    _, (output,) = check_layer(
        cls, config, {"x": X}, tmp_path, call={"first_query": 2}, weights=(count, 0)
    )
    assert output.shape == (2, 3, 8)


@pytest.mark.slow
@pytest.mark.parametrize("masking", ["random", "block", "grid", CornerMasking(2)])
def test_patch_masking(masking, tmp_path):
    config = {"grid_size": (4, 6), "masking": masking, "mask_ratio": 0.6}
    size = layers.PatchMasking(**config).noise_size
    noise = RNG.uniform(size=(3, size)).astype("float32")
    # Integers, the same to the last bit whatever the policy: noise is never rounded.
    _, (keep_ids, removed_ids) = check_layer(
        layers.PatchMasking, config, {"noise": noise}, tmp_path, dtypes=["int32", "int32"]
    )
    assert keep_ids.shape == (3, 9)
    assert removed_ids.shape == (3, 15)


def test_all_public_layers_are_here():
    public = {
        value
        for value in vars(layers).values()
        if isinstance(value, type) and issubclass(value, keras.layers.Layer)
    }
    assert public == {case[0] for case in CASES.values()} | {layers.PatchMasking}


def test_sequences_of_unknown_length():
    x = keras.Input((None, 8))
    model = keras.Model(x, layers.TransformerBlock(2, 16)(x, first_query=1))
    assert model.output_shape == (None, None, 8)
    assert model(X).shape == (2, 4, 8)
