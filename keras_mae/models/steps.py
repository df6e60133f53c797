"""How our models are trained: steps in parts, on replicas of unequal shares, compiled or not."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_mae.layers.arguments import check_positive_int
from keras_mae.layers.randomness import replica_share
from keras_mae.types import Tensor


class TrainedInParts(keras.Model):
    """A `keras.Model` whose training step can be done in parts, and be compiled on replicas.

    A subclass has two methods, for TensorFlow's training step:

    - `_batch(x, y, sample_weight, share)` returns the step's tensors, a dict of tensors with a row
      an image, or None, and draws all random numbers of the step. Drawn before the batch is cut,
      they are those of the whole batch.
    - `_loss(batch, **options)` returns the loss, as `keras.losses.Loss` does: the mean over the
      rows, divided by the number of replicas; and float32 outputs for `_logs`, `(B, *shape)` with
      the `shape` of the attribute `_outputs_shape`, or None where that is None.

    and a list `_recomputed` of its parts that have an attribute `recompute`. Other backends train
    by Keras's own step.
    """

    _outputs_shape = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.accumulate_steps = 1
        self.recompute = False
        # Whether XLA compiles the gradients alone: Keras cannot compile the step of replicas.
        self._jit_gradients = False

    def compile(
        self,
        optimizer: Any = "adamw",
        *args: Any,
        jit_compile: bool | str = "auto",
        accumulate_steps: int = 1,
        recompute: bool = False,
        **kwargs: Any,
    ) -> None:
        """Configure training.

        A `keras_mae.training.optimizers.AdamW` leaves alone what this model says is not decayed,
        also when the model is loaded from a file.

        Args:
            optimizer: a Keras optimizer or its name.
            *args, **kwargs: as in `keras.Model.compile`.
            jit_compile: bool or "auto". Whether XLA compiles the steps: whole ones on one device;
                under the replicas of `tf.distribute`, where Keras cannot, each replica's forward
                pass and gradients. "auto": on GPUs, and on other backends than TensorFlow, yes; on
                CPUs, where compiling may take longer than it saves, no.
            accumulate_steps: int. A step's images go through the model in so many parts, one after
                the other, and their gradients are added up: the same random numbers and, but for
                rounding, the same update, in less memory. Each replica's share of the batch is cut.
            recompute: bool. Whether blocks keep their input only, and compute the rest again for
                the gradient (gradient checkpointing): the same numbers, more time, less memory.
        Raises:
            ValueError: naming the argument that does not fit.
        """
        check_positive_int(accumulate_steps, "accumulate_steps")
        on_tensorflow = keras.backend.backend() == "tensorflow"
        if accumulate_steps > 1 and not on_tensorflow:
            raise ValueError(
                "`accumulate_steps` must be 1 on other backends than TensorFlow, where optimizers "
                f"have an argument `gradient_accumulation_steps`. Received: {accumulate_steps}"
            )
        self.accumulate_steps = accumulate_steps
        self.recompute = recompute
        for part in self._recomputed:
            part.recompute = recompute
        self._jit_gradients = False
        if on_tensorflow:
            if jit_compile == "auto":
                jit_compile = _has_gpu()
            if _several_replicas():
                self._jit_gradients, jit_compile = bool(jit_compile), False
        super().compile(optimizer, *args, jit_compile=jit_compile, **kwargs)
        # For float16, Keras wraps the optimizer.
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        if hasattr(optimizer, "exclude_for") and not optimizer.built:
            optimizer.exclude_for(self)
        if self.optimizer is not None:
            # A step that makes its variables when first run is traced twice.
            self.optimizer.build(self.trainable_variables)

    def get_compile_config(self) -> dict[str, Any]:
        """Return what `compile_from_config` needs (Keras stores it with the model)."""
        config = super().get_compile_config()
        if config:
            config["accumulate_steps"] = self.accumulate_steps
            config["recompute"] = self.recompute
            config["jit_compile"] = config["jit_compile"] or self._jit_gradients
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as the saved model was (Keras asks for this where `compile` is overridden)."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    if keras.backend.backend() == "tensorflow":

        def train_step(self, data: Any) -> dict[str, Tensor]:
            import tensorflow as tf

            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            rows = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
            share = replica_share(rows)
            batch = self._batch(x, y, sample_weight, share)
            loss, gradients, outputs = self._step_gradients(batch, _scale_of_share(rows, share))
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return self._logs(loss, x, y, outputs, sample_weight)

        def test_step(self, data: Any) -> dict[str, Tensor]:
            return logs_for_keras(super().test_step(data))

        def _logs(self, loss, x, y, outputs, sample_weight):
            """Return the loss and the metrics so far, as Keras's step does."""
            import tensorflow as tf

            # Keras puts together what replicas have seen at the end of an epoch.
            loss = loss * num_replicas()
            self._loss_tracker.update_state(loss, sample_weight=tf.shape(x)[0])
            return logs_for_keras(self.compute_metrics(x, y, outputs, sample_weight))

        def _maybe_symbolic_build(self, iterator=None, data_batch=None):
            """Build the metrics on the shares of replicas, which may be unequal.

            Keras would take the mean of a batch over replicas.
            """
            strategy = self._distribute_strategy
            if iterator is not None and strategy is not None:
                for _, _, batches in iterator:
                    data_batch = keras.tree.map_structure(
                        lambda value: strategy.experimental_local_results(value)[0], next(batches)
                    )
                    break
                iterator = None
            super()._maybe_symbolic_build(iterator, data_batch)

    def _step_gradients(self, batch, scale, **options):
        """Return a batch's loss, gradients and outputs, computed in parts (TensorFlow only).

        Args:
            batch: dict, what `_batch` returns.
            scale: what the gradients are multiplied by; or None.
            **options: for `_loss`.
        """
        import tensorflow as tf

        in_parts = functools.partial(
            mean_over_parts,
            functools.partial(self._gradients, scale=scale, **options),
            num_parts=self.accumulate_steps,
            variables=self.trainable_variables,
            outputs_shape=self._outputs_shape,
            compiled=self.jit_compile or self._jit_gradients,
        )
        if self._jit_gradients:
            # All that replicas do together is outside: shares, noise, and applying gradients.
            return tf.function(lambda batch: in_parts(batch), jit_compile=True)(batch)
        return in_parts(batch)

    def _gradients(self, batch, scale, **options):
        """Return loss, gradients of the optimizer's scaled loss, and outputs (TensorFlow only)."""
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss, outputs = self._loss(batch, **options)
            scaled = loss if scale is None else loss * scale
            scaled = self.optimizer.scale_loss(scaled)
        return loss, tape.gradient(scaled, self.trainable_variables), outputs


def mean_over_parts(
    function: Callable[..., Any],
    batch: dict[str, Tensor],
    num_parts: Any,
    variables: Sequence[Any],
    outputs_shape: Any = None,
    compiled: bool = False,
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """Compute a batch's loss and gradients in parts, one after the other, so that one is in memory.

    Args:
        function: from a batch of b rows to (loss, gradients, outputs); the first two are means over
            the rows, outputs are float32 `(b, *outputs_shape)`, or None.
        batch: dict of tensors of B rows each, or None.
        num_parts: int. Parts of about equal size: where the number of rows is known beforehand,
            the next larger number that divides it.
        variables: what `function` gives the gradients of, in order.
        outputs_shape: tuple of ints, or None for no outputs.
        compiled: bool. Whether XLA compiles this, which needs the number of rows beforehand.
    Returns:
        (loss, list of gradients, outputs): the means over all B rows, and the outputs of all rows.
    Raises:
        ValueError: if the number of rows is not known and `compiled`.
    """
    import tensorflow as tf

    if num_parts == 1:
        return function(batch)
    first = next(tensor for tensor in batch.values() if tensor is not None)
    rows = first.shape[0]
    fixed = rows is not None
    if fixed:
        num_parts = next(n for n in range(min(num_parts, rows), rows + 1) if rows % n == 0)
        part_rows = rows // num_parts
    elif compiled:
        raise ValueError(
            f"`accumulate_steps` of {num_parts} with XLA needs batches of one known size: batch "
            "with `drop_remainder=True`, or compile with `jit_compile=False`. Received: batches of "
            "unknown size"
        )
    else:
        rows = tf.shape(first)[0]
        part_rows = tf.maximum(-(-rows // num_parts), 1)
        num_parts = -(-rows // part_rows)

    def rows_of(tensor, start, count):
        if tensor is None:
            return None
        rest = tensor.shape[1:]
        sizes = [tf.shape(tensor)[i + 1] if side is None else side for i, side in enumerate(rest)]
        return tf.slice(tensor, [start, *([0] * len(rest))], [count, *sizes])

    def add_part(part, loss, gradients, outputs):
        start = part * part_rows
        count = part_rows if fixed else tf.minimum(part_rows, rows - start)
        part_batch = {name: rows_of(tensor, start, count) for name, tensor in batch.items()}
        part_loss, part_gradients, part_outputs = function(part_batch)
        weight = tf.cast(count, "float32") / tf.cast(rows, "float32")
        gradients = [
            total + weight * tf.convert_to_tensor(gradient)
            for total, gradient in zip(gradients, part_gradients, strict=True)
        ]
        outputs = [array.write(part, part_outputs) for array in outputs]
        return part + 1, loss + weight * part_loss, gradients, outputs

    zeros = [tf.zeros(variable.shape) for variable in variables]
    # The last part may be smaller than the others.
    arrays = [tf.TensorArray("float32", num_parts, infer_shape=fixed)] if outputs_shape else []
    _, loss, gradients, arrays = tf.while_loop(
        lambda part, *_: part < num_parts,
        add_part,
        (tf.constant(0), tf.constant(0.0), zeros, arrays),
        parallel_iterations=1,
    )
    outputs = [array.stack() if fixed else array.concat() for array in arrays]
    return loss, gradients, tf.reshape(outputs[0], (rows, *outputs_shape)) if outputs else None


def _scale_of_share(rows, share):
    """Return what a replica's mean counts for, beside an equal share's; None: the same."""
    import tensorflow as tf

    replicas = num_replicas()
    if replicas == 1 or isinstance(rows, int):
        return None
    return tf.cast(rows * replicas, "float32") / tf.cast(share[0], "float32")


def logs_for_keras(logs):
    """Return a step's logs as Keras takes them: it takes the mean over workers along an axis."""
    if not _several_workers():
        return logs
    return {name: keras.ops.reshape(value, (1,)) for name, value in logs.items()}


def num_replicas() -> int:
    """Return over how many replicas of `tf.distribute` a batch is shared out; 1 elsewhere."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def _several_workers():
    import tensorflow as tf

    return isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)


def _several_replicas():
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    return num_replicas() > 1 and not isinstance(strategy, tf.distribute.TPUStrategy)


def _has_gpu():
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
