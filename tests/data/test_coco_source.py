"""COCO's format: boxes, masks in three encodings, crowds, and files that are wrong."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

from keras_mae.data import SkipLog, eval_dataset, finetune_dataset, load_source
from keras_mae.data.dense_masks import check_mask, decode_mask

SIZE = {"image_size": 32, "batch_size": 4, "mean": (0.0,) * 3, "std": (1.0,) * 3}
SQUARE = [[2, 3, 12, 3, 12, 9, 2, 9]]  # of 10 x 6 pixels
TRUTH = {
    "images": [
        {"id": 70, "file_name": "b.png", "width": 32, "height": 20},
        {"id": 7, "file_name": "sub/a.png", "width": 32, "height": 20},
        {"id": 8, "file_name": "empty.png", "width": 32, "height": 20},
    ],
    "categories": [{"id": 90, "name": "step"}, {"id": 7, "name": "corner"}],
    "annotations": [
        {"id": 0, "image_id": 7, "category_id": 90, "bbox": [2, 3, 10, 6], "segmentation": SQUARE},
        {
            "id": 5,
            "image_id": 70,
            "category_id": 7,
            "bbox": [20, 10, 20, 20],
            "segmentation": [[20, 10, 40, 10, 40, 30, 20, 30]],
            "iscrowd": 0,
        },
    ],
}


@pytest.fixture
def make(tmp_path):
    """Function that writes a file of annotations and its images; returns the spec."""

    def make(truth=TRUTH, broken=()):
        for image in truth["images"]:
            path = tmp_path / "images" / image["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 20), (0, 0, 200)).save(path)
            if image["file_name"] in broken:
                path.write_bytes(b"broken")
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        return f"coco:{tmp_path}/truth.json,{tmp_path}/images"

    return make


def changed(**annotation):
    """The truth with the first annotation changed."""
    truth = copy.deepcopy(TRUTH)
    truth["annotations"][0].update(annotation)
    return truth


def test_classes_are_the_categories_in_the_order_of_their_ids(make):
    source = load_source(make(), task="detect")
    assert source.class_names == ["corner", "step"] and source.category_ids == [7, 90]
    boxes, classes, is_crowd = source.target(1)
    assert boxes.tolist() == [[2, 3, 12, 9]] and classes.tolist() == [1] and not is_crowd.any()
    assert boxes.dtype == np.float32 and classes.dtype == np.int64
    # Cut at the border of an image of 32 x 20.
    assert source.target(0).boxes.tolist() == [[20, 10, 32, 20]]
    assert source.target(2).boxes.shape == (0, 4)
    assert any("1 boxes reach beyond" in note for note in source.notes)
    segment = source.for_task("segment")
    assert segment.class_names == ["background", "corner", "step"]


def test_a_small_part_says_what_it_cannot_tell(make):
    source = load_source(make(), task="detect").subset([0])
    assert source.split_note == "1 held-out image: their average precision is a rough guess"


@pytest.mark.slow
def test_batches_have_boxes_in_their_own_pixels(make):
    source = load_source(make(), task="detect")
    ((images, labels),) = eval_dataset(source, **SIZE)
    assert images.shape == (3, 32, 32, 3) and labels["boxes"].shape == (3, 1, 4)
    np.testing.assert_allclose(labels["boxes"][:, 0], [[20, 10, 32, 20], [2, 3, 12, 9], [-1] * 4])
    assert labels["classes"].numpy().tolist() == [[0], [1], [-1]]
    ((_, labels),) = eval_dataset(source, **{**SIZE, "image_size": (64, 64)})
    np.testing.assert_allclose(labels["boxes"][1, 0], [4, 6, 24, 18])


def test_crowds_and_boxes_without_area_are_no_targets(make):
    truth = changed(iscrowd=1)
    more = [[5, 5, 0, 7], [5, 5, 7, 0], [40, 5, 9, 9], [-9, -9, 9, 9], [0, 0, 4, 5]]
    for number, box in enumerate(more):
        truth["annotations"].append(
            {"id": 10 + number, "image_id": 7, "category_id": 7, "bbox": box}
        )
    source = load_source(make(truth), task="detect")
    boxes, _, is_crowd = source.target(1)
    assert boxes.tolist() == [[2, 3, 12, 9], [0, 0, 4, 5]] and is_crowd.tolist() == [True, False]
    ((_, labels),) = eval_dataset(source, **SIZE)
    assert labels["boxes"].numpy()[1].tolist() == [[0, 0, 4, 5]]
    assert any("4 boxes have no area" in note for note in source.notes)
    assert len(source.truth()["annotations"]) == 7  # all of them


def test_an_image_without_objects_is_trained_on(make):
    source = load_source(make(), task="detect").subset([2])
    batches = finetune_dataset(source, num_classes=2, **{**SIZE, "batch_size": 1})
    for images, labels in batches.take(2):
        assert images.shape == (1, 32, 32, 3)
        assert (labels["boxes"].numpy() == -1).all() and (labels["classes"].numpy() == -1).all()


def test_the_three_encodings_are_the_same_mask():
    coco_mask = pytest.importorskip("pycocotools.mask")
    height, width = 23, 31
    polygon = [[4.0, 4, 24, 4, 24, 14, 14, 20.5], [1, 18, 6, 18, 6, 22]]
    packed = coco_mask.merge(coco_mask.frPyObjects(polygon, height, width))
    expected = coco_mask.decode(packed).astype(bool)
    flat = expected.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.r_[0, edges, flat.size]).tolist()
    size = [height, width]
    for mask in (
        polygon,
        {"size": size, "counts": runs},
        {"size": size, "counts": packed["counts"].decode()},
        {"size": size, "counts": packed["counts"]},
    ):
        check_mask(mask, height, width)
        np.testing.assert_array_equal(decode_mask(mask, height, width), expected)


def test_strings_of_any_mask_are_decoded_as_by_pycocotools():
    coco_mask = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(0)
    for share in (0.0, 0.01, 0.5, 0.99, 1.0):
        expected = random.random((300, 211)) < share
        packed = coco_mask.encode(np.asfortranarray(expected.astype("uint8")))
        packed["counts"] = packed["counts"].decode()
        np.testing.assert_array_equal(decode_mask(packed, 300, 211), expected)


@pytest.mark.parametrize("counts", ["0" * 200, "\x01", "o" * 30, "`", [3, 4], [-1, 121], [121]])
def test_run_lengths_of_another_number_of_pixels_are_an_error(counts):
    with pytest.raises(ValueError):
        decode_mask({"size": [10, 12], "counts": counts}, 10, 12)


def test_a_label_map_has_background_crowds_and_small_over_large(make):
    pytest.importorskip("pycocotools")
    truth = copy.deepcopy(TRUTH)

    def add(box, category, iscrowd=0):
        x, y, w, h = box
        mask = np.zeros((20, 32), int)
        mask[y : y + h, x : x + w] = 1
        flat = mask.ravel(order="F")
        edges = np.flatnonzero(np.diff(flat)) + 1
        runs = np.diff(np.r_[0, edges, flat.size]).tolist()
        truth["annotations"].append(
            {
                "id": 9,
                "image_id": 8,
                "category_id": category,
                "bbox": box,
                "iscrowd": iscrowd,
                "segmentation": {"size": [20, 32], "counts": runs},
            }
        )

    add([4, 4, 3, 3], 90)  # small, first in the file
    add([2, 2, 10, 10], 7)  # large, around it
    add([8, 8, 20, 10], 90, iscrowd=1)  # under the large one
    source = load_source(make(truth), task="segment")
    expected = np.zeros((20, 32), int)
    expected[8:18, 8:28] = 255
    expected[2:12, 2:12] = 1
    expected[4:7, 4:7] = 2
    np.testing.assert_array_equal(source.target(2), expected)
    expected[:] = 0
    expected[3:9, 2:12] = 2
    np.testing.assert_array_equal(source.target(1), expected)
    ((_, labels),) = eval_dataset(source, **SIZE)
    np.testing.assert_array_equal(labels[1, :20], expected)


@pytest.mark.parametrize(
    ("field", "truth"),
    [
        (r"annotations\[0\].*bbox", changed(bbox=[1, 2, 3])),
        (r"annotations\[0\].*bbox", changed(bbox=[1, 2, -3, 4])),
        (r"annotations\[0\].*bbox", changed(bbox=[1, 2, float("nan"), 4])),
        (r"annotations\[0\].*bbox", changed(bbox=None)),
        (r"annotations\[0\].*category_id", changed(category_id=8)),
        (r"annotations\[0\].*image_id", changed(image_id=None)),
        (r"annotations\[0\].*iscrowd", changed(iscrowd="no")),
        ("categories", {**TRUTH, "categories": []}),
        ("categories", {**TRUTH, "categories": [{"id": 7, "name": "a"}, {"id": 7, "name": "b"}]}),
        (r"categories\[0\].name", {**TRUTH, "categories": [{"id": 7}, {"id": 90, "name": "b"}]}),
        ("images", {**TRUTH, "images": TRUTH["images"][:1] * 2}),
        (r"images\[0\].file_name", {**TRUTH, "images": [{"id": 1, "width": 3, "height": 2}]}),
        (r"images\[0\].width", {**TRUTH, "images": [{"id": 1, "file_name": "b.png", "height": 2}]}),
        ("annotations", {**TRUTH, "annotations": None}),
    ],
)
def test_a_wrong_file_is_refused_by_file_and_field(field, truth, make, tmp_path):
    spec = make()
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=f"`dataset`.*{field}.*truth.json"):
        load_source(spec)


@pytest.mark.parametrize(
    "mask",
    [
        [],
        None,
        [[1, 2, 3]],
        [["a", "b"]],
        "string",
        {"size": [32, 20], "counts": [640]},
        {"size": [20, 32]},
    ],
)
def test_a_wrong_mask_is_refused_before_a_segmentation_and_only_there(mask, make):
    spec = make(changed(segmentation=mask))
    load_source(spec, task="detect")
    with pytest.raises(ValueError, match="`dataset`.*segmentation.*truth.json"):
        load_source(spec, task="segment")


def test_sizes_are_those_of_the_images(make):
    truth = copy.deepcopy(TRUTH)
    truth["images"][0]["width"] = 33
    with pytest.raises(ValueError, match="`dataset`.*b.png.*truth.json"):
        load_source(make(truth))


def test_an_image_of_another_size_is_skipped_by_name_where_sizes_were_not_looked_at(
    make, monkeypatch
):
    monkeypatch.setattr("keras_mae.data.sources.coco.CHECKED", 1)
    truth = copy.deepcopy(TRUTH)
    truth["images"][1]["width"] = 33
    source, log = load_source(make(truth), task="detect"), SkipLog(max_bad_fraction=0.5)
    ((images, _),) = eval_dataset(source, on_skip=log, **SIZE)
    assert len(images) == 2 and "33 x 20" in next(iter(log.reasons.values()))


def test_missing_images_are_named(make, tmp_path):
    spec = make()
    (tmp_path / "images/sub/a.png").unlink()
    with pytest.raises(ValueError, match="`dataset`.*sub/a.png"):
        load_source(spec)


def test_a_broken_image_is_skipped_with_its_boxes(make):
    source, log = load_source(make(broken=("b.png",)), task="detect"), SkipLog(max_bad_fraction=0.5)
    ((_, labels),) = eval_dataset(source, on_skip=log, **SIZE)
    assert labels["classes"].numpy().tolist() == [[1], [-1]] and len(log.reasons) == 1
    ((_, labels, weights),) = eval_dataset(source, with_weights=True, on_skip=log, **SIZE)
    assert weights.numpy().tolist() == [0, 1, 1, 0]
    assert labels["classes"].numpy().tolist() == [[-1], [1], [-1], [-1]]


def test_names_that_come_twice_are_told_apart(make):
    truth = copy.deepcopy(TRUTH)
    truth["categories"] = [{"id": 90, "name": "a"}, {"id": 7, "name": "a"}, {"id": 9, "name": "b"}]
    assert load_source(make(truth)).class_names == ["a (7)", "b", "a (90)"]


def test_the_truth_is_that_of_the_part_with_ids_that_evaluators_take(make):
    source = load_source(make(), task="detect").subset([1, 2])
    truth = source.truth()
    assert [image["id"] for image in truth["images"]] == [7, 8]
    (annotation,) = truth["annotations"]
    assert annotation["id"] == 1 and annotation["area"] == 60 and annotation["iscrowd"] == 0
    assert annotation["bbox"] == [2, 3, 10, 6] and len(truth["categories"]) == 2
    json.dumps(truth)
    whole = load_source(make(changed(id=3)), task="detect").truth()
    assert sorted(a["id"] for a in whole["annotations"]) == [3, 5]  # the file's own


@pytest.mark.parametrize("argument", ["", "truth.json", "truth.json,images"])
def test_a_file_that_is_not_there_is_an_error(argument):
    with pytest.raises(ValueError, match="`dataset`"):
        load_source(f"coco:{argument}")
