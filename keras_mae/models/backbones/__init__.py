"""The encoder as the backbone of detectors and segmenters of KerasCV and KerasHub.

Both libraries are imported when they are first used.
"""

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import keras

from keras_mae.models.backbones.levels import opened
from keras_mae.quiet import quiet_import
from keras_mae.types import AnyPath, Size

_ROOM = "keras_mae.models.backbones"


def keras_cv(
    encoder: keras.Model | AnyPath,
    filters: int = 256,
    trainable_blocks: float | None = None,
    image_size: Size | None = None,
    levels: Sequence[str] | None = None,
) -> Any:
    """Return an encoder and a `FeaturePyramid` as a backbone for models of KerasCV.

    The backbone's weights are the encoder's own: what trains the one trains the other. For another
    image size they are a copy's, which is the backbone's attribute `encoder`.

    Args:
        encoder: `ViTEncoder`; or a model with one, such as a `MaskedAutoencoder`; or a path that
            `keras_mae.load_pretrained` knows. Its patches are square and of 1, 2, 4, ... pixels.
        filters: int. Channels of each level.
        trainable_blocks: see `ViTClassifier`; None trains all that is trainable.
        image_size: int or (H, W); None for the encoder's.
        levels: those to make, of "P2" to "P5", which have strides of 4 to 32 pixels. None: all but
            those finer than a quarter patch. RetinaNet and YOLOV8Detector take P3 to P5,
            DeepLabV3Plus P2 and P5; detectors make coarser ones themselves.
    Returns:
        `keras_cv.models.Backbone`, from images `(B, H, W, C)`, normalised as for the encoder, to a
        dict of levels, "Pn" to `(B, H / 2 ** n, W / 2 ** n, filters)`, rounded up. Its
        `pyramid_level_inputs` names the layers of the levels, as `keras_cv.models.RetinaNet`,
        `YOLOV8Detector` and `DeepLabV3Plus` ask for them.
    Raises:
        ValueError: for another encoder, or patches whose strides are no powers of 2.
        ImportError: if KerasCV is missing.
    Example:
        backbone = keras_mae.backbones.keras_cv("encoder.keras", levels=["P3", "P4", "P5"])
        model = keras_cv.models.RetinaNet(backbone, 20, "xyxy")
    """
    return _class_of("cv")(opened(encoder, image_size), filters, trainable_blocks, levels)


def keras_hub(
    encoder: keras.Model | AnyPath,
    filters: int = 256,
    trainable_blocks: float | None = None,
    image_size: Size | None = None,
    levels: Sequence[str] | None = None,
) -> Any:
    """Return an encoder and a `FeaturePyramid` as a backbone for models of KerasHub.

    Args:
        encoder, filters, trainable_blocks, image_size, levels: see `keras_cv`, for the weights too.
    Returns:
        `keras_hub.models.FeaturePyramidBackbone`, from images to a dict of levels as there, which
        are its `pyramid_outputs`, too: the `image_encoder` of `keras_hub.models.RetinaNetBackbone`.
    Raises:
        ValueError: for another encoder, or patches whose strides are no powers of 2.
        ImportError: if KerasHub is missing.
    Example:
        backbone = keras_hub.models.RetinaNetBackbone(
            keras_mae.backbones.keras_hub(encoder), 3, 5, use_p5=False, image_shape=(512, 512, 3)
        )
        model = keras_hub.models.RetinaNetObjectDetector(backbone, 20, "xyxy")
    """
    return _class_of("hub")(opened(encoder, image_size), filters, trainable_blocks, levels)


def _class_of(name: str) -> Any:
    """Return the class in the file of a library, which is imported, quietly, if it has to be."""
    library = f"keras_{name}"
    try:
        # Importing torch, which KerasCV does, adds to the filters of warnings.
        with warnings.catch_warnings(), quiet_import():
            importlib.import_module(library)
    except ImportError as error:
        raise ImportError(
            f'`keras_mae.backbones.{library}` needs {library}: pip install "keras_mae[detection]" '
            f"({error})"
        ) from error
    return importlib.import_module(f"{_ROOM}.{name}").Backbone


class _Opener:
    """Stands for a class in a `.keras` file until the library that the class needs is imported."""

    library = ""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return _class_of(cls.library).from_config(config)

    def get_config(self) -> dict[str, Any]:
        """Never called: Keras registers no class without it."""
        raise NotImplementedError


# The classes take these names over when they are imported.
@keras.saving.register_keras_serializable(package="keras_mae", name="KerasCVBackbone")
class _CVOpener(_Opener):
    library = "cv"


@keras.saving.register_keras_serializable(package="keras_mae", name="KerasHubBackbone")
class _HubOpener(_Opener):
    library = "hub"
