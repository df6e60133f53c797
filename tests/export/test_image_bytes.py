import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pillow_oracle import read_with_pillow

from keras_mae.data import eval_dataset, load_source
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


def with_alpha(mode="RGBA"):
    """Return a photograph that is transparent where it is dark, of a mode with alpha."""
    image = photograph().convert(mode)
    image.putalpha(photograph().convert("L"))
    return image


def one_colour_transparent(mode):
    image = photograph().quantize(8).convert(mode)  # few colours: some pixels have that one
    return file_of(image, "PNG", transparency=image.getpixel((20, 30)))


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
    "PNG palette": lambda: file_of(photograph().quantize(32), "PNG"),
    "PNG palette of 4 bits": lambda: file_of(photograph().quantize(8), "PNG"),
    "PNG palette of 2 bits": lambda: file_of(photograph().quantize(4), "PNG"),
    "PNG palette of 1 bit": lambda: file_of(photograph().quantize(2), "PNG"),
    "PNG black and white": lambda: file_of(photograph().convert("1"), "PNG"),
    "PNG 16 bits": lambda: file_of(deep_grey(), "PNG"),
}
TRANSPARENT = {
    "grey, alpha": lambda: file_of(with_alpha("LA"), "PNG"),
    "alpha": lambda: file_of(with_alpha(), "PNG"),
    "palette": lambda: file_of(photograph().quantize(8), "PNG", transparency=3),
    "palette, by degrees": lambda: file_of(
        photograph().quantize(8), "PNG", transparency=bytes(range(0, 256, 32))
    ),
    "one colour": lambda: one_colour_transparent("RGB"),
    "black, of 1 bit": lambda: file_of(photograph().convert("1"), "PNG", transparency=0),
    "palette of 1 bit": lambda: file_of(photograph().quantize(2), "PNG", transparency=0),
    "one grey": lambda: one_colour_transparent("L"),
}
BACKGROUNDS = {1: (33.25,), 3: (123.675, 116.28, 103.53)}


@pytest.fixture(scope="module", params=[1, 3])
def channels(request):
    return request.param


@pytest.fixture(scope="module")
def decode(channels):
    signature = [tf.TensorSpec((), tf.string)]
    return tf.function(lambda data: decode_image(data, BACKGROUNDS[channels]), signature)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_files_are_decoded_as_pillow_decodes_them(name, decode, channels):
    data = FILES[name]()
    np.testing.assert_array_equal(decode(data), read_with_pillow(data, channels))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_is_laid_on_the_background(name, decode, channels):
    data = TRANSPARENT[name]()
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    alpha = np.asarray(image)[..., 3:] / 255
    assert alpha.min() < 0.2 and alpha.max() > 0.8
    colours = np.asarray(image.convert("RGB").convert("L" if channels == 1 else "RGB"))
    colours = colours.reshape(*colours.shape[:2], channels)
    wanted = alpha * colours + (1 - alpha) * np.array(BACKGROUNDS[channels])
    np.testing.assert_allclose(decode(data), wanted, atol=1e-4)


def test_one_pixel_by_hand():
    """A fifth of (200, 40, 90) on four fifths of (100, 0, 50)."""
    pixel = Image.fromarray(np.array([[[200, 40, 90, 51]]], "uint8"))
    got = decode_image(tf.constant(file_of(pixel, "PNG")), (100.0, 0.0, 50.0))
    # 40 + 80, 8 + 0, 18 + 40
    np.testing.assert_allclose(got, [[[120, 8, 58]]], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(24, 36), (61, 47), (80, 32)])
def test_pixels_are_those_of_the_evaluation_pipeline(tmp_path, size):
    files = {name: make() for name, make in FILES.items() if "16" not in name}
    for i, (name, data) in enumerate(files.items()):
        (tmp_path / f"{i:02d}.{name[:4].strip().lower()}").write_bytes(data)
    source = load_source(f"folder:{tmp_path}")
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "with_labels": False}
    wanted = np.concatenate(list(eval_dataset(source, image_size=size, batch_size=20, **plain)))
    got = pixels_of_bytes(tf.constant(list(files.values())), size, BACKGROUNDS[3])
    assert len(got) == len(wanted) == len(files)
    difference = np.abs(np.asarray(got) - 255 * wanted)
    # Pillow's coefficients are whole numbers: now and then a value is rounded otherwise, twice.
    assert difference.max() < 2.001 and (difference > 0.001).mean() < 0.01


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
    none = tf.constant([], tf.string)
    assert pixels_of_bytes(none, (8, 12), BACKGROUNDS[3]).shape == (0, 8, 12, 3)
