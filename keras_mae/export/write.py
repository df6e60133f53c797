"""Write an export under another name, check it there, and give it its name with its card."""

from pathlib import Path
from typing import Any

import keras

from keras_mae.export.card import build_card, write_card
from keras_mae.export.formats.base import ExportError, Format
from keras_mae.export.source import open_source
from keras_mae.export.verify import check_export, over_bound, reference_outputs, sample_images
from keras_mae.files import new_directory
from keras_mae.registry import find
from keras_mae.types import AnyPath, Size


def export_encoder(
    model: keras.Model | AnyPath,
    directory: AnyPath,
    format: str = "saved_model",
    *,
    image_size: Size | None = None,
    check_dataset: Any = None,
    num_check_images: int = 16,
    loads: int = 1,
    fresh_process: bool = True,
    **options: Any,
) -> Path:
    """Write a model for use without this library, and check its numbers.

    The written file takes images `(B, H, W, C)` of the sensor's own values, in the model's
    `value_range`: pixels 0-255, unless the model says otherwise. It normalises them inside, with
    the model's mean and deviation. It computes in float32 whatever the model's dtype policy, and
    returns

        tokens                 (B, T + N, D)   the class token (or T), then the patches, row by row
        cls                    (B, D)          the class token
        pooled                 (B, D)          the mean of the patches' tokens; of an embedder,
                                               its features; of a classifier, what its linear
                                               layer is given
        logits, probabilities  (B, classes)    of a classifier

    or, of a segmenter, these alone

        logits                 (B, H, W, classes)
        label_map              (B, H, W)       uint8, the class of the greatest logit

    or, of a detector, after non-maximum suppression

        boxes                  (B, M, 4)       left, top, right, bottom in pixels of `images`; -1
                                               where there is none
        classes                (B, M)          int32, -1 where there is none
        scores                 (B, M)          in [0, 1], the best first; 0 where there is none
        candidate_boxes        (B, A, 4)       before it: the box of each anchor,
        candidate_scores       (B, A, classes) and its scores

    Then a new process, in which keras cannot be imported, loads the file and compares its outputs
    for images with the Keras model's. The differences go into `card.json` and `card.md`
    beside the file. If they are over the format's bound, nothing is left.

    Args:
        model: `ViTEncoder`, `ViTClassifier`, `ViTSegmenter`, `ViTDetector`, `MaskedAutoencoder`
            (its encoder), or a path that `keras_mae.load_pretrained` knows.
        directory: str or path. For "saved_model" the model's directory: the files go to its next
            free version, `directory/1`, `directory/2`, ... For others a new directory.
        format: "saved_model", "litert", "onnx", or `MODULE:CLASS` for a
            `keras_mae.export.Format` of your own.
        image_size: int or (H, W); None for the model's. Positions follow, as in `load_pretrained`.
        check_dataset: a `keras_mae.data.Source`, or what `keras_mae.data.load_source` knows: the
            images compared. None: for pixels 0-255, embedded photographs (three channels) or
            digits (one); else smooth random values of the model's range.
        num_check_images: int. How many.
        loads: int. How many new processes load and compare.
        fresh_process: bool. False compares in this process: quicker, and a weaker proof.
        **options: the format's. `scripts/export.py --help` lists them.
    Returns:
        `Path`: what is to be loaded. The version's directory, or the `.tflite` or `.onnx` file.
    Raises:
        ValueError: for an argument that does not fit, a directory that is there already or cannot
            be written, weights that the format cannot take; before anything is written.
        ImportError: if the format's packages are missing, with the extra that holds them.
        ExportError: if the written file's numbers are not the model's.

    Example:
        path = export_encoder("encoder.keras", "exported/digits_onnx", format="onnx")
    """
    kind = find("keras_mae.export.formats", format, Format, "format")
    for name, value in (("num_check_images", num_check_images), ("loads", loads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be an int of 1 or more. Received: {value!r}")
    if (backend := keras.backend.backend()) != "tensorflow":
        raise ValueError(
            f"`format` {format!r} needs the TensorFlow backend: set KERAS_BACKEND=tensorflow. "
            f"Received: the backend {backend}"
        )
    exporter = kind(**options)
    target = exporter.final_path(directory)
    source = open_source(model, image_size)
    images, images_name = sample_images(source.encoder, check_dataset, num_check_images)
    reference = reference_outputs(source, images)
    with new_directory(target) as temporary:
        written = exporter.write(source, temporary, images)
        bound = exporter.BOUNDS.get(written.precision)
        if bound is None:
            raise ValueError(
                f"`precision` of what {kind.__name__}.write returns must be one of "
                f"{list(exporter.BOUNDS)}. Received: {written.precision!r}"
            )
        results = check_export(exporter, temporary / written.path, reference, loads, fresh_process)
        for result in results:
            if problem := over_bound(result, bound):
                more = f" {written.explain()}" if written.explain else ""
                raise ExportError(
                    f"The {format} export ({written.precision}) does not give the model's numbers "
                    f"on {result['num_images']} images of {images_name}: {problem}. Nothing was "
                    f"left under {target}.{more}"
                )
        card = build_card(
            format,
            source,
            written,
            temporary,
            results,
            bound=bound,
            images_name=images_name,
            fresh_process=fresh_process,
        )
        write_card(temporary, card)
    return target / written.path
