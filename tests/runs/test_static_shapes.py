"""What a TPU asks of a step and its data, on the CPU: static shapes, all of it under XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mae import MaskedAutoencoder
from keras_mae.data import eval_dataset, load_source, pretrain_dataset

pytestmark = [pytest.mark.runs, pytest.mark.slow]


@pytest.mark.slow
def test_one_compilation_serves_all_steps_and_one_all_of_an_evaluation():
    source = load_source("mnist5k")
    model = MaskedAutoencoder(
        image_size=28,
        channels=1,
        patch_size=7,
        hidden_dim=16,
        num_layers=1,
        num_heads=2,
        decoder_hidden_dim=16,
        decoder_num_layers=1,
        decoder_num_heads=2,
        mean=source.mean,
        std=source.std,
    )
    model.compile(keras.optimizers.AdamW(1e-3), jit_compile=True)
    pixels = {"image_size": 28, "batch_size": 8, "mean": source.mean, "std": source.std}
    training = pretrain_dataset(source, **pixels)
    heldout = eval_dataset(source.subset(np.arange(13)), with_weights=True, **pixels)
    assert training.element_spec.shape == (8, 28, 28, 1)
    assert [spec.shape for spec in heldout.element_spec] == [(8, 28, 28, 1), (8,), (8,)]

    # The steps as a strategy would run them: update and optimizer inside what is compiled.
    train = tf.function(model.train_step, jit_compile=True)
    test = tf.function(model.test_step, jit_compile=True)
    losses = [float(train(batch)["loss"]) for batch in training.take(3)]
    model.reset_metrics()
    for batch in heldout:
        logs = test(batch)
    assert np.isfinite(losses).all() and int(model.optimizer.iterations) == 3
    for function, batch in ((train, next(iter(training))), (test, next(iter(heldout)))):
        assert function.experimental_get_tracing_count() == 1
        graph = function.get_concrete_function(batch).graph
        dynamic = [
            tensor.name
            for operation in graph.get_operations()
            for tensor in operation.outputs
            if tensor.dtype.is_floating and not tensor.shape.is_fully_defined()
        ]
        assert dynamic == []
    # Weights of 0 count for nothing: as each image once, in batches of any size.
    images = eval_dataset(source.subset(np.arange(13)), with_labels=False, **pixels)
    np.testing.assert_allclose(logs["loss"], model.evaluate(images, verbose=0), rtol=1e-5)
