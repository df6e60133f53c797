"""Run by `test_workers.py` as each of two workers: what they agree on, and some steps together.

Usage: python worker_run.py OUTPUT.npz, with TF_CONFIG. `train` is the same on one device.
"""

import sys
from pathlib import Path

import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
from tiny import tiny

from keras_mae.data import eval_dataset, load_source, pretrain_dataset
from keras_mae.errors import WorkerLostError
from keras_mae.training.devices import make_strategy
from keras_mae.training.workers import Workers

BATCH, STEPS = 8, 3
HELDOUT = 13  # in batches of 8: the second worker's share of the last one is half filled up


def train(workers):
    """Train and evaluate a small model; return a dict of arrays."""
    source = load_source("mnist5k")
    heldout = source.subset(np.arange(HELDOUT) * 300)
    pixels = {"image_size": 28, "batch_size": BATCH, "mean": source.mean, "std": source.std}
    keras.utils.set_random_seed(0)
    with workers.strategy.scope():
        model = tiny(
            image_size=28,
            channels=1,
            patch_size=7,
            num_layers=1,
            decoder_num_layers=1,
            mean=source.mean,
            std=source.std,
        )
        # Steps in proportion to the gradients, as Adam's are not, and large enough to be seen
        # beside the rounding of the weights themselves.
        model.compile(keras.optimizers.SGD(1.0), jit_compile=False)
    before = model.get_weights()

    def training(num_shards, shard_index):
        return pretrain_dataset(source, num_shards=num_shards, shard_index=shard_index, **pixels)

    def validation(num_shards, shard_index):
        return eval_dataset(
            heldout, with_weights=True, num_shards=num_shards, shard_index=shard_index, **pixels
        )

    history = model.fit(
        workers.distribute(training, BATCH),
        steps_per_epoch=STEPS,
        validation_data=workers.distribute(validation, BATCH),
        shuffle=False,
        verbose=0,
    ).history
    updates = [after - old for after, old in zip(model.get_weights(), before, strict=True)]
    return {
        "loss": history["loss"],
        "val_loss": history["val_loss"],
        **{f"update_{i}": update for i, update in enumerate(updates)},
    }


def agree(workers):
    """Check what workers say to each other, on each of two."""
    assert (workers.count, workers.replicas) == (2, 2)
    assert workers.total(10 + workers.index) == 21
    assert workers.any(workers.index == 1) and not workers.any(False)
    assert workers.same(5) and not workers.same(workers.index)
    assert workers.own_name("a.jsonl") == ("a.jsonl" if workers.is_chief else "a.worker1.jsonl")
    try:
        with workers.agreed():
            if workers.index == 1:
                raise KeyError("mine")
    except (KeyError, WorkerLostError) as error:
        assert type(error) is (KeyError if workers.index == 1 else WorkerLostError)
    else:
        raise AssertionError("the error of one worker did not end the other")


def main(target):
    workers = Workers(make_strategy("multi_worker"))
    agree(workers)
    results = train(workers)
    np.savez(target, **results)
    workers.any(False)  # neither leaves before the other is done


if __name__ == "__main__":
    main(*sys.argv[1:])
