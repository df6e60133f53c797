"""The commands that are no runs: each a function of its settings."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from keras_mae.files import check_writable, printable, save_model
from keras_mae.interop import load_pretrained, push_to_hub, save_pretrained
from keras_mae.models import MaskedAutoencoder
from keras_mae.models.weights import get_weights
from keras_mae.settings.tools import size_argument

LARGEST_DIFFERENCE = 1e-5  # of what was written and read back


def report(settings):
    """Measure what `ReportSettings` name, and write the page; return what failed, or None."""
    from keras_mae.commands.report import report

    failures = report(settings)["failures"]
    if failures:
        return f"{len(failures)} jobs failed or were left out; report.md names them."
    return None


def convert(settings):
    """Turn a checkpoint into another library's, read it back and compare."""
    overrides = {
        "num_heads": settings.num_heads,
        "decoder_num_heads": settings.decoder_num_heads,
        "image_size": size_argument(settings.image_size),
    }
    overrides = {name: value for name, value in overrides.items() if value is not None}
    source, target = settings.source, settings.target
    model = load_pretrained(source, **overrides)
    print(f"{source}: {type(model).__name__}, {model.count_params():,} parameters")
    if settings.format != "keras":
        save_pretrained(model, target, settings.format)
    elif os.path.exists(target):
        raise FileExistsError(f"`target` must be new. Received: {target}")
    else:
        save_model(model, target)
    if settings.format == "keras_hub" and isinstance(model, MaskedAutoencoder):
        model = model.encoder
    weights, outputs = largest_differences(model, load_pretrained(target))
    print(
        f"{target}: written and read back; largest difference of a weight {weights:g}, "
        f"of an output for a random image {outputs:g}"
    )
    if max(weights, outputs) > LARGEST_DIFFERENCE:
        return "what was written is not what was read"
    return None


def push(settings):
    """Put a model on the Hugging Face hub, and print its name there."""
    name = push_to_hub(
        settings.source,
        settings.repo,
        settings.format,
        licence=settings.licence,
        private=settings.private,
        data=settings.data,
        figure=settings.figure,
    )
    print(f"Pushed: {name}")


def largest_differences(model, other):
    """Return the largest absolute difference of weights, and of outputs for one random image."""
    weights, others = get_weights(model), get_weights(other)
    if set(weights) != set(others):
        raise ValueError(f"Written and read back, names differ: {set(weights) ^ set(others)}")
    encoder = getattr(model, "encoder", model)
    image = np.random.default_rng(0).normal(size=(1, *encoder.image_size, encoder.channels))
    outputs = [m(image.astype("float32")) for m in (model, other)]
    if isinstance(outputs[0], dict):
        outputs = [output["prediction"] for output in outputs]
    outputs = [np.asarray(output) for output in outputs]
    in_weights = max(float(np.abs(weights[n] - others[n]).max()) for n in weights)
    return in_weights, float(np.abs(outputs[0] - outputs[1]).max())


def records(settings):
    """Pack the images of a source into TFRecord files."""
    from keras_mae.data import load_source
    from keras_mae.data.tfrecords import write_tfrecords

    if "://" not in settings.output:
        check_writable(Path(settings.output).parent, "output")
    source = load_source(
        settings.dataset,
        image_column=settings.image_column,
        label_column=settings.label_column,
        label_separator=settings.label_separator,
    )
    for note in source.notes:
        print(note)
    left_out, start = [], time.perf_counter()

    def on_error(path, error):
        left_out.append(path)
        print(f"left out {printable(path)}: {error}", file=sys.stderr)

    index = write_tfrecords(
        source,
        settings.output,
        num_shards=settings.num_shards,
        shorter_side=settings.shorter_side,
        jpeg_quality=settings.jpeg_quality,
        on_error=on_error,
    )
    seconds = time.perf_counter() - start
    print(
        f"{index['num_examples']} images in {len(index['shards'])} files "
        f"{settings.output}-*.tfrecord, {index['num_classes'] or 'no'} classes, "
        f"{len(left_out)} files left out"
    )
    print(
        f"{index['num_examples'] / seconds:.0f} images/s; {index['bytes_before']:,} bytes of "
        f"images before, {index['bytes_after']:,} after"
    )


def export(settings):
    """Export a model, and print the card of what was written and checked."""
    from keras_mae.export import export_encoder
    from keras_mae.export.card import format_card

    path = export_encoder(
        settings.model,
        settings.output,
        settings.format,
        image_size=size_argument(settings.image_size),
        check_dataset=settings.check_dataset,
        num_check_images=settings.num_check_images,
        loads=settings.loads,
        **settings.options(),
    )
    directory = path if path.is_dir() else path.parent
    print(format_card(json.loads((directory / "card.json").read_text())))
    print(f"Written: {path}")


def serve_check(settings):
    """Ask a SavedModel as TF Serving does; return what is wrong, or None."""
    from absl import logging

    from keras_mae.export.serve_check import find_version, serve_check
    from keras_mae.export.serving import serving_apis, serving_commands

    logging.set_verbosity(logging.ERROR)  # the loader's word on its own age
    path = find_version(settings.saved_model)
    serving_apis()
    problems = serve_check(path)
    print(f"\nServe it and ask it:\n\n{serving_commands(path)}")
    return "; ".join(problems) or None
