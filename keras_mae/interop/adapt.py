"""Going on from weights: another model's weights, made fit for other images.

After each change the same picture gives the same tokens: what the new model's inputs are, is worked
into the patch embedding. What a width or a number of blocks would have to change is refused.
"""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_mae.files import weights_digest
from keras_mae.interop.load import load_pretrained
from keras_mae.models.autoencoder import MaskedAutoencoder
from keras_mae.models.encoder import ViTEncoder
from keras_mae.models.weights import assign_weights, get_weights
from keras_mae.pixels import pixel_dtype
from keras_mae.presets import list_presets, preset_config
from keras_mae.types import AnyPath

INIT_CHANNELS = ("repeat", "mean", "new")
_EMBEDDING = "encoder.patch_embedding.projection"
_PREDICTION = "decoder.prediction"
_SIZES = ("hidden_dim", "num_layers", "num_heads", "patch_size")
# What a config has that is said of images or of training, not of weights.
_OF_RUNS = {"name", "trainable", "dtype", "seed", "mask_ratio", "masking", "norm_pix_loss"}
_OF_RUNS |= {"prediction_ratio", "decoder_attention"}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a model's inputs mean.

    Attributes:
        channels: int C.
        mean, std: C floats each, of values mapped to [0, 1].
        value_range: (low, high), the values that are mapped to 0 and 1.
    """

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float]

    @classmethod
    def of(cls, model: Any) -> "Inputs":
        """Return those of a model, or of anything with these attributes."""
        return cls(
            int(model.channels),
            tuple(map(float, model.mean)),
            tuple(map(float, model.std)),
            (float(model.value_range[0]), float(model.value_range[1])),
        )


def adapted_encoder(encoder: ViTEncoder, inputs: Inputs) -> ViTEncoder:
    """Return an encoder with the same tokens for the same pictures, as other inputs.

    Args:
        encoder: `ViTEncoder`.
        inputs: `Inputs` of the images; of other channels, grey for colour or colour for grey.
    Raises:
        ValueError: for other channels than these.
    """
    copy = ViTEncoder.from_config({**encoder.get_config(), **dataclasses.asdict(inputs)})
    weights = dict(get_weights(encoder))
    _fit_inputs(weights, Inputs.of(encoder), inputs, None, False, False)
    assign_weights(copy, weights, encoder.grid_size)
    return copy


class Start:
    """Weights to start a pre-training from.

    Args:
        path: what `load_pretrained` knows.
    Attributes:
        encoder: the `ViTEncoder` in it.
        preset: name of the preset with the same sizes, or None.
        digest: string that tells these weights from all others.
    Raises:
        ValueError: if it holds no encoder whose blocks are known.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        self.model = load_pretrained(path)
        self.encoder: Any = getattr(self.model, "encoder", self.model)
        if not isinstance(self.encoder, ViTEncoder):
            raise ValueError(
                f"`init` must hold an encoder whose blocks are known. Received: {path}, which "
                f"holds a {type(self.encoder).__name__}"
            )
        self.inputs = Inputs.of(self.encoder)
        self.preset = _preset_of(self.encoder)
        self.digest = weights_digest(get_weights(self.model))

    def check_preset(self, preset: str) -> None:
        """Raise unless a preset has the sizes of these weights.

        Raises:
            ValueError: with both numbers of each size that differs.
        """
        config = preset_config(preset)
        own = self.encoder.get_config()
        wrong = [
            f"{name}={config[name]}, and the weights have {own[name]}"
            for name in _SIZES
            if np.unique(config[name]).tolist() != np.unique(own[name]).tolist()
        ]
        if wrong:
            raise ValueError(
                f"`preset` must have the sizes of {self.path}, or be left out. Received: {preset}, "
                f"with {'; '.join(wrong)}"
            )

    def autoencoder(
        self, inputs: Inputs, init_channels: str | None = None, **overrides: Any
    ) -> tuple[MaskedAutoencoder, list[str]]:
        """Return a model with these weights, for other images, and what was changed for it.

        Args:
            inputs: `Inputs` of the images.
            init_channels: for other channels than grey for colour: "repeat" takes the weights of
                the channels in turn, "mean" their mean for all, "new" draws new ones.
            **overrides: arguments of `MaskedAutoencoder`; a decoder that these change is new.
        Returns:
            (model, lines): `MaskedAutoencoder`, and a list of strings for a person.
        Raises:
            ValueError: if `init_channels` has to be given, or the encoder has what a
                `MaskedAutoencoder` has not.
        """
        config = {**self._config(), **overrides}
        config.update(dataclasses.asdict(inputs))
        model = MaskedAutoencoder(**config)
        weights, lines = dict(get_weights(self.model)), []
        has_decoder = any(name.startswith("decoder.") for name in weights)
        others = sorted({n.split(".")[0] for n in weights} - {"encoder", "decoder"})
        if others:
            weights = {n: w for n, w in weights.items() if n.split(".")[0] not in others}
            lines.append(f"{' and '.join(others)}: left out")
        skip = []
        if not has_decoder:
            lines.append("decoder: new, for the weights have none")
        elif not _fits(weights, model, "decoder."):
            weights = {n: w for n, w in weights.items() if not n.startswith("decoder.")}
            lines.append("decoder: new, for another one is asked for")
            has_decoder = False
        if not has_decoder:
            skip.append("decoder.*")
        if "encoder.norm.gamma" not in weights:
            skip.append("encoder.norm.*")
            lines.append("the encoder's last norm: new, for the weights have none")
        lines += _fit_inputs(
            weights, self.inputs, inputs, init_channels, model.norm_pix_loss, has_decoder
        )
        if init_channels == "new" and inputs.channels != self.inputs.channels:
            skip += [f"{_EMBEDDING}.*", f"{_PREDICTION}.*"]
        grids = self.encoder.grid_size, model.encoder.grid_size
        if grids[0] != grids[1]:
            old, new = (f"{rows} x {columns}" for rows, columns in grids)
            lines.append(f"positions: of {old} patches, resampled to {new}")
        own = getattr(self.model, "norm_pix_loss", None)
        if has_decoder and own is not None and own != model.norm_pix_loss:
            lines.append(
                f"decoder: it has learned norm_pix_loss={own}, and goes on with "
                f"{model.norm_pix_loss}"
            )
        assign_weights(model, weights, self.encoder.grid_size, skip=skip)
        return model, lines

    def _config(self) -> dict[str, Any]:
        """Arguments of a `MaskedAutoencoder` of the same architecture."""
        known = set(inspect.signature(MaskedAutoencoder.__init__).parameters)
        is_whole = isinstance(self.model, MaskedAutoencoder)
        config = self.model.get_config() if is_whole else {}
        own = self.encoder.get_config()
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(ViTEncoder.__init__).parameters.items()
        }
        strange = sorted(
            name
            for name, value in own.items()
            if name not in known
            and name in defaults
            and value != defaults[name]
            # Blocks of the new encoder drop no path; its last norm is new where there was none.
            and name not in ("drop_path", "final_norm")
        )
        if strange:
            raise ValueError(
                f"`init` must be an encoder that a MaskedAutoencoder can have. Received: "
                f"{self.path}, with {', '.join(f'{name}={own[name]!r}' for name in strange)}"
            )
        merged = {**_decoder_of(self.preset), **own, **config}
        return {k: v for k, v in merged.items() if k in known and k not in _OF_RUNS}


def _decoder_of(preset: str | None) -> dict[str, Any]:
    if preset is None:
        return {}  # the paper's
    return {k: v for k, v in preset_config(preset).items() if k.startswith("decoder_")}


def _preset_of(encoder: ViTEncoder) -> str | None:
    own = encoder.get_config()
    for name in list_presets():
        config = preset_config(name)
        if all(np.unique(config[k]).tolist() == np.unique(own[k]).tolist() for k in _SIZES):
            return name
    return None


def _fits(weights: Mapping[str, Any], model: keras.Model, prefix: str) -> bool:
    """Whether a part's weights have the names and, but for channels and positions, the shapes."""
    new = {name: w for name, w in get_weights(model).items() if name.startswith(prefix)}
    old = {name: w for name, w in weights.items() if name.startswith(prefix)}
    free = ("prediction.kernel", "prediction.bias", "positions.table")
    return set(old) == set(new) and all(
        name.endswith(free) or old[name].shape == new[name].shape for name in new
    )


def _fit_inputs(
    weights: dict[str, Any],
    old: Inputs,
    new: Inputs,
    init_channels: str | None,
    norm_pix_loss: bool,
    has_decoder: bool,
) -> list[str]:
    """Change the first and last layer's weights for other inputs; return lines on it."""
    if old == new:
        return []
    lines = []
    if old.channels != new.channels:
        if init_channels is None and {old.channels, new.channels} != {1, 3}:
            raise ValueError(
                f"`init_channels` must be one of {INIT_CHANNELS} to make {new.channels} channels "
                f"of {old.channels}. Received: None"
            )
        how = {
            (3, 1): "the sum of the three, as grey is the same in all",
            (1, 3): "a third of it for each",
        }.get((old.channels, new.channels), init_channels)
        lines.append(f"channels: {old.channels} -> {new.channels}, {init_channels or how}")
        if init_channels == "new":
            for name in (_EMBEDDING, _PREDICTION):
                weights.pop(f"{name}.kernel", None)
                weights.pop(f"{name}.bias", None)
            return lines
    mix, unmix = _mixing(old.channels, new.channels, init_channels)
    scale, shift = _same_values(old.value_range, new.value_range)
    if (scale, shift) != (1.0, 0.0):
        lines.append(f"value range: {_span(old.value_range)} -> {_span(new.value_range)}")
    if (old.mean, old.std) != (new.mean, new.std):
        lines.append("statistics: of other images, worked into the patch embedding")
    mean, std, mean2, std2 = map(np.array, (old.mean, old.std, new.mean, new.std))
    # The old input is z1 = (x1 - mean) / std, with x1 = scale * mix @ x2 + shift, and the new one
    # is in x2 = std2 * z2 + mean2.
    factors = scale * mix * std2[None, :] / std[:, None]
    offsets = (scale * mix @ mean2 + shift - mean) / std
    kernel = weights[f"{_EMBEDDING}.kernel"].astype("float64")
    kernel = kernel.reshape(-1, old.channels, kernel.shape[-1])
    bias = weights[f"{_EMBEDDING}.bias"] + np.einsum("pcd,c->d", kernel, offsets)
    weights[f"{_EMBEDDING}.bias"] = bias.astype("float32")
    kernel = np.einsum("pcd,cj->pjd", kernel, factors).reshape(-1, kernel.shape[-1])
    weights[f"{_EMBEDDING}.kernel"] = kernel.astype("float32")
    if has_decoder:
        _fit_prediction(weights, norm_pix_loss, unmix, scale, shift, old, new)
    return lines


def _fit_prediction(
    weights: dict[str, Any],
    norm_pix_loss: bool,
    unmix: np.ndarray,
    scale: float,
    shift: float,
    old: Inputs,
    new: Inputs,
) -> None:
    """Let the decoder predict the new inputs: pixels exactly, normalised patches but for shades."""
    kernel = weights[f"{_PREDICTION}.kernel"].astype("float64")
    width = kernel.shape[0]
    kernel = kernel.reshape(width, -1, old.channels)
    bias = weights[f"{_PREDICTION}.bias"].astype("float64").reshape(-1, old.channels)
    if norm_pix_loss:  # each patch's own mean and deviation are taken out
        factors, offsets, shifts = unmix, np.zeros(1), np.zeros(1)
    else:
        mean, std, mean2, std2 = map(np.array, (old.mean, old.std, new.mean, new.std))
        factors = unmix * std[None, :] / (scale * std2[:, None])
        offsets = (unmix @ (mean - shift)) / (scale * std2)
        shifts = mean2 / std2
    kernel = np.einsum("dpc,jc->dpj", kernel, factors).reshape(width, -1)
    bias = np.einsum("pc,jc->pj", bias, factors) + offsets - shifts
    weights[f"{_PREDICTION}.kernel"] = kernel.astype("float32")
    weights[f"{_PREDICTION}.bias"] = bias.reshape(-1).astype("float32")


def _mixing(old: int, new: int, how: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return matrices `(old, new)` and `(new, old)`: what a channel is of the others' values."""
    if old == new:
        return np.eye(old), np.eye(old)
    if how == "mean" or (how is None and {old, new} == {1, 3}):
        return np.full((old, new), 1 / new), np.full((new, old), 1 / old)
    mix = np.zeros((old, new))
    for channel in range(max(old, new)):
        mix[channel % old, channel % new] = 1
    unmix = mix.T / mix.T.sum(axis=1, keepdims=True)
    return mix / mix.sum(axis=1, keepdims=True), unmix


def _same_values(old: tuple[float, float], new: tuple[float, float]) -> tuple[float, float]:
    """Return (scale, shift) from values mapped by the new range to the same mapped by the old.

    Of 8 bits and of more, black and white are the same and not the values.
    """
    if (pixel_dtype(old) == "uint8") != (pixel_dtype(new) == "uint8"):
        return 1.0, 0.0
    span = old[1] - old[0]
    return (new[1] - new[0]) / span, (new[0] - old[0]) / span


def _span(value_range: Sequence[float]) -> str:
    return f"{value_range[0]:g}..{value_range[1]:g}"
