"""How fast each source opens, and reads an image in Python.

    python benchmarks/sources.py --records=100000

It makes a set of small images in each source's own form, with the real writers where there are
some, opens it twice, each time in a new process, and reads images by random access. Aims: 5 s to
open again, once what is indexed is indexed; 60 microseconds an image.
"""

import csv
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

RECORDS = flags.DEFINE_integer("records", 100_000, "Images in each set.", lower_bound=20)
READS = flags.DEFINE_integer("reads", 20_000, "Images read, at random.", lower_bound=1)
KINDS = flags.DEFINE_list("kinds", [], "Sources; all where empty.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file for the figures.")
# Opens a source and reads in a process of its own: nothing is warm but the disk's cache.
OPEN = """
import sys, time
import numpy as np
from keras_mae.data import load_source
spec, reads = sys.argv[1], int(sys.argv[2])
load_source("folder:" + sys.argv[3])  # imports are not counted
if spec.startswith(("huggingface", "table")):
    import datasets, pyarrow
start = time.perf_counter()
source = load_source(spec)
opened = time.perf_counter() - start
records = [int(r) for r in np.random.default_rng(0).integers(0, source.num_examples, reads)]
times = []
for record in records:
    start = time.perf_counter()
    source.read(record)
    times.append(time.perf_counter() - start)
print(opened, 1e6 * sum(times) / len(times), source.num_examples)
"""


def image(number):
    file = io.BytesIO()
    pixels = np.random.RandomState(number % 100).randint(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def make_folder(folder, images):
    for name, data in images:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return f"folder:{folder}"


def make_zip(folder, images):
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        for name, data in images:
            archive.writestr(name, data)
    return f"zip:{folder}/x.zip"


def make_webdataset(folder, images):
    for shard in range(10):
        with tarfile.open(folder / f"x-{shard}.tar", "w") as tar:
            for number, (name, data) in enumerate(images[shard::10]):
                for field, content in (("jpg", data), ("cls", name[5:6].encode())):
                    info = tarfile.TarInfo(f"{number:06d}.{field}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return f"webdataset:{folder}/x-{{0..9}}.tar"


def make_table(folder, images):
    make_folder(folder, images)
    with open(folder / "x.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "label"])
        table.writerows([name, name.split("/")[0]] for name, _ in images)
    return f"table:{folder}/x.csv"


def make_huggingface(folder, images):
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(10))
    rows = {
        "image": [{"bytes": data} for _, data in images],
        "label": [int(name[5]) for name, _ in images],
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(folder / "x")
    return f"huggingface:{folder}/x"


def make_tfrecord(folder, images):
    from keras_mae.data import load_source, tfrecords

    source = load_source(make_zip(folder, images))
    tfrecords.write_tfrecords(source, folder / "x", num_shards=10)
    return f"tfrecord:{folder}/x-*.tfrecord"


MAKERS = {
    "folder": make_folder,
    "zip": make_zip,
    "webdataset": make_webdataset,
    "table": make_table,
    "huggingface": make_huggingface,
    "tfrecord": make_tfrecord,
}


def measure(spec, small, reads):
    """(seconds to open, microseconds an image), in a new process."""
    command = [sys.executable, "-c", OPEN, spec, str(reads), str(small)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    opened, read, count = map(float, done.stdout.split())
    if count != RECORDS.value:
        raise RuntimeError(f"{spec} has {count:.0f} images, not {RECORDS.value}")
    return opened, read


def main(_):
    images = [(f"class{n % 10}/{n:06d}.jpg", image(n)) for n in range(RECORDS.value)]
    figures = {}
    print(f"{RECORDS.value} images of {len(images[0][1])} bytes, {READS.value} read at random")
    print(f"{'':12} opens, s: first   again   microseconds an image   (made in s)")
    with tempfile.TemporaryDirectory() as small:
        make_folder(Path(small), images[:2])
        for kind in KINDS.value or MAKERS:
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                spec = MAKERS[kind](Path(folder), images)
                made = time.perf_counter() - start
                first, _ = measure(spec, small, 1)
                again = [measure(spec, small, READS.value) for _ in range(3)]
            opened, read = (statistics.median(values) for values in zip(*again, strict=True))
            figures[kind] = {"first_s": first, "again_s": opened, "read_us": read}
            print(f"{kind:12} {first:16.2f} {opened:7.2f} {read:23.1f} {made:13.0f}", flush=True)
    if OUTPUT.value:
        Path(OUTPUT.value).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    app.run(main)
