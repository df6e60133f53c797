"""How fast the encoder is when it is put to use, beside other libraries'.

    pip install -e ".[peers,export]"
    python benchmarks/inference.py
    python benchmarks/inference.py --model=small --batch=1

ViT encoders of one size with random weights, in float32, on all patches of images that are
normalised already (the exported files take pixels, and normalise). Contestants take turns for each
batch size: Keras's `predict`, a plain `tf.function` and one compiled by XLA; the exported files in
ONNX Runtime (also fused by it) and LiteRT, at their defaults; `transformers` (ViTMAEModel without a
mask, eager) and timm (`forward_features`, eager). Nothing else should run meanwhile.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import sys
import tempfile

import numpy as np
import turns
from absl import app, flags
from vit import SIZES, declare_torchvision_operators

FLAGS = flags.FLAGS
flags.DEFINE_list("batch", ["1", "32"], "Images a call.")
flags.DEFINE_integer("rounds", 9, "Rounds that count, after one that does not.")
flags.DEFINE_enum("model", "base", list(SIZES), "Encoder.")
flags.DEFINE_string("child", None, "Used by the benchmark itself: the contestant to be.")


def main(argv):
    if argv[1:]:
        sys.exit(f"error: arguments must be flags (--name=value). Received: {argv[1:]}")
    if FLAGS.child:
        return CONTESTANTS[FLAGS.child](int(FLAGS.batch[0]))
    print(
        f"{FLAGS.model}, float32, {FLAGS.rounds} rounds\n\n"
        "| contestant | batch | ms a call | images/s | times transformers | times timm |\n"
        "|---|---|---|---|---|---|"
    )
    for batch in FLAGS.batch:
        command = [sys.executable, __file__, f"--model={FLAGS.model}", f"--batch={batch}"]
        seconds, _ = turns.take_turns(
            {name: [*command, f"--child={name}"] for name in CONTESTANTS},
            FLAGS.rounds,
            steps=max(1, 8 // int(batch)),
        )
        for name in CONTESTANTS:
            ratios = [turns.median(seconds, peer, over=name) for peer in ("transformers", "timm")]
            print(
                f"| {name} | {batch} | {1000 * turns.median(seconds, name):.1f} | "
                f"{int(batch) / turns.median(seconds, name):.2f} | {ratios[0]:.2f} | "
                f"{ratios[1]:.2f} |",
                flush=True,
            )
    return 0


def _images(batch, channels_first=False):
    shape = (batch, 3, 224, 224) if channels_first else (batch, 224, 224, 3)
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _repeat(call):
    def run(steps):
        for _ in range(steps):
            call()

    turns.serve(run)


def _encoder():
    import keras_mae

    width, blocks, heads, patch = SIZES[FLAGS.model]
    return keras_mae.ViTEncoder(
        patch_size=patch, hidden_dim=width, num_layers=blocks, num_heads=heads
    )


def _predict(batch):
    encoder, images = _encoder(), _images(batch)
    _repeat(lambda: encoder.predict(images, batch_size=batch, verbose=0))


def _function(batch, jit_compile=False):
    import tensorflow as tf

    encoder, images = _encoder(), tf.constant(_images(batch))
    function = tf.function(encoder, jit_compile=jit_compile)
    _repeat(lambda: function(images).numpy())


def _exported(batch, format, **options):
    import keras_mae
    from keras_mae import registry
    from keras_mae.export import Format

    with tempfile.TemporaryDirectory() as folder:
        path = keras_mae.export_encoder(
            _encoder(), f"{folder}/out", format, num_check_images=batch, **options
        )
        kind = registry.find("keras_mae.export.formats", format, Format, "format")
        runner, pixels = kind.Runner(str(path)), _images(batch)
        _repeat(lambda: runner(pixels))


def _transformers(batch):
    operators = declare_torchvision_operators()  # noqa: F841 (kept alive)
    import torch
    import transformers

    width, blocks, heads, patch = SIZES[FLAGS.model]
    config = transformers.ViTMAEConfig(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        patch_size=patch,
        mask_ratio=0.0,
    )
    _torch(transformers.ViTMAEModel(config).eval(), torch.from_numpy(_images(batch, True)))


def _timm(batch):
    operators = declare_torchvision_operators()  # noqa: F841 (kept alive)
    import torch
    from timm.models.vision_transformer import VisionTransformer

    width, blocks, heads, patch = SIZES[FLAGS.model]
    model = VisionTransformer(
        patch_size=patch, embed_dim=width, depth=blocks, num_heads=heads, num_classes=0
    )
    model.forward = model.forward_features
    _torch(model.eval(), torch.from_numpy(_images(batch, True)))


def _torch(model, pixels):
    import torch

    def call():
        with torch.inference_mode():
            model(pixels)

    _repeat(call)


CONTESTANTS = {
    "Keras `predict`": _predict,
    "`tf.function`": _function,
    "`tf.function`, XLA": lambda batch: _function(batch, jit_compile=True),
    "ONNX Runtime": lambda batch: _exported(batch, "onnx"),
    "ONNX Runtime, fused": lambda batch: _exported(batch, "onnx", fuse=True),
    "LiteRT": lambda batch: _exported(batch, "litert", batch_size=batch),
    "transformers": _transformers,
    "timm": _timm,
}

if __name__ == "__main__":
    app.run(main)
