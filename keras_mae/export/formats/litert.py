"""LiteRT (TensorFlow Lite): one `.tflite` file, in float32, float16 or 8 bits.

The file is for one batch size, 1 by default: a runtime then plans its memory once.
"""

import csv
import io
import tempfile
from collections import Counter
from contextlib import contextmanager

import numpy as np

from keras_mae.export.calibration import (
    REPRESENTATIVE_OPTIONS,
    check_constants_fit,
    check_representative,
    representative_images,
)
from keras_mae.export.formats.base import Format, Option, Written

FILE = "model.tflite"
# `quantize` -> the precision whose bound counts.
PRECISIONS = {
    "none": "float32",
    "float16": "float16",
    "dynamic_int8": "int8",
    "int8": "int8",
    "full_int8": "int8",
    "int16x8": "int8",
}
CALIBRATED = ("int8", "full_int8", "int16x8")
WHOLLY_QUANTIZED = ("full_int8", "int16x8")
# What "int8" has in 8 bits: linear layers and convolutions, where nearly all work is done. Layer
# normalisation, first of all, loses in 8 bits what it is there for (docs/export.md has numbers).
INT8_OPERATORS = ("CONV_2D", "FULLY_CONNECTED")
CULPRITS = 5
CULPRIT_IMAGES = 8


class Runner:
    """A `.tflite` file: its one signature, at the batch size it was made with."""

    def __init__(self, path):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=path)
        interpreter.allocate_tensors()
        self.run = interpreter.get_signature_runner()
        details = self.run.get_input_details()["images"]
        # -1 is any: the runner resizes its tensors to what comes.
        size = int(details["shape_signature"][0])
        self.batch_size, self.dtype = None if size == -1 else size, details["dtype"]

    def __call__(self, images):
        return self.run(images=images.astype(self.dtype))


class LiteRT(Format):
    """`model.tflite`: `images` float32 `(batch_size, H, W, C)`, in the model's value range.

    Inputs and outputs are float32 whatever is inside. `quantize` says what is:

        none          float32
        float16       weights in float16, computed in float32 where the hardware has no better
        dynamic_int8  linear layers: weights in 8 bits, inputs quantized as they come
        int8          linear layers and convolutions in 8 bits, with ranges of inputs seen on
                      representative images; the rest float32
        full_int8     everything in 8 bits, for hardware that has nothing else
        int16x8       everything, weights in 8 bits and the rest in 16; slow on CPUs

    Where an 8-bit file is over its bound, the error names the operations that lose most.
    """

    OPTIONS = (
        Option("quantize", str, "none", "what the file computes in.", choices=tuple(PRECISIONS)),
        *REPRESENTATIVE_OPTIONS,
        Option(
            "batch_size",
            int,
            1,
            "the file's fixed batch; in Python None, for any.",
            least=1,
            or_none=True,
        ),
    )
    PACKAGES = ("tensorflow", "ai_edge_litert")
    BOUNDS = {
        "float32": {"difference": 1e-4},
        "float16": {"difference": 1e-2},
        "int8": {"min_cosine": 0.99},
    }
    Runner = Runner

    def check(self):
        check_representative(self.quantize, CALIBRATED, self.representative)

    def write(self, source, directory, images):
        check_constants_fit(source)
        if source.facts["task"] == "detection" and self.quantize in WHOLLY_QUANTIZED:
            allowed = [name for name in PRECISIONS if name not in WHOLLY_QUANTIZED]
            raise ValueError(
                f"`quantize` must be one of {allowed} for a detector: 8 bits do not tell boxes and "
                f"classes apart. Received: {self.quantize!r}"
            )
        calibration, facts = None, {"quantize": self.quantize}
        if self.quantize in CALIBRATED:
            calibration, more = representative_images(
                source, self.representative, self.num_representative
            )
            facts.update(more)
        content = convert(source.model, self.quantize, calibration, self.batch_size)
        directory.mkdir(parents=True)
        (directory / FILE).write_bytes(content)

        def explain():
            if calibration is None:
                return (
                    "quantize='int8', with representative images, names the layers that lose most."
                )
            return "Layers that lose most (error in steps; rounding costs .29): " + ", ".join(
                f"{name} {error:.2f}"
                for name, error in layer_errors(source.model, calibration, self.quantize)[:CULPRITS]
            )

        precision = PRECISIONS[self.quantize]
        facts["operators"], signatures = _describe(content)
        return Written(FILE, precision, signatures, facts, explain if precision == "int8" else None)


def convert(model, quantize="none", calibration=None, batch_size=1):
    """Return a model as the content of a `.tflite` file.

    Args:
        model: `ViTEncoder` or `ViTClassifier`, in float32.
        quantize, batch_size: options of `LiteRT`.
        calibration: `(n, H, W, C)` in the model's value range, where `quantize` needs it.
    Returns:
        bytes.
    """
    import tensorflow as tf

    with _converter(model, quantize, calibration, batch_size) as converter:
        if quantize != "int8":
            return converter.convert()
        options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=_float_operators())
        return _debugger(converter, calibration, options).get_nondebug_quantized_model()


@contextmanager
def _converter(model, quantize, calibration, batch_size):
    """Yield a converter of the model, set up for `quantize`."""
    import tensorflow as tf

    from keras_mae.export.plain import plain_function

    module = tf.Module()
    module.outputs = plain_function(model, batch_size)
    with tempfile.TemporaryDirectory(prefix="keras_mae_litert_") as folder:
        # A SavedModel, and not the function itself: it has a signature, and so names.
        tf.saved_model.save(module, folder, signatures={"serving_default": module.outputs})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if quantize != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize in CALIBRATED:
            size = batch_size or 1
            converter.representative_dataset = lambda: (
                {"images": batch} for batch in _batches(calibration, size)
            )
            sets = tf.lite.OpsSet
            first = (
                sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
                if quantize == "int16x8"
                else sets.TFLITE_BUILTINS_INT8
            )
            converter.target_spec.supported_ops = [first, sets.TFLITE_BUILTINS]
        yield converter


def _float_operators():
    """Return the names of all operators of LiteRT but `INT8_OPERATORS`."""
    from tensorflow.lite.python.schema_py_generated import BuiltinOperator

    return sorted(
        name for name in vars(BuiltinOperator) if name.isupper() and name not in INT8_OPERATORS
    )


def _batches(images, size):
    """Yield float32 batches of exactly `size` images; the last ones begin again at the first."""
    for start in range(0, len(images), size):
        places = np.arange(start, start + size) % len(images)
        yield images[places].astype("float32")


def _debugger(converter, images, options):
    """Return TensorFlow's quantization debugger, for a batch size of 1."""
    import tensorflow as tf

    return tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=lambda: ([batch] for batch in _batches(images, 1)),
        debug_options=options,
    )


def layer_errors(model, calibration, quantize="int8"):
    """Return how much each operation in 8 bits loses, the worst first.

    Each is given the same inputs as its float32 twin.

    Args:
        model: `ViTEncoder` or `ViTClassifier`, in float32.
        calibration: `(n, H, W, C)` in the model's value range, representative images.
        quantize: "int8", "full_int8" or "int16x8".
    Returns:
        list of (name, error), such as ("block_3/attention/norm/Mean (MEAN)", .4): the root mean
        square of the error in steps of the quantized result. Rounding alone costs .29, values
        beyond the range cost more. Infinite where the exact result is not finite, as the reciprocal
        square root of a variance that 8 bits round to 0.
    """
    import tensorflow as tf

    options = tf.lite.experimental.QuantizationDebugOptions(
        denylisted_ops=_float_operators() if quantize == "int8" else None
    )
    with _converter(model, quantize, calibration, 1) as converter, np.errstate(all="ignore"):
        debugger = _debugger(converter, calibration[:CULPRIT_IMAGES], options)
        debugger.run()
    table = io.StringIO()
    debugger.layer_statistics_dump(table)
    table.seek(0)
    found = []
    for row in csv.DictReader(table):
        squared, step = float(row["mean_squared_error"]), float(row["scale"])
        error = squared**0.5 / step if np.isfinite(squared) and step else np.inf
        # Of operations that became one there is a list of names; the last says most.
        found.append((f"{row['tensor_name'].split(';')[-1]} ({row['op_name']})", error))
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))


def _describe(content):
    """Return `(operators, signatures)` of a file: numbers of each, and names, dtypes and shapes."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # Without a delegate, which would stand in the list in place of what it runs.
    interpreter = Interpreter(
        model_content=content,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    operators = Counter(node["op_name"] for node in interpreter._get_ops_details())

    def described(details):
        return {
            name: [
                np.dtype(detail["dtype"]).name,
                [None if size == -1 else int(size) for size in detail["shape_signature"]],
            ]
            for name, detail in details.items()
        }

    runner = interpreter.get_signature_runner()
    signature = {
        "inputs": described(runner.get_input_details()),
        "outputs": described(runner.get_output_details()),
    }
    return dict(operators.most_common()), {"serving_default": signature}
