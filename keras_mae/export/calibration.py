"""What the 8-bit formats share: representative images, and the checks of their options."""

import importlib

from keras_mae.export.card import sample_images

# A graph with constants is one protobuf message, which must stay below 2 GiB. What is left is for
# all that is no weight.
MAX_CONSTANT_BYTES = 2**31 - 2**26


def require(what, *modules):
    """Raise an ImportError naming the extra unless these modules can be imported."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ImportError(
                f'{what} exports need {module}: pip install "keras_mae[export]" ({error})'
            ) from error


def check_quantize(quantize, choices, calibrated, representative, num_representative):
    """Raise a ValueError unless representative images are given where, and only where, needed.

    Args:
        quantize: str, the format's option.
        choices: its values.
        calibrated: its values that need images.
        representative, num_representative: see `representative_images`.
    """
    if quantize not in choices:
        raise ValueError(f"`quantize` must be one of {list(choices)}. Received: {quantize!r}")
    if quantize in calibrated and representative is None:
        raise ValueError(
            f"`representative` must be given for quantize={quantize!r}: images like those the "
            "model will see, as 'folder:PATH' or another data set. Received: None"
        )
    if quantize not in calibrated and representative is not None:
        raise ValueError(
            f"`representative` goes with quantize in {list(calibrated)}. "
            f"Received: quantize={quantize!r}, representative={representative!r}"
        )
    if (
        isinstance(num_representative, bool)
        or not isinstance(num_representative, int)
        or num_representative < 1
    ):
        raise ValueError(
            f"`num_representative` must be an int of 1 or more. Received: {num_representative!r}"
        )


def representative_images(source, dataset, count):
    """Return images that ranges of activations are taken from.

    Args:
        source: `keras_mae.export.card.Source`.
        dataset: what `keras_mae.data.load_source` knows, or a source.
        count: int. At most so many, spread evenly over the data set.
    Returns:
        `(images, name)`: uint8 `(n, H, W, C)`, and where they are from.
    Raises:
        ValueError: if the data set is not there, or has other channels than the model.
    """
    try:
        return sample_images(source.encoder, dataset, count)
    except ValueError as error:
        message = str(error).replace("`check_dataset`", "`representative`")
        if "`representative`" not in message:
            message = f"`representative` must be a data set that can be read. {message}"
        raise ValueError(message) from error


def check_constants_fit(source):
    """Raise a ValueError if the float32 weights are too many for one file of constants.

    Args:
        source: `keras_mae.export.card.Source`.
    """
    size = 4 * source.facts["parameters"]
    if size > MAX_CONSTANT_BYTES:
        raise ValueError(
            f"`model` must have at most {MAX_CONSTANT_BYTES / 1e9:.2f} GB of weights in float32 "
            f"for this format, which keeps them in one file. Received: {size / 1e9:.2f} GB. "
            "format='saved_model' has no limit."
        )
