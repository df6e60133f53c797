"""The encoder leaves the house: SavedModel for TF Serving, LiteRT, ONNX, each checked.

What a format needs is imported when it is written: `pip install "keras_mae[export]"`.
"""

import importlib
import inspect

import keras

from keras_mae.export.card import ExportError, open_source, sample_images, write_checked

# Each is a module of this package with three functions:
#   check_options(**options)            raises for what cannot be had, before any work is done
#   final_path(directory)               the directory to be written, a new one
#   write(source, directory, images, **options) -> card.Written
FORMATS = ("saved_model", "litert", "onnx")


def export_encoder(
    model,
    directory,
    format="saved_model",
    *,
    image_size=None,
    check_dataset=None,
    num_check_images=16,
    loads=1,
    fresh_process=True,
    **options,
):
    """Write an encoder, or a classifier, for use without this library, and prove it by its numbers.

    The written file takes images of pixels 0-255, `(B, H, W, C)`: they are normalised inside, with
    the model's own mean and deviation. It gives, in float32, `tokens` `(B, 1 + N, D)`, `cls`
    `(B, D)` (the class token) and `pooled` `(B, D)` (the mean of the patches' tokens); a classifier
    gives `logits` and `probabilities` `(B, classes)` too, and its `pooled` is what its head sees.
    Numbers are computed in float32 whatever the model's dtype policy.

    When all is written, a new process, in which keras cannot be imported, loads the file and
    compares its outputs for real images with the Keras model's. The numbers go into `card.json`
    and `card.md` beside it. Over the format's bound (`keras_mae.export.card.BOUNDS`) nothing is
    left.

    Args:
        model: `ViTEncoder`, `ViTClassifier`, `MaskedAutoencoder` (its encoder), or a path that
            `keras_mae.load_pretrained` knows.
        directory: str or path. For "saved_model" the model's directory: the files go to its next
            free version, `directory/1`, `directory/2`, ... For others a new directory.
        format: "saved_model", "litert" or "onnx".
        image_size: int or (H, W); None for the model's. Positions follow, as in `load_pretrained`.
        check_dataset: a `keras_mae.data.Source`, or what `keras_mae.data.load_source` knows: the
            images compared. None: embedded photographs (three channels) or digits (one).
        num_check_images: int. How many.
        loads: int. How many new processes load and compare.
        fresh_process: bool. False compares in this process: quicker, and a weaker proof.
        **options: the format's, see `keras_mae.export.saved_model.write` and its neighbours.
    Returns:
        `Path`: what is to be loaded. The version's directory, or the `.tflite` or `.onnx` file.
    Raises:
        ValueError: for an argument that does not fit, a directory that is there already or cannot
            be written, weights that the format cannot take; before anything is written.
        ImportError: if the format's packages are missing, with the extra that holds them.
        ExportError: if the written file's numbers are not the model's.
    """
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {list(FORMATS)}. Received: {format!r}")
    for name, value in (("num_check_images", num_check_images), ("loads", loads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be an int of 1 or more. Received: {value!r}")
    if (backend := keras.backend.backend()) != "tensorflow":
        raise ValueError(
            f"`format` {format!r} needs the TensorFlow backend: set KERAS_BACKEND=tensorflow. "
            f"Received: the backend {backend}"
        )
    exporter = importlib.import_module(f"keras_mae.export.{format}")
    valid = list(inspect.signature(exporter.write).parameters)[3:]
    if unknown := sorted(set(options) - set(valid)):
        raise ValueError(
            f"`options` of format {format!r} must be among {valid}. Received: {unknown}"
        )
    exporter.check_options(**options)
    target = exporter.final_path(directory)
    source = open_source(model, image_size)
    images, images_name = sample_images(source.encoder, check_dataset, num_check_images)
    return write_checked(
        format,
        source,
        target,
        lambda path: exporter.write(source, path, images, **options),
        images,
        images_name,
        loads=loads,
        fresh_process=fresh_process,
    )


__all__ = ["FORMATS", "ExportError", "export_encoder"]
