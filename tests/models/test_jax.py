"""The same model on another Keras backend: equal numbers, and it trains."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from tiny import images, noise, shake, tiny

SCRIPT = pathlib.Path(__file__).with_name("jax_run.py")


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
@pytest.mark.slow
def test_jax_gives_tensorflows_numbers_and_trains(tmp_path):
    model = shake(tiny(num_layers=1, decoder_num_layers=1))
    numbers = noise(model)
    weights = {f"weight_{i}": weight for i, weight in enumerate(model.get_weights())}
    np.savez(tmp_path / "in.npz", images=images(), noise=numbers, **weights)
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(SCRIPT), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]

    result = np.load(tmp_path / "out.npz")
    expected = model(images(), noise=numbers)
    rebuilt = model.reconstruct(images(), noise=numbers)
    np.testing.assert_array_equal(result["mask"], expected["mask"])
    np.testing.assert_allclose(result["prediction"], expected["prediction"], atol=1e-4)
    np.testing.assert_allclose(result["loss"], rebuilt["loss"], rtol=1e-4)
    np.testing.assert_allclose(result["reconstruction"], rebuilt["reconstruction"], atol=1e-4)

    losses = result["losses"]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0]
    assert result["evaluations"][0] == result["evaluations"][1]
    assert result["steps"] == 50  # one draw a step
