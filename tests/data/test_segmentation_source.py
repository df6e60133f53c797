"""Images with label maps: which masks are read, as which numbers, and which are refused."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from keras_mae.data import SkipLog, eval_dataset, finetune_dataset, load_source, open_parts
from keras_mae.data.dense_labels import LabelNumbers, decode_label_map, read_class_names

SIZE = {"image_size": 16, "batch_size": 4, "mean": (0.0,) * 3, "std": (1.0,) * 3}
LABELS = np.array([[0, 1, 2], [3, 0, 1]], "uint8")
# The colours of a palette are labels too, in another order: nothing but the numbers may be read.
PALETTE = [1, 1, 1, 2, 2, 2, 0, 0, 0, 3, 3, 3] + [9, 9, 9] * 252


@pytest.fixture
def save(tmp_path):
    """Function that saves images and masks by name; returns the spec."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()

    def save(masks, suffix=".png"):
        for number, (name, mask) in enumerate(masks.items()):
            path = tmp_path / "images" / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (12, 8) if mask is None else mask.size
            colour = (10 + number, 100, 200)
            Image.new("RGB", size, colour).save(path)
            if mask is not None:
                (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
                mask.save(tmp_path / "masks" / f"{name}.png")
        return f"segmentation:{tmp_path}/images,{tmp_path}/masks"

    return save


def grey(labels):
    return Image.fromarray(np.asarray(labels, "uint8"))


def bytes_of(image, tmp_path, **options):
    image.save(tmp_path / "one.png", **options)
    return (tmp_path / "one.png").read_bytes()


def kinds():
    indexed = grey(LABELS)
    indexed.putpalette(PALETTE)
    both = Image.merge("LA", [grey(LABELS), grey(np.full_like(LABELS, 255))])
    yield "grey", grey(LABELS), {}
    yield "16 bits", Image.fromarray(LABELS.astype("uint16")), {}
    yield "palette", indexed, {}
    yield "palette of 2 bits, transparent", indexed, {"bits": 2, "transparency": 0}
    yield "opaque alpha", both, {}


@pytest.mark.parametrize(
    ("image", "options"), [k[1:] for k in kinds()], ids=[k[0] for k in kinds()]
)
def test_every_kind_of_png_gives_its_stored_numbers(image, options, tmp_path):
    np.testing.assert_array_equal(decode_label_map(bytes_of(image, tmp_path, **options)), LABELS)


def test_one_bit_is_0_and_1(tmp_path):
    data = bytes_of(Image.fromarray(LABELS > 0), tmp_path)
    np.testing.assert_array_equal(decode_label_map(data), LABELS > 0)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_not_stretched(bits):
    """Written by hand: Pillow writes no grey of 2 and 4 bits."""
    import struct
    import zlib

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = [[0, 1, 0, 1], [1, 1, 0, 0]] if bits == 1 else [[0, 1, 2, 3], [3, 2, 1, 0]]
    packed = b""
    for row in rows:
        number = 0
        for value in row:
            number = number << bits | value
        padding = -4 * bits % 8
        packed += b"\0" + (number << padding).to_bytes((4 * bits + padding) // 8, "big")
    header = struct.pack(">IIBBBBB", 4, 2, bits, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    assert decode_label_map(data).tolist() == rows


def test_more_than_8_bits_keep_their_low_byte(tmp_path):
    labels = np.array([[0, 1, 255, 256, 65535]], "uint16")
    data = bytes_of(Image.fromarray(labels), tmp_path)
    np.testing.assert_array_equal(decode_label_map(data), labels)


@pytest.mark.parametrize(
    "mask",
    [
        Image.new("RGB", (12, 8), (1, 1, 1)),
        Image.new("RGBA", (12, 8)),
        Image.new("LA", (12, 8), (1, 0)),
        Image.new("L", (8, 12)),  # another size
        Image.fromarray(np.full((8, 12), 300, "uint16")),  # no class
    ],
)
def test_what_is_no_label_map_of_the_image_is_refused_by_name(mask, save, tmp_path):
    two = grey(np.arange(96).reshape(8, 12) % 2)
    spec = save({"good": two, "bad": mask, "other": two})
    Image.new("RGB", (12, 8)).save(tmp_path / "images/bad.png")
    with pytest.raises(ValueError, match="`dataset`.*bad.png"):
        load_source(spec)


def test_masks_of_one_class_are_refused(save):
    with pytest.raises(ValueError, match="`dataset`"):
        load_source(save({name: grey(np.full((8, 12), 5)) for name in "ab"}))


def test_a_jpeg_of_the_name_of_a_png_is_refused(save, tmp_path):
    spec = save({"a": grey(np.zeros((8, 12)))})
    grey(np.zeros((8, 12))).save(tmp_path / "masks/a.png", "JPEG")
    with pytest.raises(ValueError, match="`dataset`.*a.png.*JPEG"):
        load_source(spec)


def test_pairs_are_made_by_name_alone(save):
    sizes = {"scene2": 9, "scene10": 10, "x/scene1": 11}
    masks = {
        name: grey(np.arange(size * size).reshape(size, size) % 2) for name, size in sizes.items()
    }
    source = load_source(save(masks, ".jpg"), task="segment")
    assert source.files == ["scene10.jpg", "scene2.jpg", "x/scene1.jpg"]
    assert [source.target(record).shape[0] for record in range(3)] == [10, 9, 11]


def test_an_image_without_a_mask_is_named_and_a_spare_mask_is_told(save, tmp_path):
    two = grey(np.arange(96).reshape(8, 12) % 2)
    spec = save({"a": two, "b": two})
    two.save(tmp_path / "masks/spare.png")
    source = load_source(spec)
    assert source.num_examples == 2 and "spare.png" in source.notes[0]
    save({"heron": None})
    with pytest.raises(ValueError, match="`dataset`.*heron.*spare"):
        load_source(spec)
    two.convert("RGB").save(tmp_path / "masks/heron.jpg")
    with pytest.raises(ValueError, match="`dataset`.*no PNG: heron.jpg"):
        load_source(spec)


def test_two_images_for_one_mask_are_refused(save, tmp_path):
    spec = save({"a": grey(np.arange(96).reshape(8, 12) % 2)})
    Image.new("RGB", (12, 8)).save(tmp_path / "images/a.jpg")
    with pytest.raises(ValueError, match="`dataset`.*a.jpg, a.png"):
        load_source(spec)


def test_black_and_white_masks_are_refused_with_the_flag_that_helps(save):
    labels = np.zeros((8, 12))
    labels[2:5] = 255
    spec = save({"a": grey(labels), "b": grey(labels)})
    with pytest.raises(ValueError, match=r"`dataset`.*255.*--label_map=0:0,255:1"):
        load_source(spec)
    source = load_source(spec, task="segment", label_map="0:0,255:1")
    assert source.num_classes == 2
    np.testing.assert_array_equal(source.target(0), labels // 255)


def test_a_label_map_has_to_name_each_number(save):
    spec = save({"a": grey([[0, 7], [9, 255]])})
    source = load_source(spec, task="segment", label_map="0:1,7:0,9:4,255:255")
    assert source.target(0).tolist() == [[1, 0], [4, 255]] and source.num_classes == 5
    with pytest.raises(ValueError, match="`dataset`.*a.png.*label 9"):
        load_source(spec, label_map="0:0,7:1,255:255")


@pytest.mark.parametrize("text", ["", "0", "0:1,0:2", "a:1", "0:256", "-1:0", "65536:0", "0:1:2"])
def test_a_label_map_that_is_none_is_an_error(text):
    with pytest.raises(ValueError, match="`label_map`"):
        LabelNumbers(text)


def test_class_names_are_of_a_file_and_say_how_many_classes_there_are(save, tmp_path):
    spec = save({"a": grey([[0, 1], [2, 255]])})
    assert load_source(spec).class_names == ["0", "1", "2"]
    names = tmp_path / "names.txt"
    names.write_text("ground\nbird\nw\u00e4ter\nunused\n", encoding="utf-8")
    source = load_source(spec, class_names=str(names), task="segment")
    assert source.class_names == ["ground", "bird", "w\u00e4ter", "unused"]
    assert source.num_classes == 4
    names.write_text("ground\nbird\n")
    with pytest.raises(ValueError, match="`dataset`.*a.png.*label 2"):
        load_source(spec, class_names=str(names))


@pytest.mark.parametrize("text", ["", "a\n\nb", "a\nb\na", '{"a": 1}', "[1, 2]", "["])
def test_names_that_are_none_are_an_error(text, tmp_path):
    path = tmp_path / ("names.json" if text[:1] in "{[" and text else "names.txt")
    path.write_text(text)
    with pytest.raises(ValueError, match="`class_names`"):
        read_class_names(str(path))
    with pytest.raises(ValueError, match="`class_names`"):
        read_class_names(str(tmp_path / "missing.txt"))


def test_top_folders_are_splits_and_the_parts_have_the_classes_of_all(save):
    masks = {f"train/city{n % 2}/{n}": grey([[0, 1], [1, n % 3]]) for n in range(6)}
    masks |= {f"val/town/{n}": grey([[0, 1], [1, 0]]) for n in range(2)}
    parts = open_parts(save(masks), task="segment")
    assert (parts.train.num_examples, parts.heldout.num_examples) == (6, 2)
    assert parts.heldout.class_names == ["0", "1", "2"]


def test_a_data_set_to_validate_with_may_lack_a_class(save, tmp_path):
    one = save({f"one/{n}": grey([[0, 1], [2, 3]]) for n in range(3)})
    save({f"two/{n}": grey([[0, 1], [0, 2]]) for n in range(3)})
    images, masks = one.removeprefix("segmentation:").split(",")
    specs = [f"segmentation:{images}/{part},{masks}/{part}" for part in ("one", "two")]
    parts = open_parts(specs[0], validation_dataset=specs[1], task="segment")
    assert parts.heldout.num_classes == parts.train.num_classes == 4
    parts = open_parts(specs[1], validation_dataset=specs[0], task="segment")
    assert parts.heldout.class_names == parts.train.class_names == ["0", "1", "2", "3"]


def test_paths_may_have_commas(save, tmp_path):
    save({"a": grey([[0, 1]])})
    (tmp_path / "images").rename(tmp_path / "images, all")
    assert load_source(f"segmentation:{tmp_path}/images, all,{tmp_path}/masks").num_examples == 1


@pytest.mark.parametrize("argument", ["", "images", "images,masks"])
def test_folders_that_are_not_there_are_an_error(argument):
    with pytest.raises(ValueError, match="`dataset`"):
        load_source(f"segmentation:{argument}")


def test_a_broken_mask_is_skipped_by_name_with_its_image(save, tmp_path):
    two = grey(np.arange(96).reshape(8, 12) % 2)
    spec = save({name: two for name in "abcdef"})
    (tmp_path / "masks/c.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "images/e.png").write_bytes(b"broken")
    source, log = load_source(spec, task="segment"), SkipLog(max_bad_fraction=0.5)
    batches = list(eval_dataset(source, on_skip=log, **SIZE))
    assert [len(images) for images, _ in batches] == [4]
    assert sorted(path[-5:] for path in log.reasons) == ["c.png", "e.png"]
    log = SkipLog(max_bad_fraction=0.5)
    batches = finetune_dataset(source, num_classes=2, augmentation="none", on_skip=log, **SIZE)
    for images, labels in batches.take(3):
        assert images.shape == (4, 16, 16, 3)
        # 12 x 8 becomes 16 x 10.67: what is below is no image
        np.testing.assert_array_equal(labels[:, 11:], 255)
        assert set(np.unique(labels[:, :10])) == {0, 1}
    assert len(log.reasons) == 2


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_photograph_fits_its_mask_as_it_is_seen(turn, save, tmp_path):
    stored = np.zeros((48, 80, 3), "uint8")
    stored[4:20, 8:44] = 255
    exif = Image.Exif()
    exif[0x0112] = turn
    save({"a": grey([[0]])})
    path = tmp_path / "images/a.png"
    Image.fromarray(stored).save(path, exif=exif)
    with Image.open(path) as image:
        shown = np.asarray(ImageOps.exif_transpose(image))[..., 0] > 0
    grey(shown).save(tmp_path / "masks/a.png")
    source = load_source(f"segmentation:{tmp_path}/images,{tmp_path}/masks", task="segment")
    ((images, labels),) = eval_dataset(source, **{**SIZE, "image_size": shown.shape})
    np.testing.assert_array_equal(images[0, ..., 0] > 0.5, shown)
    np.testing.assert_array_equal(labels[0], shown)
    # A mask that is turned by an EXIF of its own is turned, too.
    Image.fromarray((stored[..., 0] > 0).astype("uint8")).save(tmp_path / "masks/a.png", exif=exif)
    np.testing.assert_array_equal(source.target(0), shown)


def test_it_is_pretrained_on_without_a_task(save):
    source = load_source(save({"a": grey([[0, 1]]), "b": grey([[1, 0]])}))
    assert source.num_classes is None and source.labels() is None
    for kwargs in ({}, {"task": "detect"}):
        with pytest.raises(ValueError, match="`with_labels`|`task`"):
            eval_dataset(source, **SIZE, **kwargs)
    ((images),) = eval_dataset(source, with_labels=False, **SIZE)
    assert images.shape == (2, 16, 16, 3)
