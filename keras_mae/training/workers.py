"""Processes that train one model together: who writes, what they agree on, and what if one dies.

All workers take the same steps. What one decides by itself (a signal, an error, a file that it
sees) would leave the others waiting, so such things are agreed on first.
"""

import os
from contextlib import contextmanager, nullcontext

from keras_mae.errors import WorkerLostError
from keras_mae.training.devices import is_distributed, workers_of

# What the others get when a worker dies, depending on where they are. TensorFlow's words for a
# collective that another worker has left are the same in all of them.
_LOST = ("UnavailableError", "AbortedError", "CancelledError")
_LOST_WORDS = ("Collective ops is aborted", "coordination service", "Connection reset")


class Workers:
    """The workers of a strategy, and which of them this process is; one where there is no cluster.

    Args:
        strategy: what `make_strategy` returned.
    Attributes:
        strategy: the strategy.
        replicas: int. Devices that share a batch, over all workers.
        count: int. Workers.
        index: int. This one's number.
        is_chief: bool. Whether this is the one that writes.
        is_distributed: bool. Whether `tf.distribute` copies the model, and not Keras.
    """

    def __init__(self, strategy):
        self.strategy = strategy
        self.replicas = strategy.num_replicas_in_sync
        self.count, self.index = 1, 0
        self.is_distributed = is_distributed(strategy)
        if self.is_distributed and _has_several_workers(strategy):
            self.count, self.index = workers_of(os.environ.get("TF_CONFIG"))
        self.is_chief = self.index == 0

    def total(self, number):
        """Return the sum of the workers' numbers; all workers have to call it, and wait in it."""
        if self.count == 1:
            return number
        import tensorflow as tf

        local_replicas = self.replicas // self.count
        numbers = self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(number, "float64")
        )
        total = self.strategy.reduce(tf.distribute.ReduceOp.SUM, numbers, axis=None)
        return type(number)(round(float(total) / local_replicas))

    def any(self, flag):
        """Return whether the flag is true on any worker; all have to call it."""
        return self.total(int(bool(flag))) > 0

    @contextmanager
    def agreed(self):
        """Let an error inside, on any worker, end all: each waits at the end for the others.

        Raises:
            WorkerLostError: on a worker without an error of its own, if another has one.
        """
        error = None
        try:
            yield
        except Exception as raised:
            error = raised
        if self.any(error is not None) and error is None:
            raise WorkerLostError("Another worker ended with an error: its output says which.")
        if error is not None:
            raise error

    def same(self, number):
        """Return whether a number (an int) is the same on all workers; all have to call it."""
        chiefs = self.total(number if self.is_chief else 0)
        return not self.any(number != chiefs)

    def is_loss_of_one(self, error):
        """Return whether an error means that another worker has gone."""
        if self.count == 1:
            return False
        import tensorflow as tf

        if not isinstance(error, tf.errors.OpError):
            return False
        lost = type(error).__name__ in _LOST
        return lost or any(words in str(error) for words in _LOST_WORDS)

    def distribute(self, make_dataset, batch_size):
        """Return a data set that gives each replica its part of a global batch.

        Replica r of R gets the r-th part of each batch, as one device would see the whole of it.

        Args:
            make_dataset: function of (num_shards, shard_index) that returns a `tf.data.Dataset`
                of that worker's share of each global batch, all of one size.
            batch_size: int. The global batch, a multiple of the replicas.
        Returns:
            a `tf.distribute.DistributedDataset`; the data set itself for a single replica, and on
            other backends than TensorFlow, which cut the batches themselves.
        """
        if self.replicas == 1 or not is_distributed(self.strategy):
            return make_dataset(1, 0)

        def of_host(context):
            share = make_dataset(context.num_input_pipelines, context.input_pipeline_id)
            return share.rebatch(batch_size // self.replicas, drop_remainder=True)

        return self.strategy.distribute_datasets_from_function(of_host)

    def one_device(self):
        """Return a context in which models are made, and called, on one device of this worker."""
        if is_distributed(self.strategy):
            return nullcontext()  # only a strategy's scope spreads what is made in it
        return self.strategy.one_device()

    def own_name(self, name):
        """Return a file name that is this worker's alone: the chief's is the name itself."""
        stem, dot, suffix = name.rpartition(".")
        return name if self.is_chief else f"{stem}.worker{self.index}{dot}{suffix}"


def _has_several_workers(strategy):
    import tensorflow as tf

    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
