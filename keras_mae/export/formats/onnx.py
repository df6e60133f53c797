"""ONNX, by tf2onnx: one file of standard operators, in patterns that ONNX Runtime fuses.

When a session opens the file, ONNX Runtime fuses layer normalisation and GELU by itself. Attention
it fuses only offline, into operators of its own: `fuse=True`.
"""

import collections
import json
import tempfile
from pathlib import Path

import numpy as np

from keras_mae.export.calibration import (
    REPRESENTATIVE_OPTIONS,
    check_constants_fit,
    check_representative,
    representative_images,
)
from keras_mae.export.compare import SUPPRESSION
from keras_mae.export.formats.base import Format, Option, Written

# The newest that tf2onnx writes. In 17 it turns each mean over the width into a pooling operator,
# and no layer normalisation is found.
OPSET = 18
# `quantize` -> the precision whose bound counts.
PRECISIONS = {"none": "float32", "dynamic_int8": "int8", "int8": "int8"}
FILE = "model.onnx"
# What ONNX Runtime makes of several operators.
FUSED = (
    "Attention",
    "BiasGelu",
    "FastGelu",
    "FusedMatMul",
    "Gelu",
    "LayerNormalization",
    "MultiHeadAttention",
    "SkipLayerNormalization",
)


class Runner:
    """An `.onnx` file in ONNX Runtime, on the CPU."""

    batch_size = None  # any

    def __init__(self, path):
        import onnxruntime

        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    def __call__(self, images):
        outputs = self.session.run(None, {"images": images.astype("float32")})
        return dict(zip(self.names, outputs, strict=True))


class ONNX(Format):
    """`model.onnx`, opset 18: `images` float32 `(batch, H, W, C)`, in the model's value range.

    `quantize` says what is inside:

        none          float32
        dynamic_int8  linear layers: weights in 8 bits, inputs quantized as they come
        int8          linear layers in 8 bits, with ranges of inputs seen on representative images,
                      as QuantizeLinear and DequantizeLinear around each

    With `fuse`, attention and residual sums are fused, too, into ONNX Runtime's own operators: then
    nothing else can open the file. The card's `fused_operators` counts what a session makes of it.
    A classifier's names of classes are in the file's metadata, as JSON, under `class_names`.
    """

    OPTIONS = (
        Option("quantize", str, "none", "what the file computes in.", choices=tuple(PRECISIONS)),
        *REPRESENTATIVE_OPTIONS,
        Option("fuse", bool, False, "fuse attention, into operators of ONNX Runtime alone."),
    )
    PACKAGES = ("tensorflow", "tf2onnx", "onnx", "onnxruntime")
    BOUNDS = {"float32": {"difference": 1e-4}, "int8": {"min_cosine": 0.99}}
    Runner = Runner

    def check(self):
        check_representative(self.quantize, ("int8",), self.representative)
        if self.fuse and self.quantize != "none":
            raise ValueError(
                "`fuse` goes with quantize='none': ONNX Runtime's quantizer does not know fused "
                f"operators. Received: quantize={self.quantize!r}"
            )

    def write(self, source, directory, images):
        import onnx

        check_constants_fit(source)
        calibration, facts = None, {"quantize": self.quantize, "fuse": self.fuse}
        if self.quantize == "int8":
            calibration, more = representative_images(
                source, self.representative, self.num_representative
            )
            facts.update(more)
        model = convert(source.model)
        if self.fuse:
            model = fuse_offline(model, source.encoder)
        elif self.quantize != "none":
            model = _quantize(model, calibration)
        if names := source.facts.get("class_names"):
            onnx.helper.set_model_props(model, {"class_names": json.dumps(names)})
        onnx.checker.check_model(model, full_check=True)
        directory.mkdir(parents=True)
        path = directory / FILE
        onnx.save(model, path)
        facts.update(
            opset=OPSET,
            operators=count_operators(model),
            fused_operators=fused_operators(path),
        )
        return Written(FILE, PRECISIONS[self.quantize], _signatures(model), facts)


def convert(model):
    """Return a model as an ONNX graph of standard operators.

    Args:
        model: `ViTEncoder` or `ViTClassifier`, in float32.
    Returns:
        `onnx.ModelProto`, opset 18, with a batch of any size.
    """
    import tf2onnx

    from keras_mae.export.plain import function_of_weights

    function, weights = function_of_weights(model)
    proto, _ = tf2onnx.convert.from_function(
        function, input_signature=function.input_signature, opset=OPSET
    )
    _fill_in(proto.graph, weights)
    _restore_divisions(proto.graph)
    _keep_batch(proto.graph)
    used = _read_names(proto.graph)
    kept = [constant for constant in proto.graph.initializer if constant.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return proto


def _read_names(graph):
    """Return the names of all that the nodes of a graph read, those of loops' bodies too."""
    found = set()
    for node in graph.node:
        found.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= _read_names(attribute.g) | {value.name for value in attribute.g.output}
    return found


def _fill_in(graph, weights):
    """Turn the graph's inputs, but the images, into constants: `weights`, name to array."""
    from onnx import numpy_helper

    images = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(images)
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in weights.items())


def _restore_divisions(graph):
    """Turn `x * (1 / c)`, before an erf or a softmax, back into `x / c`.

    TensorFlow's constant folding writes the first, and the patterns of GELU and attention that
    ONNX Runtime knows have the second.
    """
    from onnx import numpy_helper

    constants = {constant.name: constant for constant in graph.initializer}
    readers = collections.defaultdict(set)
    for node in graph.node:
        for name in node.input:
            readers[name].add(node.op_type)
    for node in graph.node:
        if node.op_type != "Mul" or not readers[node.output[0]] & {"Erf", "Softmax"}:
            continue
        factors = [name for name in node.input if name in constants]
        others = [name for name in node.input if name not in constants]
        if len(factors) != 1:
            continue
        factor = numpy_helper.to_array(constants[factors[0]])
        if factor.size == 1:
            divisor = np.asarray(1 / factor.astype("float64"), "float32")
            _set_constant(graph, node, f"{node.name}/divisor", divisor)
            node.op_type, node.input[0] = "Div", others[0]


def _keep_batch(graph):
    """Name the batch axis, and let it be known after each reshape: `-1` becomes `0`, as it was.

    Sums are fused only where both sides are known to have one shape. A detector's
    suppression is left alone: it has reshapes that mix the batch with other axes.
    """
    from onnx import numpy_helper

    constants = {constant.name: constant for constant in graph.initializer}
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1] in constants:
            shape = numpy_helper.to_array(constants[node.input[1]])
            if shape[0] == -1 and not node.name.startswith(f"{SUPPRESSION}/"):
                shape = np.concatenate([[0], shape[1:]]).astype("int64")
                _set_constant(graph, node, f"{node.name}/shape", shape)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]  # shapes with other names of the batch


def _set_constant(graph, node, name, value):
    """Give a node a new constant as its second input."""
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(value, name))
    node.input[1] = name


def fuse_offline(model, encoder):
    """Return the graph with attention fused, by ONNX Runtime's optimizer for transformers.

    Args:
        model: `onnx.ModelProto` of `convert`.
        encoder: `ViTEncoder`.
    Returns:
        `onnx.ModelProto` with operators of the domain com.microsoft.
    """
    from onnx import helper
    from onnxruntime.transformers import optimizer

    # It warns of graphs that are not PyTorch's; the patterns are the same.
    model.producer_name = ""
    fused = optimizer.optimize_model(
        model,
        model_type="vit",
        num_heads=encoder.num_heads,
        hidden_size=encoder.hidden_dim,
        opt_level=0,
    ).model
    if "com.microsoft" not in {opset.domain for opset in fused.opset_import}:
        fused.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return fused


def _quantize(model, calibration):
    """Return the graph with its linear layers in 8 bits.

    Args:
        model: `onnx.ModelProto` of `convert`.
        calibration: `(n, H, W, C)` in the model's value range, or None to quantize their inputs as
            they come.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="keras_mae_onnx_") as scratch:
        plain, prepared, result = (Path(scratch, f"{name}.onnx") for name in "abc")
        onnx.save(model, plain)
        # It fuses layer normalisation, and infers shapes; not by symbols, which loops do not have.
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        # Only products with a constant: the two of attention itself stay in float32. Weights have a
        # scale for each output.
        common = {
            "op_types_to_quantize": ["MatMul", "Gemm"],
            "per_channel": True,
            "weight_type": quantization.QuantType.QInt8,
            "extra_options": {"MatMulConstBOnly": True},
        }
        if calibration is None:
            quantization.quantize_dynamic(prepared, result, **common)
        else:
            quantization.quantize_static(
                prepared,
                result,
                _Reader(calibration),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                **common,
            )
        return onnx.load(result)


class _Reader:
    """Gives the quantizer one image at a time."""

    def __init__(self, images):
        self.images = iter(images)

    def get_next(self):
        image = next(self.images, None)
        return None if image is None else {"images": image[None].astype("float32")}


def count_operators(model):
    """Return the number of nodes of each operator of an `onnx.ModelProto`, most frequent first."""
    return dict(collections.Counter(node.op_type for node in model.graph.node).most_common())


def fused_operators(path):
    """Return how many of each fused operator ONNX Runtime's session has, once it opened a file.

    Args:
        path: of an `.onnx` file.
    Returns:
        dict, name to number, of those in `FUSED`.
    """
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="keras_mae_onnx_") as scratch:
        optimized = Path(scratch, "optimized.onnx")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(optimized)
        options.log_severity_level = 3  # It warns that the written graph is for this machine only.
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found = count_operators(onnx.load(optimized))
    return {name: found[name] for name in sorted(found) if name in FUSED}


def _signatures(model):
    """Return the graph's inputs and outputs, as the card lists them."""
    from onnx import helper

    def described(values):
        return {
            value.name: [
                helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
                [d.dim_value or None for d in value.type.tensor_type.shape.dim],
            ]
            for value in values
        }

    graph = model.graph
    return {"model": {"inputs": described(graph.input), "outputs": described(graph.output)}}
