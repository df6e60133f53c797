"""Small images, made on the spot, for the tests of the data room."""

import numpy as np
import pytest
from PIL import Image

from keras_mae.data.sources import load_source


def picture(height=60, width=80, seed=0):
    """A smooth random RGB picture: like a photograph, JPEG keeps it nearly as it is."""
    rng = np.random.RandomState(seed)
    small = Image.fromarray(rng.randint(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(name="picture")
def picture_fixture():
    return picture


@pytest.fixture
def make_folder(tmp_path):
    """Function that makes a folder of `count` JPEGs of different pictures; returns its path."""

    def make(count, broken=0):
        for number in range(count):
            picture(seed=number).save(tmp_path / f"{number:03d}.jpg", quality=90)
        for number in range(broken):
            (tmp_path / f"broken{number:03d}.jpg").write_bytes(b"\xff\xd8\xff nothing")
        return tmp_path

    return make


@pytest.fixture
def make_classes(tmp_path):
    """Function that makes a folder of PNGs, `counts[c]` of class c; returns its path."""

    def make(*counts):
        folder = tmp_path / "classes"
        for label, count in enumerate(counts):
            (folder / f"class{label}").mkdir(parents=True)
            for number in range(count):
                image = picture(20, 24, seed=100 * label + number)
                image.save(folder / f"class{label}/{number:02d}.png")
        return folder

    return make


@pytest.fixture(scope="session")
def mnist():
    return load_source("mnist5k")
