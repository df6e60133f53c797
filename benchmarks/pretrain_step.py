"""How fast a pre-training step is, beside other libraries', and how much memory it takes.

    pip install -e ".[peers]"
    python benchmarks/pretrain_step.py --precision=float32
    python benchmarks/pretrain_step.py --precision=bfloat16 --model=large --batch=4

    pip install -U "jax[cuda13]"
    python benchmarks/pretrain_step.py --device=gpu --precision=bfloat16 --peak_tflops=989 \\
        --steps=20 --model=base --batch=256
    python benchmarks/pretrain_step.py --device=gpu --precision=bfloat16 --peak_tflops=989 \\
        --steps=20 --model=large --batch=128

Every contestant does the same work: forward, backward and AdamW for the same batch of images at
mask ratio .75 with normalised targets. Each has a process of its own, all of them live at once, and
take turns: a round is `--steps` steps of each, and ratios are medians over rounds of the ratios
within a round. Memory is the largest resident size of the process, over that before the first step
is made; on a GPU, the most that the framework has taken of the GPU's. Nothing else should run
meanwhile.

Contestants: `keras_mae` in its variants, `transformers` (ViTMAEForPreTraining, with scaled-dot-
product attention) and `lightly` (its MAE modules on timm's blocks), the latter two eager and with
`torch.compile`. On a GPU, float32 products are in TF32 for all. Contestants on JAX need no
TensorFlow.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The contestants share a GPU's memory: none may take all of it beforehand.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

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
    "keras_mae, JAX": {},
    "keras_mae, JAX, recompute": {"recompute": True},
}
PEERS = ("transformers", "transformers, compiled", "lightly", "lightly, compiled")
DEFAULT = {
    "cpu": ("keras_mae", "keras_mae, efficient decoder", "transformers", "lightly"),
    "gpu": ("keras_mae, JAX", "transformers", "transformers, compiled"),
}

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "base", list(SIZES), "Encoder; the decoder is the paper's.")
flags.DEFINE_integer("batch", 8, "Images a step.")
flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "Of the computation.")
flags.DEFINE_enum("device", "cpu", list(DEFAULT), "Where all contestants compute.")
flags.DEFINE_float(
    "peak_tflops", None, "The device's peak by its data sheet, for a share of it.", lower_bound=1e-3
)
flags.DEFINE_multi_enum(
    "contestant", None, [*OURS, *PEERS], f"Who takes part. Default: {DEFAULT}, by device."
)
flags.DEFINE_integer("rounds", 7, "Rounds that count, after one that does not.")
flags.DEFINE_integer("steps", 2, "Steps in a round.")
flags.DEFINE_string("child", None, "Used by the benchmark itself: the contestant to be.")


def main(argv):
    if argv[1:]:
        sys.exit(f"error: arguments must be flags (--name=value). Received: {argv[1:]}")
    if FLAGS.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of all contestants, whatever their framework
    if FLAGS.child:
        return _child(FLAGS.child)
    measure, how = turns.matrix_rate, "TensorFlow, 2048 x 2048"
    if FLAGS.device == "gpu":
        measure, how = turns.gpu_matrix_rate, "PyTorch, 8192 x 8192, float32 as TF32"
    rates = {name: measure(name) for name in ("float32", "bfloat16")}
    flops = step_flops(FLAGS.model) * FLAGS.batch
    print(
        f"{FLAGS.model}, batch {FLAGS.batch}, {FLAGS.precision}: {flops / 1e9:.0f} GFLOP a step; "
        f"matrix products here: {rates['float32']:.0f} GFLOP/s in float32, "
        f"{rates['bfloat16']:.0f} in bfloat16 ({how}).\n"
    )
    given = ("device", "model", "batch", "precision")
    command = [sys.executable, __file__, *(f"--{name}={FLAGS[name].value}" for name in given)]
    names = FLAGS.contestant or DEFAULT[FLAGS.device]
    commands = {name: [*command, f"--child={name}"] for name in names}
    rounds, memory = turns.take_turns(commands, FLAGS.rounds, FLAGS.steps)
    _print_table(rounds, memory, flops / 1e9, rates[FLAGS.precision])
    return 0


def _print_table(rounds, memory, gflop, rate):
    best_peer = min(
        (name for name in rounds[0] if name in PEERS),
        key=lambda name: turns.median(rounds, name),
        default=None,
    )
    shares = {"share of matrix rate": rate}
    if FLAGS.peak_tflops:
        shares["share of peak"] = FLAGS.peak_tflops * 1000
    columns = ["contestant", "s a step", "images/s", *shares, "memory, MB", "x best peer"]
    _print_row(columns)
    _print_row(["---"] * len(columns))
    for name in rounds[0]:
        seconds = turns.median(rounds, name)
        # The efficient decoder does less work: its share would not be of the same.
        reached = "efficient" not in name
        cells = [f"{gflop / seconds / whole:.2f}" if reached else "" for whole in shares.values()]
        ratio = ""
        if best_peer:
            ratio = f"{turns.median(rounds, best_peer, over=name):.2f}"
            ratio += f" (memory {memory[name] / memory[best_peer]:.2f})"
        timed = [f"{seconds:.3f}", f"{FLAGS.batch / seconds:.2f}"]
        _print_row([name, *timed, *cells, f"{memory[name]:.0f}", ratio])
    print(f"\nBest peer: {best_peer}. {len(rounds)} rounds of {FLAGS.steps} steps.")


def _print_row(cells):
    print("| " + " | ".join(cells) + " |")


def _child(name):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(FLAGS.batch, 224, 224, 3)).astype("float32")
    if name in OURS:
        make = _jax if "JAX" in name else _tensorflow
    else:
        make = _transformers if "transformers" in name else _lightly
    turns.serve(*make(name, images))


def _memory(of_gpu):
    """Return what returns the MB taken from now on; `of_gpu` does so in bytes for a GPU's."""
    if FLAGS.device == "gpu":
        return lambda: of_gpu() / 2**20
    before = turns.resident()
    return lambda: turns.resident() - before


def _check_gpu(framework, found):
    if FLAGS.device == "gpu" and not found:
        sys.exit(f"error: --device=gpu needs a GPU that {framework} can use, and it finds none")


def _model(options):
    import keras

    import keras_mae

    keras.config.set_dtype_policy({"bfloat16": "mixed_bfloat16"}.get(FLAGS.precision, "float32"))
    width, blocks, heads, patch = SIZES[FLAGS.model]
    options = dict(options)
    overrides = {}
    if options.pop("decoder", None) == "cross":
        overrides = {"decoder_attention": "cross", "decoder_num_layers": 2}
    model = keras_mae.MaskedAutoencoder(
        hidden_dim=width, num_layers=blocks, num_heads=heads, patch_size=patch, **overrides
    )
    model.compile(keras_mae.training.make_adamw(model, 1.5e-4), **{"jit_compile": False, **options})
    return model


def _tensorflow(name, images):
    import keras  # noqa: F401 (before the memory is read)
    import tensorflow as tf

    _check_gpu("TensorFlow", tf.config.list_physical_devices("GPU"))
    tf.zeros(1)
    memory = _memory(lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"])
    model = _model(OURS[name])
    # As bare a loop as the peers have. `fit` adds a tenth of a second or two to each call.
    step = tf.function(model.train_step, jit_compile=model.jit_compile)
    pixels = tf.constant(images)

    def run(steps):
        for _ in range(steps):
            loss = step(pixels)["loss"]
        float(loss)

    return run, memory


def _jax(name, images):
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras  # noqa: F401 (before the memory is read)

    device = jax.devices()[0]
    _check_gpu("JAX", device.platform == "gpu")
    jax.block_until_ready(jax.numpy.zeros(1))
    memory = _memory(lambda: device.memory_stats()["peak_bytes_in_use"])
    model = _model({"jit_compile": True, **OURS[name]})
    # What `fit` compiles, too. The step takes over the variables' memory.
    step = jax.jit(model.train_step, donate_argnums=0)
    groups = model.trainable_variables, model.non_trainable_variables
    groups += model.optimizer.variables, model.metrics_variables
    state = tuple([variable.value for variable in group] for group in groups)
    data = (jax.device_put(images),)

    def run(steps):
        nonlocal state
        for _ in range(steps):
            logs, state = step(state, data)
        float(logs["loss"])

    return run, memory


def _transformers(name, images):
    operators = declare_torchvision_operators()  # noqa: F841 (kept alive)
    import torch
    import transformers

    memory = _memory(torch.cuda.max_memory_allocated)
    width, blocks, heads, patch = SIZES[FLAGS.model]
    config = transformers.ViTMAEConfig(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        patch_size=patch,
        norm_pix_loss=True,
        attn_implementation="sdpa",
    )
    model = transformers.ViTMAEForPreTraining(config)
    return _torch_steps(model, lambda x: model(x).loss, images, "compiled" in name), memory


def _lightly(name, images):
    import torch

    operators = declare_torchvision_operators()  # noqa: F841 (kept alive)
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
    from timm.models.vision_transformer import VisionTransformer

    memory = _memory(torch.cuda.max_memory_allocated)
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
    return _torch_steps(model, loss, images, "compiled" in name), memory


def _torch_steps(model, loss, images, compiled):
    import torch

    _check_gpu("PyTorch", torch.cuda.is_available())
    device = "cpu"
    if FLAGS.device == "gpu":
        device = "cuda"
        torch.set_float32_matmul_precision("high")  # TF32, as in the other frameworks
    model.to(device)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], 1.5e-4, (0.9, 0.95), weight_decay=0.05
    )
    loss = torch.compile(loss) if compiled else loss
    autocast = torch.autocast(device, torch.bfloat16, enabled=FLAGS.precision == "bfloat16")

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
