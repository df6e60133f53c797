"""Images per CPU-second of the input pipeline, beside what it is measured against.

    python benchmarks/input_pipeline.py --images=1200 --rounds=5
    python benchmarks/input_pipeline.py --kind=large --images=64 --rounds=3
    python benchmarks/input_pipeline.py --kind=small --images=5000 --rounds=3

Makes files from shipped photographs: JPEGs of 500 x 375 ("photos"), of 12 megapixels with a
camera's noise ("large"), or PNGs of 32 x 32 ("small"). Then runs in turn, in each round:
  decode           TensorFlow's decoding of whole images, as accurate as Pillow's: to compare with
  ours             random resized crop and flip, bytes as a step takes them; each resize, from a
                   folder and from TFRecords; and with decoded images kept in memory
  ours, normalised the same, normalised in the pipeline
  ours, 4 crops    the same with crops_per_image=4; counts crops
  PIL              what torchvision's transform does: decode, crop, bicubic resize, flip, normalise
  torch, 2 workers the PIL transform in a torch DataLoader; skipped where torch is not installed

CPU-seconds are those of this process and its children, start-up left out: waiting and the work of
other processes do not count. The rounds are interleaved: what slows the machine for a while slows
all alike. Needs psutil, which comes with the tfds extra.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import psutil
import tensorflow as tf
from absl import app, flags
from PIL import Image

from keras_mae.data import load_source, pretrain_dataset
from keras_mae.data.tfrecords import write_tfrecords

BATCH, WORKERS = 64, 2
# Pixels a side that a model sees.
SIZES = {"photos": 224, "large": 224, "small": 32}

KIND = flags.DEFINE_enum("kind", "photos", list(SIZES), "Which files.")
# With less than a batch the loop over Pillow's images would give none, for ever.
IMAGES = flags.DEFINE_integer("images", 1200, "Number of files.", lower_bound=BATCH)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Times that each way is run.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", None, "JSON file for the figures. Default: none.")


def make_images(folder, count, kind):
    """Write random crops of the shipped photographs."""
    rng = np.random.RandomState(0)
    photographs = [Image.fromarray(photo) for photo in load_source("photos").photographs]
    for number in range(count):
        photo = photographs[number % len(photographs)]
        scale = rng.uniform(0.75, 1)
        width = int(scale * min(photo.width, photo.height * 4 / 3))
        height = width * 3 // 4
        left = rng.randint(photo.width - width + 1)
        top = rng.randint(photo.height - height + 1)
        crop = photo.crop((left, top, left + width, top + height))
        if kind == "photos":
            crop = crop.resize((500, 375), Image.Resampling.LANCZOS)
            crop.save(folder / f"{number:05d}.jpg", quality=90)
        elif kind == "large":
            pixels = np.asarray(crop.resize((4000, 3000), Image.Resampling.BICUBIC), np.int16)
            noisy = pixels + rng.normal(0, 6, pixels.shape).astype(np.int16)
            image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            image.save(folder / f"{number:05d}.jpg", quality=90)
        else:
            crop.resize((32, 32), Image.Resampling.LANCZOS).save(folder / f"{number:05d}.png")


def decode_alone(files):
    path_is_png = files[0].endswith("png")

    def decode(path):
        data = tf.io.read_file(path)
        if path_is_png:
            image = tf.io.decode_png(data, channels=3)
        else:
            image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
        return image[0, 0]  # so that no time goes into copying whole images to a batch

    dataset = tf.data.Dataset.from_tensor_slices(files).repeat()
    dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return iter(dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE))


def ours(source, **settings):
    settings = {
        "image_size": SIZES[KIND.value],
        "batch_size": BATCH,
        "normalize": False,
        **settings,
    }
    return iter(pretrain_dataset(source, mean=source.mean, std=source.std, **settings))


class PillowTransform:
    """Dataset of `(C, H, W)` float32 arrays, for a torch DataLoader or a plain loop."""

    def __init__(self, files):
        self.files, self.size = files, SIZES[KIND.value]
        self.mean = np.array([0.485, 0.456, 0.406], np.float32)
        self.std = np.array([0.229, 0.224, 0.225], np.float32)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, number):
        rng = np.random.RandomState(number)
        with Image.open(self.files[number]) as file:
            image = file.convert("RGB")
        for _ in range(10):
            area = image.width * image.height * rng.uniform(0.2, 1)
            aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            width, height = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if width <= image.width and height <= image.height:
                break
        else:
            width = height = min(image.size)
        left = rng.randint(image.width - width + 1)
        top = rng.randint(image.height - height + 1)
        box = (left, top, left + width, top + height)
        image = image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
        if rng.random_sample() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(image, np.float32) / 255
        return np.ascontiguousarray(((pixels - self.mean) / self.std).transpose(2, 0, 1))


def pillow(files):
    dataset = PillowTransform(files)
    while True:
        for start in range(0, len(files) - BATCH + 1, BATCH):
            yield np.stack([dataset[number] for number in range(start, start + BATCH)])


def torch_loader(files):
    import torch

    loader = torch.utils.data.DataLoader(
        PillowTransform(files),
        batch_size=BATCH,
        num_workers=WORKERS,
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    while True:
        yield from loader


def ways(folder):
    """Name -> function that starts an endless iterator of batches."""
    files = sorted(str(path) for path in folder.iterdir() if path.is_file())
    plain = load_source(f"folder:{folder}")
    kept = plain.kept(4e9, None)
    write_tfrecords(plain, folder / "records/all", num_shards=4)
    records = load_source(f"tfrecord:{folder}/records/all-*.tfrecord")
    found = {
        "decode": lambda: decode_alone(files),
        "ours, folder, bilinear (default)": lambda: ours(plain),
        "ours, normalised, folder, bilinear": lambda: ours(plain, normalize=True),
        "ours, folder, bicubic": lambda: ours(plain, resize="bicubic"),
        "ours, folder, bilinear, 4 crops": lambda: ours(plain, crops_per_image=4),
        "ours, TFRecord, bilinear": lambda: ours(records),
        "PIL, bicubic": lambda: pillow(files),
    }
    if KIND.value != "large":
        found["ours, in memory, bilinear"] = lambda: ours(kept)
    try:
        import torch  # noqa: F401

        found[f"torch DataLoader, {WORKERS} workers, PIL"] = lambda: torch_loader(files)
    except ImportError:
        print("torch is not installed: its DataLoader is left out (pip install torch)")
    return found


def cpu_seconds():
    """Of this process and of its children: a loader's workers."""
    process = psutil.Process()
    family = [process, *process.children(recursive=True)]
    return sum(sum(member.cpu_times()[:2]) for member in family)


def measure(start, count):
    """(images per CPU-second, images per second) of `count` images.

    The first batches start everything and are not counted. What is read ahead when the clock
    starts is as much as when it stops.
    """
    batches = start()
    for _ in range(4):
        next(batches)
    cpu, wall, done = cpu_seconds(), time.perf_counter(), 0
    while done < count:
        done += len(next(batches))
    return done / (cpu_seconds() - cpu), done / (time.perf_counter() - wall)


def main(_):
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), IMAGES.value, KIND.value)
        todo = ways(Path(folder))
        measured = {name: [] for name in todo}
        for _ in range(ROUNDS.value):
            for name, start in todo.items():
                measured[name].append(measure(start, IMAGES.value * (4 if "crops" in name else 1)))
    per_cpu = {name: [value[0] for value in values] for name, values in measured.items()}
    middle = {name: statistics.median(values) for name, values in per_cpu.items()}
    print(f"{IMAGES.value} files ({KIND.value}), {ROUNDS.value} rounds, {os.cpu_count()} cores")
    print(f"{'':36} images/CPU-s (least-most)    of decode   of PIL")
    for name, values in per_cpu.items():
        spread = f"{middle[name]:8.0f} ({min(values):.0f}-{max(values):.0f})"
        shares = middle[name] / middle["decode"], middle[name] / middle["PIL, bicubic"]
        print(f"{name:36} {spread:26} {shares[0]:10.2f} {shares[1]:8.2f}")
    if OUTPUT.value:
        figures = {"images": IMAGES.value, "rounds": ROUNDS.value, "images_per_cpu_second": per_cpu}
        Path(OUTPUT.value).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    app.run(main)
