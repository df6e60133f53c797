"""Attention, components and reconstructions of figures, by hand-made encoders."""

import dataclasses

import numpy as np
import pytest

from keras_mae import MaskedAutoencoder, ViTEncoder
from keras_mae.plots import (
    MaskOf,
    attention_figure,
    attention_maps,
    attention_rollout,
    components_figure,
    drawn_masks,
    patch_components,
    reconstructions,
    reconstructions_figure,
)

SIZES = {"image_size": (8, 12), "patch_size": 4, "hidden_dim": 16, "num_layers": 3, "num_heads": 2}
DECODER = {"decoder_hidden_dim": 8, "decoder_num_layers": 1, "decoder_num_heads": 2}
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 8, 12, 3)).astype("float32")


def encoder_of(**sizes):
    encoder = ViTEncoder(**{**SIZES, **sizes})
    rng = np.random.default_rng(1)
    for weight in encoder.trainable_weights:
        weight.assign(np.asarray(weight) + rng.normal(size=weight.shape) * 0.3)
    return encoder


def test_rollout_by_hand():
    one = np.array([[0.5, 0.5], [0.0, 1.0]])
    other = np.array([[1.0, 0.0], [1.0, 0.0]])
    # Two heads: their mean is `one`; halves of it and of the identity.
    heads = np.stack([one + 0.25, one - 0.25])[None]
    first = np.array([[0.75, 0.25], [0.0, 1.0]])
    second = np.array([[1.0, 0.0], [0.5, 0.5]])
    np.testing.assert_allclose(attention_rollout([heads])[0], first)
    rolled = attention_rollout([heads, np.stack([other, other])[None]])
    # The last block takes of the first one's tokens: second @ first, not first @ second.
    np.testing.assert_allclose(rolled[0], second @ first)
    np.testing.assert_allclose(rolled.sum(axis=-1), 1)


@pytest.mark.parametrize("sizes", [{}, {"num_class_tokens": 2, "num_registers": 3}])
def test_maps_are_rows_of_the_weights(sizes):
    encoder = encoder_of(**sizes)
    first = encoder.num_class_tokens + encoder.num_registers
    weights = [np.asarray(w) for w in encoder.attention_weights(IMAGES)]
    maps = attention_maps(encoder, IMAGES, block=2)
    expected = weights[1][:, :, 0, first:].reshape(3, 2, 2, 3)
    np.testing.assert_allclose(maps["heads"], expected, atol=1e-6)
    rolled = attention_rollout(weights[:2])[:, 0, first:].reshape(3, 2, 3)
    np.testing.assert_allclose(maps["rollout"], rolled, atol=1e-6)
    patches = attention_maps(encoder, IMAGES, query="patches")["heads"]
    expected = weights[2][:, :, first:, first:].mean(axis=2).reshape(3, 2, 2, 3)
    np.testing.assert_allclose(patches, expected, atol=1e-6)


@dataclasses.dataclass
class Tokenless:
    num_class_tokens: int = 0
    num_layers: int = 1

    def attention_weights(self, images):
        return []


@pytest.mark.parametrize("block", [0, 4, -1, 1.0, True])
def test_blocks_are_counted_from_one(block):
    with pytest.raises(ValueError, match="`block`"):
        attention_maps(encoder_of(), IMAGES, block=block)


def test_what_cannot_be_had_is_said_and_what_can():
    with pytest.raises(ValueError, match="`query` must be 'patches'"):
        attention_maps(Tokenless(), IMAGES)
    with pytest.raises(ValueError, match="`query`"):
        attention_maps(encoder_of(), IMAGES, query="head")
    with pytest.raises(ValueError, match=r"`model`.*components"):
        attention_maps(object(), IMAGES)


class Directions:
    """An encoder whose patch tokens are given numbers along three directions."""

    image_size, patch_size, channels, num_class_tokens = (8, 12), (4, 4), 3, 1
    mean, std, value_range = (0.5,) * 3, (0.5,) * 3, (0.0, 255.0)

    def __init__(self, values):
        self.values = iter(values)

    def __call__(self, images):
        basis = np.linalg.qr(np.random.default_rng(3).normal(size=(10, 3)))[0].T
        tokens = np.stack([next(self.values) for _ in images]) @ basis + 5
        return np.concatenate([np.full((len(images), 1, 10), 1e3), tokens], axis=1)


def test_components_are_the_directions_of_most_variance_in_one_basis():
    values = RNG.normal(size=(40, 6, 3)) * (10, 3, 1)
    values -= values.mean(axis=(0, 1))
    u, s, vt = np.linalg.svd(values.reshape(-1, 3), full_matrices=False)
    colours, shares = patch_components(Directions(values), np.zeros((40, 8, 12, 3), "float32"))
    np.testing.assert_allclose(shares, s**2 / (s**2).sum(), rtol=1e-6)
    assert colours.shape == (40, 2, 3, 3) and colours.min() == 0 and colours.max() == 1
    projected = values.reshape(-1, 3) @ vt.T
    for own, hand in zip(colours.reshape(-1, 3).T, projected.T, strict=True):
        inside = (own > 0) & (own < 1)
        assert abs(np.corrcoef(own[inside], hand[inside])[0, 1]) > 1 - 1e-9
    # 1 % at each end of 240 values: two or three of them.
    assert 4 <= np.sum((colours[..., 0] == 0) | (colours[..., 0] == 1)) <= 6


def test_components_need_patches_of_a_known_size():
    model = Directions(np.zeros((3, 6, 3)))
    model.patch_size = None
    with pytest.raises(ValueError, match="`model`"):
        patch_components(model, IMAGES)


@pytest.fixture
def drawn(monkeypatch):
    """Return a list of the figures that were saved."""
    figures = []
    monkeypatch.setattr(reconstructions, "save_figure", lambda figure, path: figures.append(figure))
    return figures


@pytest.mark.slow
def test_each_mask_is_a_column_with_its_own_loss(drawn):
    model = MaskedAutoencoder(**SIZES, **DECODER)
    own = np.arange(6) < 2
    masks = [MaskOf("mine", own), *drawn_masks(model, 3, (0.5, 0.8), ("random", "block"), seed=4)]
    titles = ["mine", "random 0.5", "random 0.8", "block 0.5", "block 0.8"]
    assert [mask.title for mask in masks] == titles
    reconstructions_figure(model, IMAGES, "x.png", masks, names=["a", "b", "c"])
    axes = np.array(drawn[0].axes).reshape(6, 6)
    assert [axis.get_title() for axis in axes[0, 1:]] == titles
    masked, rebuilt = (axes[row, 1].images[0].get_array() for row in (2, 3))
    # Patches 1 and 2 of the second image are grey, then rebuilt; the others are as they were.
    original = axes[2, 0].images[0].get_array()
    np.testing.assert_array_equal(masked[:4, :8], 0.5)
    np.testing.assert_allclose(masked[4:], original[4:])
    np.testing.assert_allclose(rebuilt[4:], original[4:])
    assert np.abs(rebuilt[:4, :8] - original[:4, :8]).max() > 0.01
    loss = float(model.reconstruct(IMAGES[1:2], mask=own)["loss"])
    assert axes[3, 1].texts[0].get_text() == f"loss {loss:.3f}"


@pytest.mark.slow
def test_figures_are_written(tmp_path):
    encoder = encoder_of()
    names = ["folder/a.png", "b$.png", "a name that is long.png"]
    attention_figure(encoder, IMAGES, tmp_path / "attention.png", names=names)
    components_figure(encoder, IMAGES, tmp_path / "components.png", names=names)
    assert (tmp_path / "attention.png").stat().st_size > 5000
    assert (tmp_path / "components.png").stat().st_size > 5000
