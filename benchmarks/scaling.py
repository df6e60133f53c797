"""How a pre-training run grows to many hosts: tables for docs/scaling.md, from the presets.

    python benchmarks/scaling.py

Nothing is measured here: each figure follows from a preset and the assumptions, which are flags.
"""

import math

from absl import app, flags

from keras_mae.models.costs import StepCosts
from keras_mae.presets import preset_config

BATCH = flags.DEFINE_integer("batch_size", 4096, "Global batch.")
MASK_RATIO = flags.DEFINE_float("mask_ratio", 0.75, "Share of patches hidden.")
DEVICES = flags.DEFINE_integer("devices_per_host", 8, "GPUs of a host.")
TFLOPS = flags.DEFINE_float("device_tflops", 312.0, "Peak of a GPU in bfloat16 (A100).")
UTILISATION = flags.DEFINE_float("utilisation", 0.4, "Share of the peak that training reaches.")
IMAGE_KB = flags.DEFINE_float("image_kb", 108.0, "Mean size of a JPEG (ImageNet-1k: 138 GB).")
IMAGES = flags.DEFINE_integer("images", 1_281_167, "Images of an epoch (ImageNet-1k).")
CORE_RATE = flags.DEFINE_float(
    "images_per_core", 600.0, "Decoded, cropped images a second and core; see input_pipeline.py."
)
CORES = flags.DEFINE_integer("cores", 96, "CPU cores of a host.")
STORAGE = flags.DEFINE_float("storage_gbps", 25.0, "Gbit/s at which a host reads its data.")
WRITE = flags.DEFINE_float("write_gb", 1.0, "GB/s at which the chief writes a checkpoint.")

MODELS = {
    "B/16": "mae_vit_base_patch16",
    "L/16": "mae_vit_large_patch16",
    "H/14": "mae_vit_huge_patch14",
}
LINKS = {  # Gbit/s of one host, each way
    "25 GbE": 25,
    "100 GbE": 100,
    "400 Gb/s InfiniBand": 400,
    "8 x 400 Gb/s InfiniBand": 3200,
}
MAIN_LINK = "100 GbE"
HOSTS = (1, 2, 4, 8, 16, 32)
GB, MB = 1e9, 1e6


def ring_bytes(model, replicas):
    """Bytes that each replica sends (and receives) to sum up float32 gradients in a ring."""
    return 2 * (replicas - 1) / replicas * 4 * model.trainable


def table(header, rows):
    """Return a markdown table as a string."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def sizes(models):
    """What a model's variables weigh, by themselves and in a step."""
    rows = []
    for name, model in models.items():
        weights, checkpoint = 4 * model.parameters, 4 * (model.parameters + 2 * model.trainable)
        rows.append(
            [
                name,
                f"{model.parameters:,}",
                f"{weights / GB:.2f} GB",
                f"{checkpoint / GB:.2f} GB",
                f"{checkpoint / GB / WRITE.value:.1f} s",
                f"{4 * model.trainable / GB:.2f} GB",
                f"{model.flops / 1e9:.1f}",
            ]
        )
    header = ["model", "parameters", "weights", "checkpoint", "to write it", "gradients"]
    return table([*header, "GFLOP an image"], rows)


def all_reduce(models):
    """Bytes of the ring and its time on each link, for many replicas."""
    rows = []
    for name, model in models.items():
        sent = {hosts: ring_bytes(model, hosts * DEVICES.value) for hosts in (2, 32)}
        times = [f"{sent[32] * 8 / 1e9 / gbps * 1000:,.0f} ms" for gbps in LINKS.values()]
        rows.append([name, *(f"{value / GB:.2f} GB" for value in sent.values()), *times])
    return table(["model", "2 hosts", "32 hosts", *LINKS], rows)


def input_rates():
    """What a host must read and decode for a given number of images a second."""
    rows = []
    for rate in (500, 1000, 2000, 4000, 8000, 16000):
        read = rate * IMAGE_KB.value * 1000
        rows.append(
            [
                f"{rate:,}",
                f"{read / MB:,.0f} MB/s",
                f"{read * 8 / 1e9:.1f}",
                f"{rate / CORE_RATE.value:.1f}",
                f"{rate * 224 * 224 * 3 * 4 / MB:,.0f} MB/s",
            ]
        )
    header = ["images/s of a host", "read", "Gbit/s", "cores to decode", "to the devices, float32"]
    return table(header, rows)


def epochs():
    """What each host reads in an epoch: its share."""
    total = IMAGES.value * IMAGE_KB.value * 1000
    rows = [[hosts, f"{total / hosts / GB:.1f} GB"] for hosts in HOSTS]
    return table(["hosts", "read by each in an epoch"], rows)


def activations(models):
    """Memory of activations at a few local batches."""
    rows = []
    for name, model in models.items():
        row = [name]
        for batch in (32, 128, 512):
            whole, kept = (2 * batch * v / GB for v in (model.activations, model.inputs))
            row.append(f"{whole:.1f} / {kept:.1f} GB")
        rows.append([*row, f"{16 * model.trainable / GB:.1f} GB"])
    header = ["model", "32 images a device", "128", "512", "weights, gradients, moments"]
    return table(header, rows)


def step(model, hosts, gbps):
    """Return a dict of seconds and rates of a step on so many hosts, one global batch for all."""
    devices = hosts * DEVICES.value
    compute = BATCH.value / devices * model.flops / (TFLOPS.value * 1e12 * UTILISATION.value)
    reduce = ring_bytes(model, devices) * 8 / (gbps * 1e9) if hosts > 1 else 0.0
    rate = BATCH.value / hosts / max(compute, reduce)  # images/s of a host; they overlap at best
    return {
        "compute": compute,
        "all-reduce": reduce,
        "rate": rate,
        # How much of what there is a step would use if nothing else held it up.
        "load": {
            "network": reduce / compute,
            "decoding": BATCH.value / hosts / compute / (CORE_RATE.value * CORES.value),
            "storage": BATCH.value / hosts / compute * IMAGE_KB.value * 8e-6 / STORAGE.value,
        },
    }


def growth(models):
    """Steps of one global batch on ever more hosts: what would be full first."""
    rows = []
    for name, model in models.items():
        for hosts in HOSTS:
            if BATCH.value % (hosts * DEVICES.value):
                continue
            now = step(model, hosts, LINKS[MAIN_LINK])
            load = now["load"]
            first = max(load, key=load.get)
            rows.append(
                [
                    name,
                    hosts,
                    BATCH.value // (hosts * DEVICES.value),
                    f"{now['compute'] * 1000:,.0f} ms",
                    f"{now['all-reduce'] * 1000:,.0f} ms",
                    *(f"{load[key]:.0%}" for key in ("network", "decoding", "storage")),
                    f"{first}, full" if load[first] > 1 else "the devices",
                    f"{now['rate'] * hosts / max(1.0, load['decoding'], load['storage']):,.0f}"
                    if load["network"] <= 1
                    else f"{now['rate'] * hosts:,.0f}",
                ]
            )
    header = ["model", "hosts", "images a device", "compute", f"all-reduce, {MAIN_LINK}"]
    header += ["network", "decoding", "storage", "what limits", "images/s of all"]
    return table(header, rows)


def largest_scale(models):
    """Hosts at which the all-reduce takes as long as the compute, by link."""
    rows = []
    for name, model in models.items():
        row = [name]
        for gbps in LINKS.values():
            # compute = batch * flops / (hosts * devices * speed) falls below 2 * gradients / link
            seconds = 2 * 4 * model.trainable * 8 / (gbps * 1e9)
            one_host = BATCH.value * model.flops / (TFLOPS.value * 1e12 * UTILISATION.value)
            hosts = one_host / DEVICES.value / seconds
            row.append(f"{hosts:.1f}" if hosts < 10 else f"{math.floor(hosts):,}")
        rows.append(row)
    return table(["model", *LINKS], rows)


def tables():
    """Return a dict of name to markdown table, in the order of docs/scaling.md."""
    models = {
        name: StepCosts(preset_config(preset), MASK_RATIO.value) for name, preset in MODELS.items()
    }
    return {
        "What a model weighs": sizes(models),
        "All-reduce": all_reduce(models),
        "Reading and decoding": input_rates(),
        "An epoch's share": epochs(),
        "Activations": activations(models),
        "What is full first": growth(models),
        "Hosts at which the network is full": largest_scale(models),
    }


def main(_):
    for name, text in tables().items():
        print(f"## {name}\n\n{text}\n")


if __name__ == "__main__":
    app.run(main)
