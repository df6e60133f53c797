"""An encoder that was exported as a SavedModel, as a Keras model again."""

import json
from collections.abc import Sequence
from typing import Any, Self

import keras

from keras_mae.files import saved_model_path
from keras_mae.layers.arguments import grid_size, pair
from keras_mae.models.encoder import check_last_blocks, pixel_statistics
from keras_mae.models.inputs import normalized
from keras_mae.pixels import BYTE_RANGE, check_value_range
from keras_mae.types import AnyPath, Shape, Size, Tensor

ENDPOINT = "serve"
CARD = "card.json"


@keras.saving.register_keras_serializable(package="keras_mae")
class SavedModelEncoder(keras.Model):
    """The endpoint `serve` of a SavedModel, through `keras.layers.TFSMLayer`; it can be trained.

    A SavedModel is a graph with weights: blocks cannot be told apart in it, drop path cannot be
    added, and the image size is the exported one. Only TensorFlow runs it.

    A `.keras` file of a model with this in it holds the weights, and the path of the SavedModel:
    the graph is not copied, so the SavedModel must stay where it is, and since a graph from
    elsewhere runs code, Keras opens such a file with `load_model(path, safe_mode=False)` only.

    Args:
        filepath: str or path of a SavedModel, `NAME/VERSION`, or of `NAME`: its newest version.
        mean, std: a float for each channel, what pixels in [0, 1] are normalised with; None for
            those of the `card.json` beside the SavedModel, which must be given where there is none.
        value_range: (low, high), the values of the sensor that are mapped to 0 and 1; None for that
            of the card, or (0, 255) where it tells none.
    Call arguments:
        images: float `(B, H, W, C)`, `((value - low) / (high - low) - mean) / std`.
        last_blocks: 1, as of a `ViTEncoder`: only the last block's tokens are in the graph.
        kept: None.
    Returns:
        float32 `(B, T + N, D)`, class tokens first.
    Raises:
        ValueError: if there is no SavedModel with this endpoint, or no statistics are known.
    """

    def __init__(
        self,
        filepath: AnyPath,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        value_range: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        version = saved_model_path(filepath)
        if version is None:
            raise ValueError(f"`filepath` must be a SavedModel's directory. Received: {filepath}")
        self.filepath = str(version)
        card_path = version / CARD
        card = json.loads(card_path.read_text()) if card_path.exists() else {}
        self.graph = keras.layers.TFSMLayer(self.filepath, call_endpoint=ENDPOINT, name="graph")
        self.graph.trainable = self.trainable  # what `trainable=False` in a config does not reach
        for variable in self.graph.variables:
            # An optimizer names its moments after it, and TensorFlow refuses names with a colon.
            variable._path = variable.path.partition(":")[0]
        facts = {**_facts_of_signature(self.graph.call_endpoint_fn, self.filepath), **card}
        self.image_size = pair(facts["image_size"], "image_size")
        self.channels = facts["channels"]
        self.hidden_dim = facts["hidden_dim"]
        self.patch_size = tuple(card["patch_size"]) if "patch_size" in card else None
        self.num_layers = card.get("num_layers")
        self.num_class_tokens = card.get("num_class_tokens", 1)
        mean = card.get("mean") if mean is None else mean
        std = card.get("std") if std is None else std
        if mean is None or std is None:
            raise ValueError(
                f"`mean` and `std` must be given for a SavedModel without a {CARD}: the pixels "
                f"must be normalised as those it was trained on. Received: {self.filepath}"
            )
        self.mean, self.std = pixel_statistics(mean, std, self.channels)
        if value_range is None:
            value_range = card.get("value_range", BYTE_RANGE)
        self.value_range = check_value_range(value_range)
        self.built = True

    @property
    def no_weight_decay(self) -> list[Any]:
        """The weights, beside vectors, that weight decay leaves alone: the class token."""
        # The only (1, 1, D) there is.
        return [v for v in self.graph.variables if tuple(v.shape[:2]) == (1, 1) and v.shape[2:]]

    # Only the last block's tokens are in the graph.
    num_output_blocks = 1

    @property
    def grid_size(self) -> tuple[int, int] | None:
        """(rows, columns) of patches; None where no card tells their size."""
        return None if self.patch_size is None else grid_size(self.image_size, self.patch_size)

    @property
    def recompute(self) -> bool:
        """False: a graph is computed as it was exported."""
        return False

    @recompute.setter
    def recompute(self, value: bool) -> None:
        if value:
            raise ValueError(f"`recompute` must be False for a SavedModel. Received: {value!r}")

    def draw(self, count: Tensor, share: tuple[Any, Any] | None = None) -> None:
        """Return None: there is no drop path in the graph."""

    def adapted(
        self,
        without_norm: bool = False,
        image_size: Size | None = None,
        drop_path: float | None = None,
        **changes: Any,
    ) -> Self:
        """Return a copy with the same weights, as a `ViTEncoder` does; the graph stays as it is.

        Raises:
            ValueError: for another `image_size`, or a `drop_path`.
        """
        for name, value, own in (
            ("image_size", image_size, self.image_size),
            ("drop_path", drop_path, 0),
        ):
            if value is not None and value != own:
                raise ValueError(
                    f"`{name}` must be {own}, or None, for a SavedModel. Received: {value}"
                )
        copy = type(self)(self.filepath, self.mean, self.std, self.value_range, name=self.name)
        for own, given in zip(copy.variables, self.variables, strict=True):
            own.assign(given)
        return copy

    def frozen_parts(self, trainable_blocks: float) -> list[Any]:
        """Return what `trainable_blocks` freezes: all of it, as blocks cannot be told apart."""
        if trainable_blocks != 0:
            raise ValueError(
                "`trainable_blocks` must be None or 0 for a SavedModel, in which blocks cannot be "
                f"told apart. Received: {trainable_blocks!r}"
            )
        return [self]

    def call(
        self,
        images: Tensor,
        training: bool = False,
        last_blocks: int = 1,
        kept: Tensor | None = None,
    ) -> Tensor:
        check_last_blocks(last_blocks, self.num_output_blocks, "last_blocks")
        return self.graph(keras.ops.cast(normalized(images, self), "float32"))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], None, self.hidden_dim

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filepath": self.filepath,
            "mean": self.mean,
            "std": self.std,
            "value_range": self.value_range,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        # Raises in safe mode: whoever made the config names the graph that would be run.
        keras.layers.TFSMLayer.from_config(
            {"filepath": config["filepath"], "call_endpoint": ENDPOINT}
        )
        return cls(**config)


def _facts_of_signature(endpoint: Any, path: AnyPath) -> dict[str, Any]:
    """Return image size, channels and width, by the shapes that the endpoint was traced with."""
    try:
        function = endpoint.concrete_functions[0]
        images = next(s for s in function.inputs if len(s.shape) == 4)
        height, width, channels = images.shape[1:]
        return {
            "image_size": (height, width),
            "channels": channels,
            "hidden_dim": function.outputs[0].shape[-1],
        }
    except (AttributeError, IndexError, StopIteration) as error:
        raise ValueError(
            f"`filepath` must be a SavedModel whose endpoint {ENDPOINT!r} takes images "
            f"(B, H, W, C). Received: {path}"
        ) from error
