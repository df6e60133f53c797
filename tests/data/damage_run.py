"""Open and read damaged files of one kind: `damage_run.py KIND COUNT`, in a process of its own.

For each damaged file it prints `NUMBER WHAT OUTCOME`: "opened R of N", the images read and those
that the source names, or "refused" and the error. A crash or a hang is what is not printed.
"""

import csv
import io
import json
import os
import random
import resource
import signal
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

from source_checks import png

from keras_mae.data import load_source, tfrecords

NUM_IMAGES = 12
BEHIND = 64  # bytes, at most, of a record behind its image: label, name, checksum
IMAGES = [png(seed) for seed in range(NUM_IMAGES)]
NAMES = [f"{'ab'[seed % 2]}/{seed}.png" for seed in range(NUM_IMAGES)]


def make(kind, folder):
    """Write a whole file; return (the file to damage, spec)."""
    for name, data in zip(NAMES, IMAGES, strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    rows = [{"image": name, "label": name[0]} for name in NAMES]
    if kind == "tar":
        with tarfile.open(folder / "x.tar", "w") as tar:
            for name, data in zip(NAMES, IMAGES, strict=True):
                for field, content in ((name, data), (name[:-3] + "cls", b"%d" % ord(name[0]))):
                    info = tarfile.TarInfo(field)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        return folder / "x.tar", f"webdataset:{folder}/x.tar"
    if kind == "zip":
        with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in NAMES:
                archive.write(folder / name, name)
        return folder / "x.zip", f"zip:{folder}/x.zip"
    if kind == "csv":
        with open(folder / "x.csv", "w", newline="") as file:
            table = csv.DictWriter(file, ["image", "label"])
            table.writeheader()
            table.writerows(rows)
        return folder / "x.csv", f"table:{folder}/x.csv"
    if kind == "jsonl":
        (folder / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return folder / "x.jsonl", f"table:{folder}/x.jsonl"
    if kind in ("parquet", "arrow"):
        return make_arrow(kind, folder, rows)
    source = load_source(f"folder:{folder}")
    tfrecords.write_tfrecords(source, folder / "x", num_shards=1)
    file = folder / "x-00000-of-00001.tfrecord"
    spec = f"tfrecord:{file}"
    if kind == "tfrecord":
        (folder / "x.index.json").unlink()
    return (folder / "x.index.json" if kind == "index" else file), spec


def make_arrow(kind, folder, rows):
    if kind == "parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "x.parquet")
        return folder / "x.parquet", f"table:{folder}/x.parquet"
    import datasets

    rows = {"image": [{"bytes": data} for data in IMAGES], "label": [0, 1] * (NUM_IMAGES // 2)}
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(folder / "x")
    (file,) = (folder / "x").glob("*.arrow")
    return file, f"huggingface:{folder}/x"


def damage(data, rng):
    """(what was done, the damaged bytes, how many bytes at the beginning are as they were)."""
    way = rng.choice(["flip", "cut", "splice"])
    if way == "flip":
        places = [rng.randrange(len(data)) for _ in range(rng.choice([1, 3, 20]))]
        changed = bytearray(data)
        for place in places:
            changed[place] ^= 1 << rng.randrange(8)
        return way, bytes(changed), min(places)
    if way == "cut":
        place = rng.randrange(len(data))
        return way, data[:place], place
    first, second = sorted(rng.randrange(len(data)) for _ in range(2))
    return way, data[:first] + data[second:] + data[:second], first


def stop(*_):
    raise TimeoutError("hangs")


def main(kind, count):
    signal.signal(signal.SIGALRM, stop)
    with tempfile.TemporaryDirectory() as name:
        file, spec = make(kind, Path(name))
        whole = file.read_bytes()
        load_source(spec)  # what is imported and allocated once
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(count):
            way, data, same = damage(whole, random.Random(number))
            file.write_bytes(data)
            os.utime(file, (time.time(), number))  # an index that was kept is out of date
            signal.alarm(20)
            try:
                read = read_all(load_source(spec))
                ends = [whole.find(image) + len(image) + BEHIND for image in IMAGES]
                before = sum(end <= same for end in ends)
                print(number, way, f"opened {len(read & set(IMAGES))} of {len(read)}", before)
            except TimeoutError:
                print(number, way, "hangs")
            except Exception as error:
                named = f"{type(error).__name__}: {' '.join(str(error).split())}"
                print(number, way, f"refused {named}")
            signal.alarm(0)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        print("memory", used // 1024)


def read_all(source):
    """Set of the bytes of all images that can be read."""
    read = set()
    for record in range(source.num_examples):
        try:
            read.add(bytes(source.read(record)[0]))
        except TimeoutError:
            raise
        except Exception:  # named by the run, with its reason
            continue
    return read


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
