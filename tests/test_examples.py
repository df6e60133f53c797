"""The example computes what the library computes, and trains."""

import ast
import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_mae import MaskedAutoencoder
from keras_mae.models.weights import named_weights

PATH = Path(__file__).parents[1] / "examples" / "mae_in_100_lines.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("mae_in_100_lines", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("mask_ratio", [0.75, 0.5])
def test_its_loss_is_the_librarys(example, mask_ratio):
    """Equal weights, images and noise; the decoder alone puts tokens in another order."""
    ours = MaskedAutoencoder(
        image_size=(8, 12),
        channels=2,
        patch_size=2,
        hidden_dim=16,
        num_layers=2,
        num_heads=2,
        decoder_hidden_dim=12,
        decoder_num_layers=2,
        decoder_num_heads=3,
        mask_ratio=mask_ratio,
    )
    theirs = example.MAE((4, 6), 2, 2, (16, 2, 2), (12, 2, 3), mask_ratio)
    rng = np.random.default_rng(0)
    weights = named_weights(ours)
    for weight in weights.values():
        if weight.trainable:  # biases, scales and tokens too, so that each counts
            weight.assign(np.asarray(weight) + 0.2 * rng.normal(size=weight.shape))
    tables = {"encoder.positions.table", "decoder.positions.table"}
    assert weights.keys() - tables == theirs.w.keys()
    for name, weight in theirs.w.items():
        weight.assign(weights[name])

    images = rng.normal(size=(4, 8, 12, 2)).astype("float32")
    noise = rng.uniform(size=(4, 24)).astype("float32")
    expected = ours.reconstruct(images, noise=noise)["loss"]
    loss = float(keras.ops.mean(theirs(images, noise)))
    assert loss == pytest.approx(float(np.mean(expected)), rel=1e-6)


@pytest.mark.slow
def test_it_learns(example, capsys):
    losses = example.main(epochs=3, count=128).history["loss"]
    assert losses[-1] < losses[0]
    assert "loss" in capsys.readouterr().out


def test_it_has_at_most_100_lines_of_code():
    """Blank lines, comments and docstrings do not count."""
    text = PATH.read_text()
    lines = enumerate(text.splitlines(), start=1)
    code = {n for n, line in lines if line.strip() and not line.strip().startswith("#")}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            code.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    assert len(code) <= 100
