"""What the formats with 8 bits share: representative images, and the limit of a file of constants.

Ranges of activations are taken from representative images.
"""

from keras_mae.export.formats.base import Option

# A graph with constants is one protobuf message, which must stay below 2 GiB. What is left is for
# all that is no weight.
MAX_CONSTANT_BYTES = 2**31 - 2**26

REPRESENTATIVE_OPTIONS = (
    Option(
        "representative",
        str,
        None,
        "images, as --check_dataset, like those the model will see; ranges of 8 bits are taken "
        "from them.",
    ),
    Option("num_representative", int, 100, "how many of them, spread evenly.", least=1),
)


def check_representative(quantize, calibrated, representative):
    """Raise a ValueError unless representative images are given where, and only where, needed.

    Args:
        quantize, representative: the format's options.
        calibrated: tuple of the values of `quantize` that need images.
    """
    if quantize in calibrated and representative is None:
        raise ValueError(
            f"`representative` must be given for quantize={quantize!r}: images like those the "
            "model will see, as 'folder:PATH' or another data set. Received: None"
        )
    if quantize not in calibrated and representative is not None:
        raise ValueError(
            f"`representative` must be left out unless quantize is one of {list(calibrated)}. "
            f"Received: quantize={quantize!r}, representative={representative!r}"
        )


def representative_images(source, dataset, count):
    """Return images that ranges of activations are taken from.

    Args:
        source: `keras_mae.export.source.Source`.
        dataset: what `keras_mae.data.load_source` knows, or a source.
        count: int. At most so many, spread evenly over the data set.
    Returns:
        `(images, facts)`: `(n, H, W, C)` in the model's value range, and a dict for the card.
    Raises:
        ValueError: if the data set is not there, or has other channels than the model.
    """
    from keras_mae.export.verify import sample_images

    images, name = sample_images(source.encoder, dataset, count, argument="representative")
    return images, {"representative": {"images": name, "num_images": len(images)}}


def check_constants_fit(source):
    """Raise a ValueError if the float32 weights are too many for one file of constants.

    Args:
        source: `keras_mae.export.source.Source`.
    """
    size = 4 * source.facts["parameters"]
    if size > MAX_CONSTANT_BYTES:
        raise ValueError(
            f"`model` must have at most {MAX_CONSTANT_BYTES / 1e9:.2f} GB of weights in float32 "
            f"for this format, which keeps them in one file. Received: {size / 1e9:.2f} GB. "
            "format='saved_model' has no limit."
        )
