"""Run by `test_jax.py` with KERAS_BACKEND=jax: one forward pass with given weights, and training.

Usage: python jax_run.py INPUT.npz OUTPUT.npz
"""

import sys

import jax  # noqa: F401  (exits with an ImportError of its own where there is none)
import keras
import numpy as np
from tiny import images, tiny

from keras_mae.layers import MaskRatioSchedule


def main(source, target):
    assert keras.backend.backend() == "jax"
    given = np.load(source)
    model = tiny(num_layers=1, decoder_num_layers=1)
    model.set_weights([given[f"weight_{i}"] for i in range(len(model.weights))])
    result = model(given["images"], noise=given["noise"])
    rebuilt = model.reconstruct(given["images"], noise=given["noise"])

    schedule = MaskRatioSchedule(0.5, 0.75, total_steps=20, num_levels=2)
    model = tiny(num_layers=1, decoder_num_layers=1, masking="block", mask_ratio=schedule)
    model.compile(keras.optimizers.AdamW(0.01))
    x = np.tile(images(8), (10, 1, 1, 1))
    losses = model.fit(x, batch_size=8, epochs=5, shuffle=False, verbose=0).history["loss"]
    evaluations = [model.evaluate(x, batch_size=8, verbose=0) for _ in range(2)]
    np.savez(
        target,
        prediction=result["prediction"],
        mask=result["mask"],
        loss=rebuilt["loss"],
        reconstruction=rebuilt["reconstruction"],
        losses=losses,
        evaluations=evaluations,
        steps=np.asarray(model.seed_generator.state)[1],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
