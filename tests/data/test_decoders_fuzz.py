"""Damaged files of every format: each is read or is an error; no hang, no crash, no flood.

Decoders written in C meet them in a process of its own, so that what kills it is seen.
"""

import collections
import io
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time

import numpy as np
import pytest
from PIL import Image
from test_decoders_dicom import dataset, write

from keras_mae.data.decode import decode_image, image_facts

tifffile = pytest.importorskip("tifffile")
codecs = pytest.importorskip("imagecodecs")
pydicom = pytest.importorskip("pydicom")

NUM_FILES = 2_000
SECONDS = 20.0  # for one file, on a machine that does other things, too
MEMORY = 3 << 30  # bytes, above what the imports take: twice `base.MAX_BYTES`
# What TensorFlow says of the machine, of no image.
NOISE = re.compile(r"cuda|cpu_feature|port\.cc|absl::Init|To enable the following|^$")


def pillow_file(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def tiff_file(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, np.ascontiguousarray(pixels), **options)
    return file.getvalue()


def array_file(save, *arrays, **named):
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def rle(image):
    image.compress(pydicom.uid.RLELossless)
    return image


def whole_files():
    """A good file of each kind, by its real writer."""
    rng = np.random.RandomState(0)
    small = Image.fromarray(rng.randint(0, 256, (5, 6, 4)).astype(np.uint8))
    rgba = small.resize((60, 50))
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    deep = np.asarray(rgba).astype(np.uint16) * 257
    palette = rgb.quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [grey.convert("P")] * 2}
    signed = (deep[..., 0] // 16).astype(np.int16) - 1024
    tags = [(42113, "s", 0, "7", True), (274, "H", 1, 6, True)]
    stack = deep.transpose(2, 0, 1)[:3]
    slices = dataset(stack, NumberOfFrames=3, stored=12, RescaleSlope="0.1", RescaleIntercept="-9")
    return {
        "jpeg": pillow_file(rgb, "JPEG", quality=90, exif=exif),
        "progressive jpeg": pillow_file(rgb, "JPEG", progressive=True),
        "cmyk jpeg": pillow_file(rgb.convert("CMYK"), "JPEG"),
        "png": pillow_file(rgb, "PNG"),
        "alpha png": pillow_file(rgba, "PNG", exif=exif),
        "palette png": pillow_file(palette, "PNG", transparency=3),
        "16-bit png": codecs.png_encode(np.ascontiguousarray(deep[..., :3])),
        "16-bit alpha png": codecs.png_encode(deep),
        "gif": pillow_file(palette, "GIF", transparency=2, **frames),
        "webp": pillow_file(rgba, "WEBP"),
        "bmp": pillow_file(rgb, "BMP"),
        "jpeg 2000": codecs.jpeg2k_encode(deep[..., 0], level=0),
        "avif": pillow_file(rgb, "AVIF"),
        "tiff": tiff_file(deep[..., :3], photometric="rgb", extratags=tags),
        "pillow's tiff": pillow_file(rgba, "TIFF", compression="tiff_lzw"),
        "jpeg tiff": pillow_file(rgb, "TIFF", compression="jpeg"),
        "fax tiff": pillow_file(grey.convert("1"), "TIFF", compression="group4"),
        "tiled tiff": tiff_file(stack, tile=(16, 16), compression="zlib", predictor=2, ome=True),
        "lzw tiff": tiff_file(deep, compression="lzw", photometric="rgb", rowsperstrip=7),
        "float tiff": tiff_file(signed / 7, compression="zstd", predictor=3, bigtiff=True),
        "12-bit tiff": tiff_file(deep[..., 0] // 16, bitspersample=12, byteorder=">"),
        "stack": tiff_file(stack, imagej=True, metadata={"axes": "CYX"}),
        "webp tiff": tiff_file(np.asarray(rgb), compression="webp", photometric="rgb"),
        "jpeg 2000 tiff": tiff_file(deep[..., 0], compression="jpeg2000"),
        "npy": array_file(np.save, signed),
        "npz": array_file(np.savez, image=deep, label=3),
        "small npz": array_file(np.savez_compressed, x=signed / 7),
        "dicom": write(dataset(signed.view(np.uint16), stored=12, signed=1, kind="MONOCHROME1")),
        "rle dicom": write(rle(dataset(deep[..., 0]))),
        "frames of dicom": write(slices),
        "deflated dicom": write(
            dataset(np.asarray(rgb), kind="YBR_FULL", syntax="1.2.840.10008.1.2.1.99")
        ),
        "implicit dicom": write(dataset(deep[..., 0], syntax=pydicom.uid.ImplicitVRLittleEndian)),
    }


def damaged(data, others, rng):
    """The bytes of a file with something wrong in it: most often in its beginning."""
    data = bytearray(data)
    end = len(data) if rng.rand() < 0.4 else min(len(data), 600)
    for _ in range(rng.randint(1, 4)):
        way, place = rng.randint(7), rng.randint(end)
        if way < 2:  # bits are flipped
            for _ in range(rng.randint(1, 9)):
                data[rng.randint(min(end, len(data)))] ^= 1 << rng.randint(8)
        elif way == 2:  # a number becomes another: all ones, zero, huge
            word = (b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")[
                rng.randint(4)
            ]
            data[place : place + 4] = word
        elif way == 3:  # cut
            data = data[: max(place, 1)]
        elif way == 4:  # a piece is taken out, or comes twice
            piece = data[place : place + rng.randint(1, 64)]
            data[place : place + len(piece)] = piece * rng.randint(3)
        elif way == 5:  # the rest of another file, from here on
            other = others[rng.randint(len(others))]
            data[place:] = other[min(place, len(other)) :]
        else:  # noise
            piece = rng.randint(0, 256, rng.randint(1, 32)).astype(np.uint8).tobytes()
            data[place : place + len(piece)] = piece
        data = data or bytearray(b"\0")
        end = min(end, len(data))
    return bytes(data)


def outcome(read, data):
    """Return "read", or the class of the error; anything else is not caught."""
    try:
        result = read(data)
    except Exception as error:
        return type(error).__name__
    if read is decode_image:
        pixels, shape = result.pixels, result.pixels.shape
        good = len(shape) == 3 and min(shape) > 0 and pixels.dtype.kind in "uif"
        good &= result.alpha is None or result.alpha.shape == shape[:2]
        good &= result.missing is None or result.missing.shape == shape
        if not good or result.frames < 1:
            raise SystemExit(f"not an image: {shape} {pixels.dtype} {result.frames}")
    return "read"


def work(connection, errors):
    """Read files until there are no more; in a process of its own."""
    sys.stderr.flush()
    os.dup2(os.open(errors, os.O_WRONLY | os.O_APPEND), 2)
    for data in whole_files().values():  # all that is imported late is imported now
        decode_image(data)
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    connection.send("ready")
    while (data := connection.recv()) is not None:
        connection.send([outcome(read, data) for read in (decode_image, image_facts)])


class Reader:
    """A process that reads one file after the other, and is started again when it dies."""

    def __init__(self, errors):
        self.errors = errors
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process is not None:
            self.process.kill()
            self.process.join()

    def read(self, data):
        """Return outcomes, or one word for what happened to the process."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.connection, other = context.Pipe()
            self.process = context.Process(target=work, args=(other, self.errors), daemon=True)
            self.process.start()
            other.close()
            assert self.connection.recv() == "ready"
        self.connection.send(data)
        try:
            if self.connection.poll(SECONDS):
                return self.connection.recv()
            result = "hangs"
        except EOFError:
            self.process.join()
            result = f"ends the process: {self.process.exitcode}"
        self.__exit__()
        self.process = None
        return result


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="measures as Linux does")
def test_damaged_files_are_read_or_are_errors():
    files, rng = whole_files(), np.random.RandomState(0)
    for name, data in files.items():
        assert outcome(decode_image, data) == outcome(image_facts, data) == "read", name
    others, names = list(files.values()), list(files)
    counts, bad = collections.Counter(), []
    with tempfile.NamedTemporaryFile("r") as errors, Reader(errors.name) as reader:
        start = time.monotonic()
        for number in range(NUM_FILES):
            name = names[number % len(names)]
            data = damaged(files[name], others, rng)
            result = reader.read(data)
            if isinstance(result, str) or "MemoryError" in result:
                bad.append((number, name, result))
                keep = os.environ.get("KEEP_DAMAGED_FILES")
                if keep:
                    with open(os.path.join(keep, f"{number}_{name}"), "wb") as file:
                        file.write(data)
            else:
                counts["read" if result[0] == "read" else "error"] += 1
                counts.update([f"  {result[0]}"] if result[0] != "read" else [])
        seconds = time.monotonic() - start
        said = [line for line in errors.read().splitlines() if not NOISE.search(line)]
    summary = f"{NUM_FILES} files in {seconds:.0f} s: {dict(counts)}, bad: {bad}"
    print(summary)
    assert not bad, summary
    assert counts["read"] > NUM_FILES / 20 and counts["error"] > NUM_FILES / 2, summary
    assert not said, f"{len(said)} lines, such as {said[:5]}"
