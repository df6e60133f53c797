"""The same models on other Keras backends, without TensorFlow: equal numbers, and they train."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from tiny import images, label_maps, noise, objects, shake, tiny

from keras_mae import ViTDetector, ViTSegmenter
from keras_mae.export.compare import CANDIDATES, Suppression, compare_detections

SCRIPT = pathlib.Path(__file__).with_name("backend_run.py")


def backend(name):
    missing = importlib.util.find_spec(name) is None
    skip = pytest.mark.skipif(missing, reason=f"{name} is not installed")
    return pytest.param(name, marks=[getattr(pytest.mark, name), pytest.mark.slow, skip])


@pytest.mark.parametrize("name", [backend("jax"), backend("torch")])
def test_a_backend_gives_tensorflows_numbers_and_trains_without_it(name, tmp_path):
    model = shake(tiny(num_layers=1, decoder_num_layers=1))
    numbers = noise(model)
    weights = {f"weight_{i}": weight for i, weight in enumerate(model.get_weights())}
    np.savez(tmp_path / "in.npz", images=images(), noise=numbers, **weights)
    dense = {
        "segmenter": ViTSegmenter(tiny(num_layers=1), 3, head="pyramid", filters=8),
        "detector": ViTDetector(tiny(num_layers=1), 3, filters=8, max_detections=10),
    }
    for kind, own in dense.items():
        shake(own).compile(jit_compile=False)
        own.save(tmp_path / f"{kind}.keras")
    environment = {**os.environ, "KERAS_BACKEND": name, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(SCRIPT), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-3000:]

    result = np.load(tmp_path / "out.npz")
    expected = model(images(), noise=numbers)
    rebuilt = model.reconstruct(images(), noise=numbers)
    np.testing.assert_array_equal(result["mask"], expected["mask"])
    np.testing.assert_allclose(result["tokens"], model.encoder(images()), atol=1e-4)
    np.testing.assert_allclose(result["prediction"], expected["prediction"], atol=1e-4)
    np.testing.assert_allclose(result["loss"], rebuilt["loss"], rtol=1e-4)
    np.testing.assert_allclose(result["reconstruction"], rebuilt["reconstruction"], atol=1e-4)

    losses = result["losses"]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0]
    assert result["evaluations"][0] == result["evaluations"][1]
    assert result["steps"] == 50  # one draw a step
    assert result["classifier_losses"][-1] < 0.9 * result["classifier_losses"][0]
    kept = result["classifier_losses_kept"]
    np.testing.assert_allclose(result["classifier_losses"][: len(kept)], kept, rtol=1e-4)
    assert (result["neighbours"] == 1).all()  # each image's nearest neighbour is itself
    assert result["linear_probe"] == 1
    assert (result["differences"] == 0).all()

    for kind, y in (("segmenter", label_maps()), ("detector", objects())):
        own = dense[kind]
        wanted = own.outputs_of_tokens(own.encoder(images()))
        loss = own.compute_loss(None, y, own(images()), training=False)
        np.testing.assert_allclose(result[f"{kind}_loss"], loss, rtol=1e-4)
        found = {key: result[f"{kind}_{key}"] for key in wanted}
        for key in ("logits",) if kind == "segmenter" else CANDIDATES:
            np.testing.assert_allclose(found[key], wanted[key], atol=1e-4)
        if kind == "detector":
            assert (found["classes"] >= 0).any()
            judged = compare_detections(found, found, Suppression(**own.suppression))
            assert max(one["difference"] for one in judged.values()) < 1e-6
        losses = result[f"{kind}_losses"]
        assert np.isfinite(losses).all() and losses[-1] < 0.9 * losses[0]
        assert (result[f"{kind}_differences"] < 1e-5).all()
    assert result.get("backbone_difference", 0) < 1e-5
