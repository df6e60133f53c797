"""Measure what exports cost and lose, beside Keras's own `predict`: the table of docs/export.md.

    pip install "keras_mae[export]"
    python benchmarks/export.py
    python benchmarks/export.py --models=tiny --loads=20

Two encoders: a small trained one, and ViT-B/16 with random weights. Each file is checked on images
that its 8-bit ranges were not taken from. A latency is the median of calls with one image; a call
of `predict` goes before each, and the share is the median of the pairs' ratios. With --loads, so
many new processes load each file and compare it. Nothing else should run meanwhile.
"""

import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags, logging

import keras_mae
from keras_mae import registry
from keras_mae.data import load_source
from keras_mae.export import ExportError, Format
from keras_mae.export.source import find_preset, open_source
from keras_mae.pixels import normalize

ROOT = Path(__file__).parents[1]
# Row of the table -> format, and its options; "int8" ones get representative images.
ROWS = {
    "SavedModel": ("saved_model", {"warmup": False}),
    "LiteRT float32": ("litert", {}),
    "LiteRT float16": ("litert", {"quantize": "float16"}),
    "LiteRT dynamic_int8": ("litert", {"quantize": "dynamic_int8"}),
    "LiteRT int8": ("litert", {"quantize": "int8"}),
    "LiteRT full_int8": ("litert", {"quantize": "full_int8"}),
    "LiteRT int16x8": ("litert", {"quantize": "int16x8"}),
    "ONNX float32": ("onnx", {}),
    "ONNX float32 fused": ("onnx", {"fuse": True}),
    "ONNX dynamic_int8": ("onnx", {"quantize": "dynamic_int8"}),
    "ONNX int8": ("onnx", {"quantize": "int8"}),
}
CALIBRATED = ("int8", "full_int8", "int16x8")
DATASETS = {1: "mnist5k", 3: "photos"}

MODELS = flags.DEFINE_list("models", ["tiny", "B/16"], "tiny: --model; B/16: random weights.")
MODEL = flags.DEFINE_string(
    "model", str(ROOT / "saved_models/mnist5k_encoder/encoder.keras"), "The trained encoder."
)
FORMATS = flags.DEFINE_list("rows", list(ROWS), "Rows of the table.")
LOADS = flags.DEFINE_integer("loads", 1, "New processes that load each file and compare.")
PAIRS = flags.DEFINE_integer("pairs", 30, "Calls timed, each after one of `predict`.")
REPRESENTATIVE = flags.DEFINE_integer("num_representative", 100, "Images for 8-bit ranges.")


def milliseconds(call):
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def interleaved(call, reference, pairs):
    """Return the median milliseconds of `call`, and the median of its share of `reference`."""
    for warm in (call, call, reference, reference):
        warm()
    times = [(milliseconds(reference), milliseconds(call)) for _ in range(pairs)]
    return np.median([own for _, own in times]), np.median([own / other for other, own in times])


def rows(name, model):
    """Yield the table's lines for one encoder."""
    source = open_source(model)
    encoder = source.encoder
    # Ranges are taken from one part of the images, and the check is made on the other.
    representative, held_out = load_source(DATASETS[encoder.channels]).split()
    pixels = np.zeros((1, *encoder.image_size, encoder.channels), "uint8") + 128
    normalised = normalize(pixels.astype("float32"), encoder.mean, encoder.std)

    def predict():
        return encoder.predict(normalised, verbose=0)

    megabytes = 4 * source.facts["parameters"] / 1e6
    for label, call in (
        ("`predict`", predict),
        ("`predict_on_batch`", lambda: encoder.predict_on_batch(normalised)),
    ):
        latency, share = interleaved(call, predict, PAIRS.value)
        yield f"| {name} | Keras {label} | {megabytes:.2f} | {latency:.2f} | {share:.3f} | | | |"
    for row in FORMATS.value:
        format, options = ROWS[row]
        if options.get("quantize") in CALIBRATED:
            options = {
                **options,
                "representative": representative,
                "num_representative": REPRESENTATIVE.value,
            }
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = keras_mae.export_encoder(
                    model,
                    Path(folder, "out"),
                    format,
                    check_dataset=held_out,
                    loads=LOADS.value,
                    **options,
                )
            except (ExportError, ValueError) as error:
                yield f"| {name} | {row} | refused: {error} | | | | | |"
                continue
            folder = path if format == "saved_model" else path.parent
            card = json.loads((folder / "card.json").read_text())
            kind = registry.find("keras_mae.export.formats", format, Format, "rows")
            runner = kind.Runner(str(path))
            latency, share = interleaved(lambda: runner(pixels), predict, PAIRS.value)  # noqa: B023
        found = card["check"]
        fused = ", ".join(f"{n} {k}" for k, n in card.get("fused_operators", {}).items())
        yield (
            f"| {name} | {row} | {card['bytes'] / 1e6:.2f} | {latency:.2f} | {share:.3f} | "
            f"{found['max_abs_difference']:.1e} | {found['min_cosine']:.6f} | {fused or '-'} |"
        )


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)
    print(
        f"{os.cpu_count()} CPUs; every file loaded in {LOADS.value} new process(es), each within "
        "its bound unless the row says that it was refused.\n\n"
        "| encoder | file | MB | ms, batch 1 | share of `predict` | largest difference | "
        "smallest cosine | fused by ONNX Runtime |\n|---|---|---|---|---|---|---|---|"
    )
    for name in MODELS.value:
        if name == "B/16":
            keras.utils.set_random_seed(0)
            model = keras_mae.ViTEncoder()
        else:
            model = keras_mae.load_pretrained(MODEL.value)
            name = f"{name}, {find_preset(getattr(model, 'encoder', model)) or 'no preset'}"
        for row in rows(name, model):
            print(row, flush=True)


if __name__ == "__main__":
    app.run(main)
