"""How a self-supervised model is compiled, fitted and evaluated: steps, seeds and checks."""

import itertools
import types

import keras
import numpy as np
from keras import ops

from keras_mae.layers.arguments import check_dtype, check_positive_int
from keras_mae.models.encoder import check_images

# Normalised pixels lie within a few units of 0; pixels of 0..255 that were not normalised do not.
LARGEST_NORMALISED_PIXEL = 30.0
_STATE_KEY = "seed_generator_state"


class MaskedTrainer(keras.Model):
    """A `keras.Model` whose `compute_loss` needs images only.

    Args:
        seed: int. With the step, it fixes all random numbers of training; with the batch's
            number, those of evaluation.
    """

    def __init__(self, seed=0, **kwargs):
        check_dtype(kwargs.get("dtype"))
        super().__init__(**kwargs)
        self.seed = seed
        self.accumulate_steps = 1
        self.recompute = False
        self._jit_gradients = False
        # Their state is (seed, number of steps): part of the saved model, not of its weights.
        self.seed_generator = keras.random.SeedGenerator(seed, name="seed_generator")
        self.test_seed_generator = keras.random.SeedGenerator(seed, name="test_seed_generator")

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}

    def save_own_variables(self, store):
        super().save_own_variables(store)
        # Keras does not save random states: without it, a loaded model would replay its masks.
        store[_STATE_KEY] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        self.seed_generator.state.assign(store[_STATE_KEY])
        names = [name for name in store.keys() if name != _STATE_KEY]  # noqa: SIM118 (not a dict)
        super().load_own_variables({name: store[name] for name in names})

    def compile(
        self,
        optimizer="adamw",
        jit_compile="auto",
        accumulate_steps=1,
        recompute=False,
        **kwargs,
    ):
        """Configure training.

        Args:
            optimizer: a Keras optimizer or its name.
            jit_compile: bool or "auto". Whether XLA compiles the steps: whole ones on one device;
                under the replicas of `tf.distribute`, where Keras cannot, each replica's forward
                pass and gradients. "auto": on GPUs, and on other backends than TensorFlow, yes; on
                CPUs, where compiling may take longer than it saves, no.
            accumulate_steps: int. A step's images go through the model in so many parts, one after
                the other, and their gradients are added up: the same masks and, but for rounding,
                the same update, in less memory. Each replica's share of the batch is cut.
            recompute: bool. Whether blocks keep their input only, and compute the rest again for
                the gradient (gradient checkpointing): the same numbers, more time, less memory.
            **kwargs: as in `keras.Model.compile`, but for loss and metrics: there are no labels,
                and the model brings its own loss.
        """
        check_positive_int(accumulate_steps, "accumulate_steps")
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"`{name}` must not be given: {type(self).__name__} computes its own loss from "
                    f"images alone. Received: {kwargs[name]!r}"
                )
        self.accumulate_steps = accumulate_steps
        self.recompute = recompute
        self._jit_gradients = False
        if keras.backend.backend() == "tensorflow":
            if jit_compile == "auto":
                jit_compile = _has_gpu()
            if _several_replicas():
                self._jit_gradients, jit_compile = bool(jit_compile), False
        elif accumulate_steps > 1:
            raise ValueError(
                "`accumulate_steps` must be 1 on other backends than TensorFlow, where optimizers "
                f"have an argument `gradient_accumulation_steps`. Received: {accumulate_steps}"
            )
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        # For float16, Keras wraps the optimizer.
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        if hasattr(optimizer, "exclude_for") and not optimizer.built:
            optimizer.exclude_for(self)
        if self.optimizer is not None:
            # A step that makes its variables when first run is traced twice.
            self.optimizer.build(self.trainable_variables)

    def get_compile_config(self):
        """Return what `compile_from_config` needs (Keras stores it with the model)."""
        config = super().get_compile_config()
        if config:
            config["accumulate_steps"] = self.accumulate_steps
            config["recompute"] = self.recompute
            config["jit_compile"] = config["jit_compile"] or self._jit_gradients
        return config

    def compile_from_config(self, config):
        """Compile as the saved model was (Keras asks for this where `compile` is overridden)."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def fit(self, x=None, *args, **kwargs):
        """Train on images, see `keras.Model.fit`; the first images are checked before any step."""
        if isinstance(x, types.GeneratorType):
            first = list(itertools.islice(x, 1))
            x = (batch for batch in itertools.chain(first, x))
            if first:
                self._check_pixels(_images(first[0]))
        validation = kwargs.get("validation_data")
        for data in (x, validation):
            images = _first_images(data)
            if images is not None:
                self._check_pixels(images)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """Return the loss on images; each evaluation draws the same masks."""
        self.test_seed_generator.state.assign([self.seed, 0])
        return super().evaluate(x, *args, **kwargs)

    def _check_pixels(self, images):
        check_images(images, self.image_size, self.encoder.channels)
        largest = float(np.max(np.abs(np.asarray(images, "float32")), initial=0.0))
        if not largest <= LARGEST_NORMALISED_PIXEL:
            raise ValueError(
                "`x` must hold normalised images, (pixel / 255 - mean) / std with the model's mean "
                f"{self.mean} and std {self.std}. Received: values up to {largest:g}"
            )

    if keras.backend.backend() == "tensorflow":

        def train_step(self, data):
            images = _images(data)
            loss, gradients = self._loss_and_gradients(images)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return self._track(loss, images)

        def test_step(self, data):
            images, _, weights = keras.utils.unpack_x_y_sample_weight(data)
            loss = self.compute_loss(x=images, sample_weight=weights, training=False)
            return self._track(loss, images, weights)

        def _track(self, loss, images, weights=None):
            import tensorflow as tf

            replica = tf.distribute.get_replica_context()
            count = ops.cast(ops.shape(images)[0], "float32")
            # The loss is this replica's share of the global batch's mean.
            total = loss * replica.num_replicas_in_sync * count
            count = count if weights is None else ops.sum(ops.cast(weights, "float32"))
            if replica.num_replicas_in_sync > 1:
                # Of the global batch: each replica then has the same number, and the same state.
                total, count = replica.all_reduce(tf.distribute.ReduceOp.SUM, [total, count])
            self._loss_tracker.update_state(total / count, sample_weight=count)
            loss = self._loss_tracker.result()
            # Keras takes the mean over workers along an axis, which a scalar has not.
            return {"loss": ops.reshape(loss, (1,)) if _several_workers() else loss}

        def _maybe_symbolic_build(self, iterator=None, data_batch=None):
            """All is built. Keras would draw a batch for it, and average it over replicas."""


def _images(data):
    """Return the images of a batch: labels and weights, if any, are not used."""
    return keras.utils.unpack_x_y_sample_weight(data)[0]


def _first_images(data):
    """Return some first images of what `fit` was given, where that can be had without a loss."""
    if hasattr(data, "element_spec") and hasattr(data, "take"):  # a tf.data.Dataset
        data = next(iter(data.take(1)), None)
    elif isinstance(data, keras.utils.PyDataset):
        data = data[0]
    data = data[0] if isinstance(data, tuple | list) and data else data
    return data[:8] if hasattr(data, "shape") and hasattr(data, "dtype") else None


def _several_replicas():
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    return strategy.num_replicas_in_sync > 1 and not isinstance(strategy, tf.distribute.TPUStrategy)


def _several_workers():
    import tensorflow as tf

    return isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)


def _has_gpu():
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
