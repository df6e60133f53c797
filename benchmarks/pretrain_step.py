"""How fast a pre-training step is, beside other libraries', and how much memory it takes.

    pip install -e ".[peers]"
    python benchmarks/pretrain_step.py --precision=float32
    python benchmarks/pretrain_step.py --precision=bfloat16 --model=large --batch=4

Every contestant does the same work: forward, backward and AdamW for the same batch of images at
mask ratio .75 with normalised targets. Each has a process of its own, all of them live at once, and
take turns: a round is `--steps` steps of each, and ratios are medians over rounds of the ratios
within a round. Memory is the largest resident size of the process, over that before the first step
is made. Nothing else should run meanwhile.

Contestants: `keras_mae` in its variants, `transformers` (ViTMAEForPreTraining) and `lightly` (its
MAE modules on timm's blocks), the latter two eager and with `torch.compile`.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import sys

import numpy as np
import turns
from absl import app, flags
from vit import SIZES, declare_torchvision_operators, step_flops

OURS = {
    "keras_mae": {},
    "keras_mae, XLA": {"jit_compile": True},
    "keras_mae, recompute": {"recompute": True},
    "keras_mae, accumulate 4": {"accumulate_steps": 4},
    "keras_mae, efficient decoder": {"decoder": "cross"},
}
PEERS = ("transformers", "transformers, compiled", "lightly", "lightly, compiled")
DEFAULT = ("keras_mae", "keras_mae, efficient decoder", "transformers", "lightly")

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "base", list(SIZES), "Encoder; the decoder is the paper's.")
flags.DEFINE_integer("batch", 8, "Images a step.")
flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "Of the computation.")
flags.DEFINE_multi_enum("contestant", list(DEFAULT), [*OURS, *PEERS], "Who takes part.")
flags.DEFINE_integer("rounds", 7, "Rounds that count, after one that does not.")
flags.DEFINE_integer("steps", 2, "Steps in a round.")
flags.DEFINE_string("child", None, "Used by the benchmark itself: the contestant to be.")


def main(argv):
    if argv[1:]:
        sys.exit(f"error: arguments must be flags (--name=value). Received: {argv[1:]}")
    if FLAGS.child:
        return _child(FLAGS.child)
    rates = {name: turns.matrix_rate(name) for name in ("float32", "bfloat16")}
    flops = step_flops(FLAGS.model) * FLAGS.batch
    print(
        f"{FLAGS.model}, batch {FLAGS.batch}, {FLAGS.precision}: {flops / 1e9:.0f} GFLOP a step; "
        f"matrix products here: {rates['float32']:.0f} GFLOP/s in float32, "
        f"{rates['bfloat16']:.0f} in bfloat16 (TensorFlow, 2048 x 2048).\n"
    )
    command = [sys.executable, __file__, f"--model={FLAGS.model}"]
    command += [f"--batch={FLAGS.batch}", f"--precision={FLAGS.precision}"]
    commands = {name: [*command, f"--child={name}"] for name in FLAGS.contestant}
    rounds, memory = turns.take_turns(commands, FLAGS.rounds, FLAGS.steps)
    _print_table(rounds, memory, flops, rates[FLAGS.precision])
    return 0


def _print_table(rounds, memory, flops, rate):
    best_peer = min(
        (name for name in rounds[0] if name in PEERS),
        key=lambda name: turns.median(rounds, name),
        default=None,
    )
    print("| contestant | s a step | images/s | share of matrix rate | memory, MB | x best peer |")
    print("|---|---|---|---|---|---|")
    for name in rounds[0]:
        seconds = turns.median(rounds, name)
        # The efficient decoder does less work: its share would not be of the same.
        share = "" if "efficient" in name else f"{flops / seconds / 1e9 / rate:.2f}"
        ratio = ""
        if best_peer:
            ratio = f"{turns.median(rounds, best_peer, over=name):.2f}"
            ratio += f" (memory {memory[name] / memory[best_peer]:.2f})"
        print(
            f"| {name} | {seconds:.3f} | {FLAGS.batch / seconds:.2f} | {share} | "
            f"{memory[name]:.0f} | {ratio} |"
        )
    print(f"\nBest peer: {best_peer}. {len(rounds)} rounds of {FLAGS.steps} steps.")


def _child(name):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(FLAGS.batch, 224, 224, 3)).astype("float32")
    make = _ours if name in OURS else _transformers if "transformers" in name else _lightly
    run, before = make(name, images)
    turns.serve(run, before)


def _ours(name, images):
    import keras
    import tensorflow as tf

    import keras_mae

    options = dict(OURS[name])
    tf.zeros(1)
    before = turns.resident()
    keras.config.set_dtype_policy({"bfloat16": "mixed_bfloat16"}.get(FLAGS.precision, "float32"))
    width, blocks, heads, patch = SIZES[FLAGS.model]
    overrides = {}
    if options.pop("decoder", None) == "cross":
        overrides = {"decoder_attention": "cross", "decoder_num_layers": 2}
    model = keras_mae.MaskedAutoencoder(
        hidden_dim=width, num_layers=blocks, num_heads=heads, patch_size=patch, **overrides
    )
    model.compile(keras_mae.training.make_adamw(model, 1.5e-4), **{"jit_compile": False, **options})
    # As bare a loop as the peers have. `fit` adds a tenth of a second or two to each call.
    step = tf.function(model.train_step, jit_compile=model.jit_compile)
    pixels = tf.constant(images)

    def run(steps):
        for _ in range(steps):
            float(step(pixels)["loss"])

    return run, before


def _transformers(name, images):
    operators = declare_torchvision_operators()  # noqa: F841 (kept alive)
    import transformers

    before = turns.resident()
    width, blocks, heads, patch = SIZES[FLAGS.model]
    config = transformers.ViTMAEConfig(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        patch_size=patch,
        norm_pix_loss=True,
    )
    model = transformers.ViTMAEForPreTraining(config)
    return _torch_steps(model, lambda x: model(x).loss, images, "compiled" in name), before


def _lightly(name, images):
    import torch

    operators = declare_torchvision_operators()  # noqa: F841 (kept alive)
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
    from timm.models.vision_transformer import VisionTransformer

    before = turns.resident()
    width, blocks, heads, patch = SIZES[FLAGS.model]
    vit = VisionTransformer(
        patch_size=patch, embed_dim=width, depth=blocks, num_heads=heads, num_classes=0
    )
    encoder = MaskedVisionTransformerTIMM(vit=vit)
    tokens = encoder.sequence_length
    decoder = MAEDecoderTIMM(
        num_patches=vit.patch_embed.num_patches,
        patch_size=patch,
        embed_dim=width,
        decoder_embed_dim=512,
        decoder_depth=8,
        decoder_num_heads=16,
        mlp_ratio=4.0,
    )

    def loss(x):
        keep, hidden = utils.random_token_mask(size=(len(x), tokens), mask_ratio=0.75)
        latent = decoder.embed(encoder.encode(images=x, idx_keep=keep))
        filled = utils.repeat_token(decoder.mask_token, (len(x), tokens))
        filled = utils.set_at_index(filled, keep, latent.type_as(filled))
        prediction = decoder.predict(utils.get_at_index(decoder.decode(filled), hidden))
        target = utils.get_at_index(utils.patchify(x, patch), hidden - 1)
        target = utils.normalize_mean_var(target, dim=-1)
        return torch.nn.functional.mse_loss(prediction.float(), target)

    model = torch.nn.ModuleList([encoder, decoder])
    return _torch_steps(model, loss, images, "compiled" in name), before


def _torch_steps(model, loss, images, compiled):
    import torch

    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], 1.5e-4, (0.9, 0.95), weight_decay=0.05
    )
    loss = torch.compile(loss) if compiled else loss
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=FLAGS.precision == "bfloat16")

    def run(steps):
        model.train()
        for _ in range(steps):
            optimizer.zero_grad()
            with autocast:
                value = loss(pixels)
            value.backward()
            optimizer.step()
            value.item()

    return run


if __name__ == "__main__":
    app.run(main)
