"""The masked autoencoder: a Keras model that trains itself on images alone."""

import contextlib
import functools
import inspect

import keras
from keras import ops

from keras_mae.layers.arguments import grid_size, pair
from keras_mae.layers.masking import MaskRatioSchedule, PatchMasking, keep_lowest, removed_mask
from keras_mae.layers.masking import num_kept as count_kept
from keras_mae.layers.patches import gather_tokens, patchify, unpatchify
from keras_mae.layers.randomness import fixed_uniform, global_uniform
from keras_mae.layers.training_kernels import training_kernels
from keras_mae.models.accumulation import mean_over_parts
from keras_mae.models.decoder import MAEDecoder
from keras_mae.models.encoder import ViTEncoder, check_images
from keras_mae.models.losses import PatchReconstructionLoss, normalize_patches
from keras_mae.models.reconstruction import restore_pixels
from keras_mae.models.trainer import MaskedTrainer
from keras_mae.presets import preset_config


@keras.saving.register_keras_serializable(package="keras_mae")
class MaskedAutoencoder(MaskedTrainer):
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
        seed: int. With the step, it fixes each mask.
    Call arguments:
        images: float `(B, H, W, C)`, `(pixel / 255 - mean) / std`.
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
        image_size=224,
        channels=3,
        patch_size=16,
        hidden_dim=768,
        num_layers=12,
        num_heads=12,
        mlp_dim=None,
        decoder_hidden_dim=512,
        decoder_num_layers=8,
        decoder_num_heads=16,
        decoder_mlp_dim=None,
        mask_ratio=0.75,
        masking="random",
        norm_pix_loss=True,
        decoder_attention="self",
        prediction_ratio=None,
        norm_epsilon=1e-6,
        mean=None,
        std=None,
        seed=0,
        **kwargs,
    ):
        # Sublayers cast what they take. Noise stays in float32: in half precision it would tie.
        super().__init__(seed=seed, autocast=False, **kwargs)
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
    def from_preset(cls, name, **overrides):
        """Make a model, randomly initialised, of a named architecture.

        Args:
            name: one of `keras_mae.list_presets()`.
            **overrides: any arguments of `MaskedAutoencoder`, in place of the preset's.
        Raises:
            ValueError: for an unknown name or argument.
        """
        config = preset_config(name)
        valid = {*inspect.signature(cls.__init__).parameters, "dtype"} - {"self", "kwargs"}
        unknown = sorted(set(overrides) - valid)
        if unknown:
            raise ValueError(f"`overrides` must be among {sorted(valid)}. Received: {unknown}")
        return cls(**{**config, **overrides})

    def build(self, input_shape):
        """All sublayers are built in the constructor."""

    @property
    def noise_size(self):
        """How many uniform random numbers fix an image's mask; N for random masking."""
        return self.masking.noise_size

    @property
    def mean(self):
        return self.encoder.mean

    @property
    def std(self):
        return self.encoder.std

    def _mask_ratios(self):
        """Return the ratios of all levels of the schedule: one where there is none."""
        if isinstance(self.mask_ratio, MaskRatioSchedule):
            return self.mask_ratio.ratios
        return [self.mask_ratio]

    def call(self, images, noise=None, training=False):
        if noise is None:
            noise = fixed_uniform((ops.shape(images)[0], self.noise_size), self.seed)
        prediction, keep_ids, removed_ids = self._predict_all(images, noise, training)
        del keep_ids
        return {
            "prediction": prediction,
            "mask": removed_mask(removed_ids, self.encoder.num_patches),
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return the loss of a batch: the forward pass and the loss, on any Keras backend.

        Args:
            x: float `(B, H, W, C)`, normalised images.
            y, y_pred: ignored.
            sample_weight: float `(B,)`, the images' weights in an evaluation, see
                `keras.losses.Loss`; ignored in training.
            training: bool. Whether masks are drawn anew at each step, and the ratio follows its
                schedule; if not, they are those of an evaluation and the schedule's last ratio.
        Returns:
            float32 scalar, divided by the number of `tf.distribute` replicas.
        """
        weights = () if training or sample_weight is None else (sample_weight,)

        def loss(images, noise, num_keep):
            return self._masked_loss(images, noise, num_keep, training, *weights)

        return self._at_level(loss, x, training)

    def _at_level(self, function, images, training):
        """Return `function(images, noise, K)` with new noise, and the K of the schedule's level."""
        generator = self.seed_generator if training else self.test_seed_generator
        step = ops.convert_to_tensor(generator.state)[1]
        num_patches = self.encoder.num_patches
        # The numbers after the mask's draw the share of hidden patches to predict.
        noise_size = self.noise_size + (num_patches if self.prediction_ratio < 1 else 0)
        noise = global_uniform((ops.shape(images)[0], noise_size), generator)
        if not training or len(self._num_kept) == 1:
            return function(images, noise, self._num_kept[-1])
        # One branch a level: each has static shapes, and all are compiled once.
        branches = [
            lambda images, noise, num_keep=num_keep: function(images, noise, num_keep)
            for num_keep in self._num_kept
        ]
        return ops.switch(self.mask_ratio.level(step), branches, images, noise)

    def _loss_and_gradients(self, images):
        """Return a training step's loss, and the gradients of the scaled loss (TensorFlow only).

        Differentiated within each level's branch: what a branch keeps for its gradient would else
        be an output of all branches under XLA, in memory and in time to compile.
        """
        import tensorflow as tf

        def gradients(images, noise, num_keep):
            with tf.GradientTape() as tape:
                loss = self._masked_loss(images, noise, num_keep, training=True)
                scaled_loss = self.optimizer.scale_loss(loss)
            return loss, tape.gradient(scaled_loss, self.trainable_variables)

        def at_level(images, noise, num_keep):
            def in_parts(images, noise):
                return mean_over_parts(
                    functools.partial(gradients, num_keep=num_keep),
                    (images, noise),
                    self.accumulate_steps,
                    self.trainable_variables,
                    compiled=self.jit_compile or self._jit_gradients,
                )

            if self._jit_gradients:
                # Keras cannot compile a step of replicas. This part of it can be: the noise is
                # drawn, and the gradients are applied, outside.
                in_parts = tf.function(in_parts, jit_compile=True)
            return in_parts(images, noise)

        return self._at_level(at_level, images, training=True)

    def _masked_loss(self, images, noise, num_keep, training, weights=None):
        num_hidden = self.encoder.num_patches - num_keep
        mask_noise, query_noise = noise[:, : self.noise_size], noise[:, self.noise_size :]
        keep_ids, query_ids = self.masking(mask_noise, num_keep=num_keep)
        if self.prediction_ratio < 1:
            num_queries = max(1, round(num_hidden * self.prediction_ratio))
            chosen, _ = keep_lowest(query_noise[:, :num_hidden], num_queries)
            query_ids = ops.take_along_axis(query_ids, chosen, axis=1)
        with self._recomputing(training), training_kernels(training):
            latent = self.encoder(images, keep_ids=keep_ids, training=training)
            prediction = self.decoder(latent, keep_ids, query_ids)
        weights = None if weights is None else ops.expand_dims(weights, axis=-1)
        return self.reconstruction_loss(self._target(images, query_ids), prediction, weights)

    @contextlib.contextmanager
    def _recomputing(self, training):
        """Let the blocks that are called inside compute themselves again for their gradients."""
        blocks = [*self.encoder.blocks, *self.decoder.blocks]
        for block in blocks:
            block.recompute = self.recompute and training
        try:
            yield
        finally:
            for block in blocks:
                block.recompute = False

    def _target(self, images, ids):
        """Return the patches `ids` of the images, as they are to be predicted, in float32."""
        patches = gather_tokens(patchify(ops.cast(images, "float32"), self.patch_size), ids)
        return normalize_patches(patches) if self.norm_pix_loss else patches

    def _predict_all(self, images, noise, training=False):
        """Return (prediction `(B, N, P)` in the image's order, keep_ids, removed_ids)."""
        sizes = {images.shape[0], noise.shape[0]} - {None}
        if len(sizes) > 1 or tuple(noise.shape[1:]) != (self.noise_size,):
            raise ValueError(
                f"`noise` must have the shape (batch, {self.noise_size}), for images of shape "
                f"{tuple(images.shape)}. Received: shape {tuple(noise.shape)}"
            )
        noise = ops.cast(noise, "float32")
        keep_ids, removed_ids = self.masking(noise)
        latent = self.encoder(images, keep_ids=keep_ids, training=training)
        prediction = self.decoder(latent, keep_ids, removed_ids, predict_visible=True)
        restore_ids = ops.argsort(ops.concatenate([keep_ids, removed_ids], axis=1), axis=1)
        return gather_tokens(prediction, ops.cast(restore_ids, "int32")), keep_ids, removed_ids

    def reconstruct(self, images, noise=None, seed=0, statistics="visible"):
        """Hide patches of images and rebuild them.

        A `norm_pix_loss` model predicts a hidden patch up to its mean and deviation. By default
        these are estimated from the image's visible patches alone: the average of their means,
        and of their deviations, weighted by the inverse square of the distance on the grid.

        Args:
            images: float `(B, H, W, C)`, normalised as for training.
            noise: float `(B, noise_size)`, uniform in [0, 1), fixes the masks; None: drawn
                from `seed`.
            seed: int.
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
        check_images(images, self.image_size, self.encoder.channels)
        images = ops.cast(images, "float32")
        if noise is None:
            noise = fixed_uniform((images.shape[0], self.noise_size), seed)
        noise = ops.convert_to_tensor(noise, "float32")
        prediction, _, removed_ids = self._predict_all(images, noise)
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

    def get_config(self):
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
        }
