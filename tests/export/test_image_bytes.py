import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_mae.data import eval_dataset, load_source
from keras_mae.data.decode import read_with_pillow
from keras_mae.export.image_bytes import decode_image, pixels_of_bytes

pytestmark = pytest.mark.export


def photograph(height=61, width=47):
    return Image.fromarray(
        load_source("photos").photographs[0][100 : 100 + height, 200 : 200 + width]
    )


def file_of(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def rgba():
    pixels = np.asarray(photograph())
    return Image.fromarray(np.concatenate([pixels, pixels[..., :1]], axis=-1))


def deep_grey():
    grey = np.asarray(photograph().convert("L")).astype("uint16")
    return Image.fromarray(grey * 256 + 77)


FILES = {
    "JPEG": lambda: file_of(photograph(), "JPEG", quality=90),
    "JPEG 4:4:4": lambda: file_of(photograph(), "JPEG", subsampling=0),
    "JPEG progressive": lambda: file_of(photograph(), "JPEG", progressive=True),
    "JPEG grey": lambda: file_of(photograph().convert("L"), "JPEG"),
    "JPEG CMYK": lambda: file_of(photograph().convert("CMYK"), "JPEG"),
    "PNG": lambda: file_of(photograph(), "PNG"),
    "PNG grey": lambda: file_of(photograph().convert("L"), "PNG"),
    "PNG grey, alpha": lambda: file_of(photograph().convert("LA"), "PNG"),
    "PNG alpha": lambda: file_of(rgba(), "PNG"),
    "PNG palette": lambda: file_of(photograph().quantize(32), "PNG"),
    "PNG palette, transparent": lambda: file_of(photograph().quantize(32), "PNG", transparency=3),
    "PNG black and white": lambda: file_of(photograph().convert("1"), "PNG"),
    "PNG 16 bits": lambda: file_of(deep_grey(), "PNG"),
}


@pytest.fixture(scope="module", params=[1, 3])
def channels(request):
    return request.param


@pytest.fixture(scope="module")
def decode(channels):
    signature = [tf.TensorSpec((), tf.string)]
    return tf.function(lambda data: decode_image(data, channels), signature)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_files_are_decoded_as_pillow_decodes_them(name, decode, channels):
    data = FILES[name]()
    np.testing.assert_array_equal(decode(data), read_with_pillow(data, channels))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(24, 36), (61, 47), (80, 32)])
def test_pixels_are_those_of_the_evaluation_pipeline(tmp_path, size):
    files = {name: make() for name, make in FILES.items() if "16" not in name}
    for i, (name, data) in enumerate(files.items()):
        (tmp_path / f"{i:02d}.{name[:4].strip().lower()}").write_bytes(data)
    source = load_source(f"folder:{tmp_path}")
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "with_labels": False}
    wanted = np.concatenate(list(eval_dataset(source, image_size=size, batch_size=20, **plain)))
    got = pixels_of_bytes(tf.constant(list(files.values())), size, 3)
    assert len(got) == len(wanted) == len(files)
    np.testing.assert_allclose(got, 255 * wanted, atol=1e-3)


@pytest.mark.slow
def test_exif_rotation_is_ignored(decode):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = file_of(photograph(), "JPEG", exif=exif)
    assert decode(turned).shape[:2] == (61, 47) == read_with_pillow(turned).shape[1::-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "must be JPEG or PNG"),
        (b"\xff", "must be JPEG or PNG"),
        (b"not an image", "must be JPEG or PNG"),
        (file_of(photograph(), "GIF"), "must be JPEG or PNG"),
        (FILES["JPEG"]()[:700], "Invalid JPEG"),
        (FILES["PNG"]()[:700], "Invalid PNG"),
    ],
)
def test_a_broken_file_is_an_error_of_its_own(decode, data, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode(data)
    assert decode(FILES["PNG"]()).shape[:2] == (61, 47)


def test_no_files_give_no_images():
    assert pixels_of_bytes(tf.constant([], tf.string), (8, 12), 3).shape == (0, 8, 12, 3)
