"""What all second models share: a copy of a pre-trained encoder, and which of it is trained."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae.layers.arguments import check_positive_int, pair
from keras_mae.models.openers import open_encoder
from keras_mae.models.steps import TrainedInParts
from keras_mae.types import AnyPath, Size


def check_class_names(class_names: Sequence[str] | None, num_classes: int) -> list[str] | None:
    """Return names of classes as a list of `num_classes` strings, or None if there are none."""
    if class_names is None:
        return None
    is_list = isinstance(class_names, Iterable) and not isinstance(class_names, str)
    names = list(class_names) if is_list else []
    others = [name for name in names if not isinstance(name, str)]
    if len(names) != num_classes or others:
        received = repr(others[0]) if others else f"{len(names)} strings"
        raise ValueError(
            f"`class_names` must be {num_classes} strings, one for each class. "
            f"Received: {received if is_list else repr(class_names)}"
        )
    return [str(name) for name in names]


class OnEncoder(TrainedInParts):
    """A model that begins with an encoder; a subclass adds what comes after it.

    The encoder is copied: training the model never changes the one that it came from. A subclass
    ends its constructor with `freeze_blocks`.

    Args:
        encoder: what `open_encoder` knows, or the config of one that was adapted before.
        num_classes: int.
        drop_path, trainable_blocks, image_size, seed, class_names: see `ViTClassifier`.
        adapt: dict of further arguments of the encoder's `adapted`.
    Raises:
        ValueError: naming the argument that does not fit.
    """

    def __init__(
        self,
        encoder: keras.Model | AnyPath | dict[str, Any],
        num_classes: int,
        *,
        drop_path: float | None,
        trainable_blocks: float | None,
        image_size: Size | None,
        seed: int | None,
        class_names: Sequence[str] | None,
        adapt: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_positive_int(num_classes, "num_classes")
        self.num_classes = num_classes
        self.drop_path = drop_path
        self.trainable_blocks = trainable_blocks
        self.image_size = None if image_size is None else pair(image_size, "image_size")
        self.seed = seed
        self.class_names = check_class_names(class_names, num_classes)
        if isinstance(encoder, dict):  # From a config: it has been adapted before.
            self.encoder = keras.saving.deserialize_keras_object(encoder)
            return
        changes = {"image_size": self.image_size, "drop_path": drop_path, "seed": seed}
        changes = {key: value for key, value in changes.items() if value is not None}
        if "dtype" in kwargs:
            changes["dtype"] = self.dtype_policy
        self.encoder = open_encoder(encoder).adapted(**(adapt or {}), **changes)

    def freeze_blocks(self) -> None:
        """Leave exactly what `trainable_blocks` names of the encoder trainable."""
        if self.trainable_blocks is not None:
            for part in self.encoder.frozen_parts(self.trainable_blocks):
                part.trainable = False

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "num_classes": self.num_classes,
            "drop_path": self.drop_path,
            "trainable_blocks": self.trainable_blocks,
            "image_size": self.image_size,
            "seed": self.seed,
            # A plain list: Keras keeps one of a class of its own.
            "class_names": None if self.class_names is None else list(self.class_names),
        }

    def trains_encoder(self, training: bool) -> bool:
        """Return whether the encoder is run as in training: not where all of it is frozen."""
        return training and self.trainable_blocks != 0

    @property
    def _recomputed(self):
        return [self.encoder]

    def _kept(self, x, share):
        """Draw what drop path keeps of a step's images; None where the encoder is frozen."""
        if self.trainable_blocks == 0:
            return None
        return self.encoder.draw(ops.shape(x)[0], share)


class CheckedLabels(OnEncoder):
    """A model whose labels are checked: of arrays before any step, of a data set as they come.

    A subclass has `_check_form(y)`, which raises for another form of labels, `_wrong(numbers)`,
    which tells which of them are no class, `_numbers(y)`, the ints in labels, and `_expected()`,
    the error's text.
    """

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        validation = kwargs.get("validation_data")
        if isinstance(validation, tuple | list) and len(validation) > 1:
            self._checked(*validation[:2])
        return super().fit(self._checked(x, y), y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return loss and metrics, see `keras.Model.evaluate`; labels are checked as in `fit`."""
        return super().evaluate(self._checked(x, y), y, *args, **kwargs)

    def _checked(self, x, y):
        """Return data whose labels are checked."""
        if y is not None:
            self._check_form(y)
            numbers = ops.convert_to_numpy(self._numbers(y))
            wrong = self._wrong(numbers) | (numbers % 1 != 0)
            if wrong.any():
                raise ValueError(f"{self._expected()} {np.unique(numbers[wrong])[:5]}")
            self._check_values(y)
        elif hasattr(x, "element_spec") and hasattr(x, "map"):  # a tf.data.Dataset
            return x.map(self._check_element)
        return x

    def _check_values(self, y):
        """Raise a ValueError for what else in arrays does not fit."""

    def _check_element(self, *element):
        import tensorflow as tf

        if len(element) < 2 or element[1] is None:
            return element
        self._check_form(element[1])
        numbers = tf.cast(self._numbers(element[1]), tf.int32)
        wrong = self._wrong(numbers)
        check = tf.debugging.Assert(
            tf.logical_not(tf.reduce_any(wrong)),
            [self._expected(), tf.boolean_mask(numbers, wrong)],
        )
        with tf.control_dependencies([check]):
            labels = keras.tree.map_structure(tf.identity, element[1])
        return (element[0], labels, *element[2:])
