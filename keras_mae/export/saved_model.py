"""SavedModel, laid out for TF Serving: `NAME/VERSION/`, with signatures and warm-up requests.

TF Serving loads it, and TensorFlow alone; `keras.layers.TFSMLayer(path, call_endpoint="serve")` is
a layer of it that trains.
"""

from pathlib import Path

import keras
import tensorflow as tf

from keras_mae.data.augment import check_resize
from keras_mae.export.card import Written, model_outputs, normalize, pooled_tokens
from keras_mae.export.image_bytes import pixels_of_bytes
from keras_mae.export.serving import read_signatures, serving_apis, write_warmup
from keras_mae.files import check_writable


def check_options(dense=False, warmup=True, whole=False, resize="bicubic"):
    """Raise for options of `write` that cannot be had, before any work is done."""
    for name, value in (("dense", dense), ("warmup", warmup), ("whole", whole)):
        if not isinstance(value, bool):
            raise ValueError(f"`{name}` must be a bool. Received: {value!r}")
    check_resize(resize)
    if warmup:
        serving_apis()


def final_path(directory):
    """Return the path of the next free version in a model's directory: `directory/1` at first.

    Args:
        directory: str or path, NAME; TF Serving calls the model so by default.
    Raises:
        ValueError: if `directory` is a file, cannot be written, or is itself a version.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"`directory` must be a directory. Received: a file, {directory}")
    if (directory / "saved_model.pb").exists():
        raise ValueError(
            "`directory` must be NAME, which holds all versions of a model, not one of them, "
            f"NAME/VERSION. Received: {directory}"
        )
    check_writable(directory)
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return directory / str(1 + max((int(name) for name in names if name.isdecimal()), default=0))


def write(source, directory, images, *, dense=False, warmup=True, whole=False, resize="bicubic"):
    """Write a SavedModel with these signatures, each for batches of any size.

        serving_default  images float32 (B, H, W, C), 0-255
        serving_uint8    images uint8: a signature has one dtype. JSON has one kind of number, so
                         REST clients of either send to serving_default
        serving_bytes    image_bytes string (B,): JPEG or PNG files, of any sizes
        serving_tokens   images float32; with `dense`

    The first three give what `keras_mae.export.export_encoder` says; `serving_tokens` gives
    `feature_map` `(B, H / p, W / q, D)`, the patches' tokens in their places, for dense heads.
    Beside them there is the endpoint `serve`: images float32, normalised, to tokens
    `(B, 1 + N, D)`. Its variables train.

    Args:
        source: `keras_mae.export.card.Source`.
        directory: `Path`, of the version.
        images: uint8 `(n, H, W, C)`, of which the first is sent as warm-up.
        dense: bool. Whether there is `serving_tokens`.
        warmup: bool. Whether there are warm-up requests; they need tensorflow-serving-api.
        whole: bool. Whether `serving_bytes` resizes the whole image, as the pipeline does with
            data sets of images of one size, instead of cutting out the middle.
        resize: "bicubic" (antialiased; as `keras_mae.data.eval_dataset`) or "bilinear", there.
    Returns:
        `keras_mae.export.card.Written`.
    """
    model, encoder = source.model, source.encoder
    size, channels = encoder.image_size, encoder.channels
    shape = (None, *size, channels)

    # One graph of the encoder, which all signatures call: it is not written once for each of them.
    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False)
    def encode(images):
        return pooled_tokens(model, images)

    def last_block(images):
        return encode(images)[..., -encoder.hidden_dim :]

    def outputs_of(images):
        return model_outputs(model, normalize(encoder, images), encode)

    def of_bytes(image_bytes):
        return outputs_of(pixels_of_bytes(image_bytes, size, channels, resize, whole))

    def feature_map(images):
        tokens = outputs_of(images)["tokens"][:, 1:]
        return {
            "feature_map": tf.reshape(tokens, (-1, *encoder.grid_size, encoder.hidden_dim)),
        }

    pixels = tf.TensorSpec(shape, tf.float32, name="images")
    endpoints = {
        "serve": (last_block, pixels),
        "serving_default": (outputs_of, pixels),
        "serving_uint8": (
            lambda images: outputs_of(tf.cast(images, tf.float32)),
            tf.TensorSpec(shape, tf.uint8, name="images"),
        ),
        "serving_bytes": (of_bytes, tf.TensorSpec((None,), tf.string, name="image_bytes")),
    }
    if channels not in (1, 3):
        del endpoints["serving_bytes"]  # no file format holds them
    if dense:
        endpoints["serving_tokens"] = (feature_map, pixels)
    # It tracks the variables its functions use. Told to track the model too, it writes them twice.
    archive = keras.export.ExportArchive()
    for name, (function, spec) in endpoints.items():
        archive.add_endpoint(name, function, input_signature=[spec])
    archive.write_out(str(directory), verbose=False)
    signatures = read_signatures(directory)
    if warmup:
        write_warmup(directory, signatures, images[0], source.facts["kind"])
    facts = {"warmup_requests": warmup, "bytes_transform": {"resize": resize, "whole": whole}}
    return Written(".", "float32", signatures, facts)
