"""The same numbers from transformers (PyTorch): an independent implementation to compare with.

Needs `pip install "keras_mae[interop]"`. Images are `(B, H, W, C)` everywhere.
"""

import importlib.util

import numpy as np
import tensorflow as tf
import torch
import transformers
from sklearn.datasets import load_sample_images

from keras_mae.interop.load import load_pretrained
from keras_mae.interop.names import our_name, to_our_layout
from keras_mae.interop.transformers_format import from_transformers
from keras_mae.models.weights import named_weights
from keras_mae.training.optimizers import make_adamw
from keras_mae.training.schedules import warmup_cosine


def declare_torchvision() -> None:
    """Make torchvision importable, which transformers and timm import where it is installed.

    Its wheels from the package index do not load beside a torch for CPUs: two operators lack.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        _libraries.append(operators)


_libraries: list = []  # an operator lives as long as its library
declare_torchvision()
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SMALL = {"image_size": 32, "patch_size": 4, "hidden": (48, 3, 3), "decoder": (32, 2, 4)}
TINY = {"image_size": 224, "patch_size": 16, "hidden": (192, 12, 3), "decoder": (192, 4, 3)}
BASE = {"image_size": 224, "patch_size": 16, "hidden": (768, 12, 12), "decoder": (512, 8, 16)}
LARGE = {"image_size": 224, "patch_size": 16, "hidden": (1024, 24, 16), "decoder": (512, 8, 16)}
HUGE = {"image_size": 224, "patch_size": 14, "hidden": (1280, 32, 16), "decoder": (512, 8, 16)}


def mae_config(image_size, patch_size, hidden, decoder, **others):
    """Return a `ViTMAEConfig`; `hidden` and `decoder` are (width, layers, heads)."""
    return transformers.ViTMAEConfig(
        image_size=image_size,
        patch_size=patch_size,
        hidden_size=hidden[0],
        num_hidden_layers=hidden[1],
        num_attention_heads=hidden[2],
        intermediate_size=4 * hidden[0],
        decoder_hidden_size=decoder[0],
        decoder_num_hidden_layers=decoder[1],
        decoder_num_attention_heads=decoder[2],
        decoder_intermediate_size=4 * decoder[0],
        **{"layer_norm_eps": 1e-6, **others},
    )


def make_oracle(config, cls=transformers.ViTMAEForPreTraining, noise=0.02, seed=0):
    """Return a model of transformers whose every trained weight is random, biases and norms too."""
    torch.manual_seed(seed)
    oracle = cls(config).eval()
    if hasattr(oracle, "decoder"):
        # transformers 5 leaves both tables of positions at 0: it takes them for initialised, and
        # its own functions that compute them do nothing. Here they are made to.
        embeddings, table = oracle.vit.embeddings, oracle.decoder.decoder_pos_embed
        for part in (embeddings.patch_embeddings.projection, *embeddings.parameters(), table):
            part._is_hf_initialized = False
        embeddings.initialize_weights()
        oracle.decoder.initialize_weights(table.shape[1] - 1)
    with torch.no_grad():
        for parameter in oracle.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=noise)
    return oracle


def open_oracle(oracle, directory):
    """Return our model of an oracle, by way of a folder that transformers wrote."""
    oracle.save_pretrained(directory)
    return load_pretrained(directory)


def random_batch(config, size=2, seed=0):
    """Return (images, noise) for a `ViTMAEConfig`."""
    rng = np.random.default_rng(seed)
    side, patches = config.image_size, (config.image_size // config.patch_size) ** 2
    images = rng.normal(size=(size, side, side, config.num_channels)).astype("float32")
    return images, rng.random((size, patches)).astype("float32")


def to_torch(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def oracle_outputs(oracle, images, noise):
    """Return prediction, latent, mask and loss as NumPy arrays."""
    with torch.no_grad():
        latents = []
        hook = oracle.vit.layernorm.register_forward_hook(lambda *args: latents.append(args[-1]))
        outputs = oracle(to_torch(images), noise=torch.from_numpy(noise))
        hook.remove()
    return {
        "prediction": outputs.logits.numpy(),
        "latent": latents[0].numpy(),
        "mask": outputs.mask.numpy(),
        "loss": outputs.loss.numpy(),
    }


def our_outputs(model, images, noise):
    """Return prediction, latent, mask and loss as NumPy arrays."""
    outputs = model.reconstruct(images, noise=noise)
    keep_ids, _ = model.masking(tf.constant(noise))
    latent = model.encoder(images, keep_ids=keep_ids)
    return {
        "prediction": outputs["prediction"].numpy(),
        "latent": latent.numpy(),
        "mask": outputs["mask"].numpy(),
        "loss": outputs["loss"].numpy(),
    }


def differences(ours, theirs):
    """Return the largest absolute difference of each output."""
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    return {key: float(np.abs(ours[key] - theirs[key]).max()) for key in ours}


def gradient_differences(oracle, model, images, noise):
    """Return for each trained weight max |ours - theirs| / max |theirs|."""
    oracle.zero_grad()
    oracle(to_torch(images), noise=torch.from_numpy(noise)).loss.backward()
    theirs = {n: p.grad.numpy() for n, p in oracle.named_parameters() if p.grad is not None}
    theirs = {our_name(n): g for n, g in from_transformers(theirs).items()}
    named = {n: w for n, w in named_weights(model).items() if w.trainable}
    with tf.GradientTape() as tape:
        loss = model.reconstruct(images, noise=noise)["loss"]
    ours = tape.gradient(loss, [w.value for w in named.values()])
    assert set(named) == set(theirs) and all(g is not None for g in ours)
    found = {}
    for name, gradient in zip(named, ours, strict=True):
        expected = to_our_layout(name, theirs[name])
        found[name] = float(np.abs(gradient.numpy() - expected).max() / np.abs(expected).max())
    return found


def photo_crops(count, size, seed=0):
    """Return normalised crops `(count, size, size, 3)` of scikit-learn's two photographs."""
    rng = np.random.default_rng(seed)
    crops = []
    for i in range(count):
        photo = load_sample_images().images[i % 2]
        top, left = (rng.integers(0, length - 4 * size) for length in photo.shape[:2])
        crop = photo[top : top + 4 * size, left : left + 4 * size]
        crops.append(crop.reshape(size, 4, size, 4, 3).mean((1, 3)))
    return ((np.stack(crops) / 255 - 0.45) / 0.225).astype("float32")


def train_both(oracle, model, images, steps=50, batch=32, peak=1e-3, warmup=10, seed=0):
    """Train both with AdamW from the same start on the same images and masks.

    Returns:
        `(ours, theirs)`: the loss of each step, arrays `(steps,)`.
    """
    rng = np.random.default_rng(seed)
    batches = [
        (
            images[rng.choice(len(images), batch, replace=False)],
            rng.random((batch, model.noise_size)).astype("float32"),
        )
        for _ in range(steps)
    ]
    schedule = warmup_cosine(peak, warmup, steps)
    rates = [float(schedule(step)) for step in range(steps)]
    return _train_ours(model, batches, schedule), _train_theirs(oracle, batches, rates)


def _train_ours(model, batches, schedule):
    optimizer = make_adamw(model, schedule)

    @tf.function
    def step(images, noise):
        with tf.GradientTape() as tape:
            loss = model.reconstruct(images, noise=noise)["loss"]
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return np.array([step(tf.constant(x), tf.constant(n)).numpy() for x, n in batches])


def _train_theirs(oracle, batches, rates):
    # Biases, norms and the class and mask tokens are not decayed; positions are not trained.
    trained = [(n, p) for n, p in oracle.named_parameters() if p.requires_grad]
    plain = [p for n, p in trained if p.ndim == 1 or n.endswith("_token")]
    decayed = [p for n, p in trained if not (p.ndim == 1 or n.endswith("_token"))]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.05}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    losses = []
    for (images, noise), rate in zip(batches, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = oracle(to_torch(images), noise=torch.from_numpy(noise)).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)
