"""What the asymmetric design gains: an encoder of visible patches only, and a small decoder.

    python benchmarks/asymmetry.py
    python benchmarks/asymmetry.py --model=huge --batch=2

Three pre-training steps of the same encoder take turns: one whose encoder sees all patches, mask
tokens in the place of the hidden ones, with a decoder of 8 blocks; ours with 8; and ours with 1.
Table 2 of the paper has 2.8 and 3.7 times the speed of the first for ViT-L/16, on TPUs. Nothing
else should run meanwhile.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import sys

import turns
from absl import app, flags
from vit import SIZES, step_flops

PAPER = {"large": {8: 2.8, 1: 3.7}, "huge": {1: 4.1}}  # He et al. 2021, table 2
ROWS = {
    "encoder with mask tokens, decoder 8": (True, 8),
    "visible patches only, decoder 8": (False, 8),
    "visible patches only, decoder 1": (False, 1),
}
FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "large", list(SIZES), "Encoder.")
flags.DEFINE_integer("batch", 4, "Images a step.")
flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "Of the computation.")
flags.DEFINE_integer("rounds", 5, "Rounds that count, after one that does not.")
flags.DEFINE_string("child", None, "Used by the benchmark itself: the row to be.")


def main(argv):
    if argv[1:]:
        sys.exit(f"error: arguments must be flags (--name=value). Received: {argv[1:]}")
    if FLAGS.child:
        return turns.serve(_run(*ROWS[FLAGS.child]))
    command = [sys.executable, __file__, f"--model={FLAGS.model}"]
    command += [f"--batch={FLAGS.batch}", f"--precision={FLAGS.precision}"]
    seconds, memory = turns.take_turns(
        {name: [*command, f"--child={name}"] for name in ROWS}, FLAGS.rounds, steps=1
    )
    first = next(iter(ROWS))
    print(
        f"{FLAGS.model}, batch {FLAGS.batch}, {FLAGS.precision}, {FLAGS.rounds} rounds\n\n"
        "| step | s a step | times as fast | by FLOP | paper | memory, MB |\n"
        "|---|---|---|---|---|---|"
    )
    for name, (tokens, blocks) in ROWS.items():
        ratio = turns.median(seconds, first, over=name)
        by_flops = step_flops(FLAGS.model, kept=1.0) / step_flops(
            FLAGS.model, kept=1.0 if tokens else 0.25, decoder_blocks=blocks
        )
        paper = "1" if tokens else PAPER.get(FLAGS.model, {}).get(blocks, "")
        print(
            f"| {name} | {turns.median(seconds, name):.2f} | {ratio:.2f} | {by_flops:.2f} | "
            f"{paper} | {memory[name]:.0f} |"
        )
    return 0


def _run(mask_tokens, decoder_blocks):
    import keras
    import tensorflow as tf

    import keras_mae

    keras.config.set_dtype_policy({"bfloat16": "mixed_bfloat16"}.get(FLAGS.precision, "float32"))
    width, blocks, heads, patch = SIZES[FLAGS.model]
    make = _with_mask_tokens() if mask_tokens else keras_mae.MaskedAutoencoder
    model = make(
        hidden_dim=width,
        num_layers=blocks,
        num_heads=heads,
        patch_size=patch,
        decoder_num_layers=decoder_blocks,
    )
    model.compile(keras_mae.training.make_adamw(model, 1.5e-4), jit_compile=False)
    step, images = tf.function(model.train_step), tf.random.normal((FLAGS.batch, 224, 224, 3))

    def run(steps):
        for _ in range(steps):
            float(step(images)["loss"])

    return run


def _with_mask_tokens():
    """Return a `MaskedAutoencoder` whose encoder sees mask tokens: what the paper compares with."""
    from keras import ops

    import keras_mae
    from keras_mae.layers.masking import removed_mask
    from keras_mae.layers.patches import gather_tokens, patchify

    class EncoderWithMaskTokens(keras_mae.MaskedAutoencoder):
        def build(self, input_shape):
            self.encoder_mask_token = self.add_weight(
                name="encoder_mask_token", shape=(1, 1, self.encoder.hidden_dim)
            )

        def _predict(self, images, keep_ids, query_ids, training):
            encoder, decoder = self.encoder, self.decoder
            x = encoder.patch_embedding(patchify(images, self.patch_size))
            removed = removed_mask(query_ids, encoder.num_patches)[..., None] > 0
            x = ops.where(removed, ops.cast(self.encoder_mask_token, x.dtype), x)
            token = ops.cast(encoder.class_token, x.dtype)
            token = ops.broadcast_to(token, (ops.shape(x)[0], 1, encoder.hidden_dim))
            x = encoder.positions(ops.concatenate([token, x], axis=1), None)
            for block in encoder.blocks:
                x = block(x, training=training)
            x = decoder.projection(encoder.norm(x, training=training))
            x = decoder.positions(x, None)
            for block in decoder.blocks:
                x = block(x, training=training)
            x = gather_tokens(decoder.norm(x, training=training)[:, 1:], query_ids)
            return decoder.prediction(x)

    return EncoderWithMaskTokens


if __name__ == "__main__":
    app.run(main)
