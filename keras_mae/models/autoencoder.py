"""The masked autoencoder: a Keras model that trains itself on images alone."""

import functools
import inspect
import itertools
import types
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_mae.layers.arguments import check_dtype, grid_size, pair
from keras_mae.layers.masking import MaskRatioSchedule, PatchMasking, keep_lowest, removed_mask
from keras_mae.layers.masking import num_kept as count_kept
from keras_mae.layers.maskings.base import MaskingStrategy
from keras_mae.layers.patches import gather_tokens, patchify, unpatchify
from keras_mae.layers.randomness import fixed_uniform, global_uniform, replica_share
from keras_mae.models.decoder import MAEDecoder
from keras_mae.models.encoder import ViTEncoder
from keras_mae.models.inputs import check_images, check_normalised, first_images, normalized
from keras_mae.models.losses import PatchReconstructionLoss, normalize_patches
from keras_mae.models.openers import HUB_SCHEME, open_model
from keras_mae.models.reconstruction import restore_pixels
from keras_mae.models.steps import TrainedInParts, logs_for_keras
from keras_mae.pixels import BYTE_RANGE
from keras_mae.presets import preset_config
from keras_mae.types import Shape, Size, Tensor

_STATE_KEY = "seed_generator_state"


@keras.saving.register_keras_serializable(package="keras_mae")
class MaskedAutoencoder(TrainedInParts):
    """Hides most patches of an image, encodes the visible ones, and rebuilds the hidden ones.

    Train it with `compile(optimizer)` and `fit` on images, or on (images, labels): labels are
    ignored. Then keep `encoder` and drop `decoder`.

    Args:
        image_size: int or (H, W), multiples of the patch.
        channels: int C.
        patch_size: int or (p, q).
        hidden_dim, num_layers, num_heads, mlp_dim: ints. The encoder's architecture; `mlp_dim`
            None is `4 * hidden_dim`.
        decoder_hidden_dim, decoder_num_layers, decoder_num_heads, decoder_mlp_dim: the decoder's.
        mask_ratio: float in (0, 1), the fraction of patches removed; or a
            `keras_mae.layers.MaskRatioSchedule` over training steps.
        masking: "random", "block", "grid", or a `keras_mae.layers.MaskingStrategy`.
        norm_pix_loss: bool. Whether the target is each patch normalised by its own mean and
            deviation, instead of the image's pixels.
        decoder_attention: "self", "masked" or "cross", see `MAEDecoder`.
        prediction_ratio: float in (0, 1]. Share of the hidden patches, drawn at random, that a
            training step predicts. Less than 1 needs `decoder_attention="cross"`, and None is 1/3
            there (a quarter of all patches at mask ratio .75), and 1 elsewhere.
        norm_epsilon: float. Added to the variance by all LayerNorms: 1e-6 in the reference, 1e-12
            in most files of other libraries.
        mean, std: C floats each: the statistics, of pixels in [0, 1], that images are normalised
            with. None: ImageNet's for three channels, else .5.
        value_range: (low, high), the values of the sensor that are mapped to 0 and 1.
        layer_scale, pre_norm, num_class_tokens, num_registers: the encoder's, see `ViTEncoder`.
        seed: int. With the step, it fixes each mask.
    Call arguments:
        images: float `(B, H, W, C)`, `((value - low) / (high - low) - mean) / std`; or, where the
            value range is 0 to 255, uint8, which is normalised here.
        noise: float32 `(B, noise_size)`, uniform in [0, 1), fixes the masks: for random masking
            `noise_size` is N, and the lowest K are kept. None: fixed by `seed`.
    Returns:
        dict: "prediction", float `(B, N, P)`, the patches in the target's space (visible ones too),
        and "mask", float32 `(B, N)`, 1 where a patch was removed.
    Raises:
        ValueError: naming the argument that does not fit, what was expected and what came.
    Reference: He et al. 2021, arXiv:2111.06377.
    """

    def __init__(
        self,
        image_size: Size = 224,
        channels: int = 3,
        patch_size: Size = 16,
        hidden_dim: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        mlp_dim: int | None = None,
        decoder_hidden_dim: int = 512,
        decoder_num_layers: int = 8,
        decoder_num_heads: int = 16,
        decoder_mlp_dim: int | None = None,
        mask_ratio: float | MaskRatioSchedule = 0.75,
        masking: str | MaskingStrategy = "random",
        norm_pix_loss: bool = True,
        decoder_attention: str = "self",
        prediction_ratio: float | None = None,
        norm_epsilon: float = 1e-6,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        value_range: Sequence[float] = BYTE_RANGE,
        seed: int = 0,
        layer_scale: float | None = None,
        pre_norm: bool = False,
        num_class_tokens: int = 1,
        num_registers: int = 0,
        **kwargs: Any,
    ) -> None:
        check_dtype(kwargs.get("dtype"))
        # Sublayers cast what they take. Noise stays in float32: in half precision it would tie.
        super().__init__(autocast=False, **kwargs)
        self.seed = seed
        # Their state is (seed, number of steps): part of the saved model, not of its weights.
        self.seed_generator = keras.random.SeedGenerator(seed, name="seed_generator")
        self.test_seed_generator = keras.random.SeedGenerator(seed, name="test_seed_generator")
        self.image_size = pair(image_size, "image_size")
        self.patch_size = pair(patch_size, "patch_size")
        self.norm_pix_loss = norm_pix_loss
        self.mask_ratio = mask_ratio
        if isinstance(mask_ratio, dict):
            self.mask_ratio = keras.saving.deserialize_keras_object(mask_ratio)
        grid = grid_size(self.image_size, self.patch_size)
        self.masking = PatchMasking(grid, masking, self._mask_ratios()[-1], name="masking")
        self._num_kept = [count_kept(grid[0] * grid[1], ratio) for ratio in self._mask_ratios()]

        policy = self.dtype_policy
        self.encoder = ViTEncoder(
            image_size=self.image_size,
            channels=channels,
            patch_size=self.patch_size,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_dim=mlp_dim,
            norm_epsilon=norm_epsilon,
            mean=mean,
            std=std,
            value_range=value_range,
            layer_scale=layer_scale,
            pre_norm=pre_norm,
            num_class_tokens=num_class_tokens,
            num_registers=num_registers,
            name="encoder",
            dtype=policy,
        )
        self.decoder = MAEDecoder(
            grid_size=grid,
            patch_dim=self.patch_size[0] * self.patch_size[1] * channels,
            input_dim=hidden_dim,
            hidden_dim=decoder_hidden_dim,
            num_layers=decoder_num_layers,
            num_heads=decoder_num_heads,
            mlp_dim=decoder_mlp_dim,
            attention=decoder_attention,
            norm_epsilon=norm_epsilon,
            num_class_tokens=num_class_tokens,
            name="decoder",
            dtype=policy,
        )
        if prediction_ratio is None:
            prediction_ratio = 1 / 3 if decoder_attention == "cross" else 1.0
        valid = isinstance(prediction_ratio, int | float) and 0 < prediction_ratio <= 1
        if not valid or (prediction_ratio < 1 and decoder_attention != "cross"):
            raise ValueError(
                "`prediction_ratio` must be in (0, 1], and 1 unless decoder_attention='cross'. "
                f"Received: {prediction_ratio!r}, decoder_attention={decoder_attention!r}"
            )
        self.prediction_ratio = prediction_ratio
        self.reconstruction_loss = PatchReconstructionLoss()
        self.build((None, *self.image_size, channels))

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Self:
        """Make a model of a named architecture, randomly initialised, or of weights on the hub.

        Args:
            name: one of `keras_mae.list_presets()`; or `hf://OWNER/NAME[@REVISION][/FILE]`, an
                encoder with its decoder, pre-trained.
            **overrides: any arguments of `MaskedAutoencoder`, in place of the preset's or the
                file's.
        Raises:
            ValueError: for an unknown name or argument, or a file without a decoder.
        """
        if name.startswith(HUB_SCHEME):
            model = open_model(name, **overrides)
            if not isinstance(model, cls):
                raise ValueError(
                    f"`name` must be of a {cls.__name__}, encoder and decoder. Received: {name}, "
                    f"which holds a {type(model).__name__}; keras_mae.load_pretrained opens it"
                )
            return model
        config = preset_config(name)
        valid = {*inspect.signature(cls.__init__).parameters, "dtype"} - {"self", "kwargs"}
        unknown = sorted(set(overrides) - valid)
        if unknown:
            raise ValueError(f"`overrides` must be among {sorted(valid)}. Received: {unknown}")
        return cls(**{**config, **overrides})

    def build(self, input_shape: Shape) -> None:
        """All sublayers are built in the constructor."""

    @property
    def noise_size(self) -> int:
        """How many uniform random numbers fix an image's mask; N for random masking."""
        return self.masking.noise_size

    @property
    def mean(self) -> tuple[float, ...]:
        return self.encoder.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.encoder.std

    @property
    def value_range(self) -> tuple[float, float]:
        return self.encoder.value_range

    def _mask_ratios(self):
        """Return the ratios of all levels of the schedule: one where there is none."""
        if isinstance(self.mask_ratio, MaskRatioSchedule):
            return self.mask_ratio.ratios
        return [self.mask_ratio]

    def call(
        self, images: Tensor, noise: Tensor | None = None, training: bool = False
    ) -> dict[str, Tensor]:
        if noise is None:
            noise = fixed_uniform((ops.shape(images)[0], self.noise_size), self.seed)
        keep_ids, removed_ids = self._ids(images, noise)
        prediction = self._predict_all(images, keep_ids, removed_ids, training)
        return {
            "prediction": prediction,
            "mask": removed_mask(removed_ids, self.encoder.num_patches),
        }

    def compute_output_shape(
        self, input_shape: Shape, noise_shape: Shape | None = None
    ) -> dict[str, Shape]:
        num_patches = self.encoder.num_patches
        return {
            "prediction": (input_shape[0], num_patches, self.decoder.patch_dim),
            "mask": (input_shape[0], num_patches),
        }

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # By tracing the call: the mask is in float32 whatever the policy.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compile(self, optimizer: Any = "adamw", **kwargs: Any) -> None:  # type: ignore[override]
        """Configure training; see `TrainedInParts.compile` for what Keras's `compile` has not.

        Args:
            optimizer: a Keras optimizer or its name.
            **kwargs: `jit_compile`, `accumulate_steps`, `recompute`, and those of
                `keras.Model.compile` but for loss and metrics: there are no labels, and the model
                brings its own loss.
        """
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"`{name}` must not be given: {type(self).__name__} computes its own loss from "
                    f"images alone. Received: {kwargs[name]!r}"
                )
        super().compile(optimizer, **kwargs)

    @property
    def _recomputed(self):
        return [self.encoder, self.decoder]

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train on images, see `keras.Model.fit`; the first images are checked before any step.

        Raises:
            ValueError: for images that do not fit, or a `class_weight`: labels are not used.
        """
        given = inspect.signature(super().fit).bind(x, *args, **kwargs).arguments
        if given.get("class_weight") is not None:
            raise ValueError(
                f"`class_weight` must be None: {type(self).__name__} does not use labels. Weigh "
                f"images by `sample_weight`. Received: {given['class_weight']!r}"
            )
        checked = [x, given.get("validation_data")]
        if isinstance(x, types.GeneratorType):
            checked[0] = next(x, None)
            x = itertools.chain([] if checked[0] is None else [checked[0]], x)
            x = (batch for batch in x)  # a generator is what Keras knows
        for data in checked:
            images = first_images(data)
            if images is not None:
                check_images(images, self.encoder)
                check_normalised(images, self.mean, self.std, self.value_range)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return the loss on images; each evaluation draws the same masks."""
        self.test_seed_generator.state.assign([self.seed, 0])
        return super().evaluate(x, *args, **kwargs)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Return the loss of a batch: the forward pass and the loss, on any Keras backend.

        Args:
            x: float `(B, H, W, C)`, normalised images; or uint8, which are normalised here.
            y, y_pred: ignored.
            sample_weight: float `(B,)`, the images' weights, see `keras.losses.Loss`.
            training: bool. Whether masks are drawn anew at each step, and the ratio follows its
                schedule; if not, they are those of an evaluation and the schedule's last ratio.
        Returns:
            float32 scalar, divided by the number of `tf.distribute` replicas.
        """
        share = replica_share(x.shape[0] or ops.shape(x)[0])
        batch = self._batch(x, y, sample_weight, share, training)

        def loss(batch, num_keep):
            return self._loss(batch, num_keep, training)[0]

        return self._at_level(loss, batch) if training else loss(batch, self._num_kept[-1])

    def _batch(self, x, y, sample_weight, share, training=True):
        """Return a step's tensors, see `TrainedInParts`: what is drawn does not depend on K."""
        generator = self.seed_generator if training else self.test_seed_generator
        num_patches = self.encoder.num_patches
        # The numbers after the mask's draw the share of hidden patches to predict.
        noise_size = self.noise_size + (num_patches if self.prediction_ratio < 1 else 0)
        noise = global_uniform((ops.shape(x)[0], noise_size), generator, share)
        images = normalized(x, self.encoder)
        return {"images": images, "noise": noise, "weights": sample_weight}

    def _at_level(self, function, batch):
        """Return `function(batch, num_keep)` with the K of this step's level of the schedule."""
        if len(self._num_kept) == 1:
            return function(batch, num_keep=self._num_kept[0])
        steps_drawn = ops.convert_to_tensor(self.seed_generator.state)[1]
        # One branch a level: each has static shapes, and all are compiled once.
        branches = [functools.partial(function, num_keep=kept) for kept in self._num_kept]
        return ops.switch(self.mask_ratio.level(steps_drawn - 1), branches, batch)

    def _step_gradients(self, batch, scale):
        # Differentiated within each level's branch: what a branch keeps for its gradient would else
        # be an output of all branches under XLA, in memory and in time to compile.
        return self._at_level(functools.partial(super()._step_gradients, scale=scale), batch)

    def _loss(self, batch, num_keep, training=True):
        """Return a batch's loss with K visible patches, and no outputs."""
        images, noise, weights = batch["images"], batch["noise"], batch["weights"]
        num_hidden = self.encoder.num_patches - num_keep
        mask_noise, query_noise = noise[:, : self.noise_size], noise[:, self.noise_size :]
        keep_ids, query_ids = self.masking(mask_noise, num_keep=num_keep)
        if self.prediction_ratio < 1:
            num_queries = max(1, round(num_hidden * self.prediction_ratio))
            chosen, _ = keep_lowest(query_noise[:, :num_hidden], num_queries)
            query_ids = ops.take_along_axis(query_ids, chosen, axis=1)
        prediction = self._predict(images, keep_ids, query_ids, training)
        weights = None if weights is None else ops.reshape(weights, (-1, 1))
        return self.reconstruction_loss(self._target(images, query_ids), prediction, weights), None

    def _predict(self, images, keep_ids, query_ids, training):
        """Return the patches `query_ids`, `(B, M, P)`, as predicted from the patches `keep_ids`."""
        latent = self.encoder(images, keep_ids=keep_ids, training=training)
        return self.decoder(latent, keep_ids, query_ids, training=training)

    if keras.backend.backend() == "tensorflow":

        def test_step(self, data: Any) -> dict[str, Tensor]:
            images, _, weights = keras.utils.unpack_x_y_sample_weight(data)
            loss = self.compute_loss(x=images, sample_weight=weights, training=False)
            return self._logs(loss, images, sample_weight=weights)

        def _logs(self, loss, x, y=None, outputs=None, sample_weight=None):
            """Return the loss so far: the mean over images, by their weights."""
            import tensorflow as tf

            replica = tf.distribute.get_replica_context()
            count = ops.cast(ops.shape(x)[0], "float32")
            # The loss is that of this replica's images, divided by the number of replicas.
            total = loss * replica.num_replicas_in_sync * count
            if sample_weight is not None:
                count = ops.sum(ops.cast(sample_weight, "float32"))
            if replica.num_replicas_in_sync > 1:
                # Of the global batch: each replica then has the same number, and the same state.
                total, count = replica.all_reduce(tf.distribute.ReduceOp.SUM, [total, count])
            mean = ops.divide_no_nan(total, count)
            self._loss_tracker.update_state(mean, sample_weight=count)
            return logs_for_keras({"loss": self._loss_tracker.result()})

        def _maybe_symbolic_build(self, iterator=None, data_batch=None):
            """All is built. Keras would draw a batch for it, and average it over replicas."""

    def _target(self, images, ids):
        """Return the patches `ids` of the images, as they are to be predicted, in float32."""
        patches = gather_tokens(patchify(ops.cast(images, "float32"), self.patch_size), ids)
        return normalize_patches(patches) if self.norm_pix_loss else patches

    def draw_mask(
        self,
        count: int,
        mask_ratio: float | None = None,
        masking: str | MaskingStrategy | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Draw masks of any ratio and strategy, for `reconstruct(images, mask=...)`.

        Args:
            count: int B.
            mask_ratio: float in (0, 1); None: the model's.
            masking: as of the constructor; None: the model's.
            seed: int. Fixes the masks.
        Returns:
            float32 `(B, N)`, 1 where a patch is hidden; as many in each row.
        Raises:
            ValueError: if an argument does not fit.
        Example:
            mask = mae.draw_mask(len(images), mask_ratio=0.5, masking="block")
            rebuilt = mae.reconstruct(images, mask=mask)["reconstruction"]
        """
        layer = PatchMasking(
            self.encoder.grid_size,
            self.masking.masking if masking is None else masking,
            self._mask_ratios()[-1] if mask_ratio is None else mask_ratio,
        )
        _, removed_ids = layer(fixed_uniform((count, layer.noise_size), seed))
        return removed_mask(removed_ids, self.encoder.num_patches)

    def _ids_of(self, mask, count, noise):
        """Return (keep_ids, removed_ids) of a mask of the user's, for `count` images."""
        num_patches = self.encoder.num_patches
        mask = np.asarray(ops.convert_to_numpy(mask))
        if noise is not None or mask.shape not in ((num_patches,), (count, num_patches)):
            raise ValueError(
                f"`mask` must have the shape ({num_patches},) or ({count}, {num_patches}), and "
                f"`noise` be None. Received: shape {mask.shape}"
                f"{'' if noise is None else ', and noise'}"
            )
        hidden = np.broadcast_to(mask > 0, (count, num_patches))
        counts = np.unique(hidden.sum(axis=1))
        if len(counts) != 1 or not 1 <= counts[0] < num_patches:
            raise ValueError(
                f"`mask` must hide at least 1 and show at least 1 of the {num_patches} patches, as "
                f"many of each image. Received: masks that hide {counts.tolist()}"
            )
        order = np.argsort(hidden, axis=1, kind="stable").astype("int32")
        shown = num_patches - int(counts[0])
        return ops.convert_to_tensor(order[:, :shown]), ops.convert_to_tensor(order[:, shown:])

    def _ids(self, images, noise):
        """Return (keep_ids, removed_ids), which noise fixes."""
        sizes = {images.shape[0], noise.shape[0]} - {None}
        if len(sizes) > 1 or tuple(noise.shape[1:]) != (self.noise_size,):
            raise ValueError(
                f"`noise` must have the shape (batch, {self.noise_size}), for images of shape "
                f"{tuple(images.shape)}. Received: shape {tuple(noise.shape)}"
            )
        return self.masking(ops.cast(noise, "float32"))

    def _predict_all(self, images, keep_ids, removed_ids, training=False):
        """Return the prediction `(B, N, P)` in the image's order."""
        latent = self.encoder(images, keep_ids=keep_ids, training=training)
        prediction = self.decoder(
            latent, keep_ids, removed_ids, predict_visible=True, training=training
        )
        restore_ids = ops.argsort(ops.concatenate([keep_ids, removed_ids], axis=1), axis=1)
        return gather_tokens(prediction, ops.cast(restore_ids, "int32"))

    def reconstruct(
        self,
        images: Tensor,
        noise: Tensor | None = None,
        seed: int = 0,
        statistics: str = "visible",
        mask: Any = None,
    ) -> dict[str, Tensor]:
        """Hide patches of images and rebuild them.

        A `norm_pix_loss` model predicts a hidden patch up to its mean and deviation. By default
        these are estimated from the image's visible patches alone: the average of their means,
        and of their deviations, weighted by the inverse square of the distance on the grid.

        Args:
            images: float `(B, H, W, C)`, normalised as for training, or uint8.
            noise: float `(B, noise_size)`, uniform in [0, 1), fixes the masks; None: drawn
                from `seed`.
            seed: int.
            mask: array `(N,)` or `(B, N)`, bool or numbers, above 0 where a patch is hidden, as
                many in each row: masks of your own in place of `noise` and `seed`, of any number of
                patches. `draw_mask` makes some of another ratio or strategy.
            statistics: "visible", or "oracle": the hidden patches' true mean and deviation,
                which no user has. Figures made so must say so. No effect without `norm_pix_loss`.
        Returns:
            dict:
            "prediction": float32 `(B, N, P)` in the target's space,
            "mask": float32 `(B, N)`, 1 where a patch was removed,
            "loss": float32 scalar, over the removed patches,
            "masked_image": float32 `(B, H, W, C)`, removed patches 0 (the mean colour),
            "reconstruction": float32 `(B, H, W, C)`, visible patches as they are.
        Raises:
            ValueError: if an argument does not fit the model.
        """
        if statistics not in ("visible", "oracle"):
            raise ValueError(
                f"`statistics` must be 'visible' or 'oracle'. Received: {statistics!r}"
            )
        images = ops.convert_to_tensor(images)
        images = ops.cast(normalized(images, self.encoder), "float32")
        if mask is not None:
            keep_ids, removed_ids = self._ids_of(mask, images.shape[0], noise)
        else:
            if noise is None:
                noise = fixed_uniform((images.shape[0], self.noise_size), seed)
            noise = ops.convert_to_tensor(noise, "float32")
            keep_ids, removed_ids = self._ids(images, noise)
        prediction = self._predict_all(images, keep_ids, removed_ids)
        prediction = ops.cast(prediction, "float32")
        mask = removed_mask(removed_ids, self.encoder.num_patches)
        loss = self.reconstruction_loss(
            self._target(images, removed_ids), gather_tokens(prediction, removed_ids)
        )
        patches = patchify(images, self.patch_size)
        pixels = prediction
        if self.norm_pix_loss:
            pixels = restore_pixels(
                prediction, patches, mask, self.encoder.grid_size, statistics == "oracle"
            )
        hidden = ops.expand_dims(mask, axis=-1) > 0
        masked = ops.where(hidden, 0.0, patches)
        return {
            "prediction": prediction,
            "mask": mask,
            "loss": loss,
            "masked_image": unpatchify(masked, self.patch_size, self.image_size),
            "reconstruction": unpatchify(
                ops.where(hidden, pixels, patches), self.patch_size, self.image_size
            ),
        }

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        # Keras does not save random states: without it, a loaded model would replay its masks.
        store[_STATE_KEY] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store: Any) -> None:
        self.seed_generator.state.assign(store[_STATE_KEY])
        names = [name for name in store.keys() if name != _STATE_KEY]  # noqa: SIM118 (not a dict)
        super().load_own_variables({name: store[name] for name in names})

    def get_config(self) -> dict[str, Any]:
        encoder, decoder = self.encoder, self.decoder
        mask_ratio = self.mask_ratio
        if isinstance(mask_ratio, MaskRatioSchedule):
            mask_ratio = keras.saving.serialize_keras_object(mask_ratio)
        return {
            **super().get_config(),
            "image_size": self.image_size,
            "channels": encoder.channels,
            "patch_size": self.patch_size,
            "hidden_dim": encoder.hidden_dim,
            "num_layers": encoder.num_layers,
            "num_heads": encoder.num_heads,
            "mlp_dim": encoder.mlp_dim,
            "decoder_hidden_dim": decoder.hidden_dim,
            "decoder_num_layers": decoder.num_layers,
            "decoder_num_heads": decoder.num_heads,
            "decoder_mlp_dim": decoder.mlp_dim,
            "mask_ratio": mask_ratio,
            "masking": keras.saving.serialize_keras_object(self.masking.masking),
            "norm_pix_loss": self.norm_pix_loss,
            "decoder_attention": decoder.attention,
            "prediction_ratio": self.prediction_ratio,
            "norm_epsilon": encoder.norm_epsilon,
            "mean": self.mean,
            "std": self.std,
            "value_range": self.value_range,
            "seed": self.seed,
            "layer_scale": encoder.layer_scale,
            "pre_norm": encoder.pre_norm,
            "num_class_tokens": encoder.num_class_tokens,
            "num_registers": encoder.num_registers,
        }
