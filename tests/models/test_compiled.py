"""The whole training step under XLA: the same masks, the same loss, the same update."""

import keras
import numpy as np
import pytest
from tiny import images, shake, tiny

from keras_mae.layers import MaskRatioSchedule

CASES = {
    f"{masking}, {attention}": {"masking": masking, "decoder_attention": attention}
    for masking in ("random", "block", "grid")
    for attention in ("self", "masked", "cross")
}
CASES["schedule"] = {"mask_ratio": MaskRatioSchedule(0.5, 0.75, total_steps=4, num_levels=2)}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_compiled_step_equals_the_eager_one(case):
    def trained(**kwargs):
        keras.utils.set_random_seed(0)
        model = shake(tiny(num_layers=1, decoder_num_layers=1, **CASES[case]))
        model.compile(keras.optimizers.SGD(0.1), **kwargs)
        model.optimizer.build(model.trainable_variables)
        return [float(model.train_on_batch(images())) for _ in range(2)], model.get_weights()

    losses, weights = trained(jit_compile=True)
    expected_losses, expected_weights = trained(run_eagerly=True, jit_compile=False)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    for weight, expected in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-4)
