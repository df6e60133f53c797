"""Average precision: that of pycocotools, to the last digit, and what it cannot do."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest

from keras_mae.evaluation import coco_metrics

pytest.importorskip("pycocotools")
KEYS = ("AP", "AP50", "AP75")


def by_pycocotools(truth, detections):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCO()
        judge.dataset = copy.deepcopy(truth)
        judge.createIndex()
        evaluation = COCOeval(judge, judge.loadRes(copy.deepcopy(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3].tolist()


def random_case(seed):
    """Random objects in images of which some are empty, some of them crowds; near and far boxes."""
    random = np.random.default_rng(seed)
    images = [{"id": int(n), "file_name": f"{n}.png", "width": 100, "height": 80} for n in range(9)]
    categories = [{"id": c, "name": str(c)} for c in (90, 3, 17, 44)]  # 44 has no objects
    annotations, detections = [], []
    for image in images[:6]:
        for _ in range(random.integers(0, 6)):
            box = [*random.uniform(0, 60, 2), *random.uniform(5, 40, 2)]
            box = [float(value) for value in box]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": int(random.choice([90, 3, 17])),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(random.random() < 0.2),
                }
            )
    for annotation in annotations:
        for _ in range(random.integers(0, 3)):
            box = (np.array(annotation["bbox"]) + random.normal(0, 2, 4)).clip(1).tolist()
            found = {"image_id": annotation["image_id"], "bbox": box}
            found |= {"category_id": annotation["category_id"], "score": float(random.random())}
            detections.append(found)
    for image in images:  # what is not there, in the empty ones, too
        box = [*random.uniform(0, 60, 2).tolist(), 10.0, 12.0]
        category = int(random.choice([90, 3, 44]))
        detections.append(
            {"image_id": image["id"], "category_id": category, "bbox": box, "score": 0.4}
        )
    truth = {"images": images, "annotations": annotations, "categories": categories}
    return truth, detections


@pytest.mark.parametrize("seed", range(8))
def test_it_is_pycocotools_to_the_last_digit(seed):
    truth, detections = random_case(seed)
    before = copy.deepcopy((truth, detections))
    found = coco_metrics(truth, detections)
    assert [found[key] for key in KEYS] == by_pycocotools(truth, detections)
    assert 0 < found["AP"] < 1 and (truth, detections) == before
    assert [row["id"] for row in found["classes"]] == [3, 17, 44, 90]
    values = [row["AP50"] for row in found["classes"]]
    assert values[2] is None
    known = [value for value in values if value is not None]
    assert np.mean(known) == pytest.approx(found["AP50"])


def test_each_class_has_the_value_that_it_has_alone():
    truth, detections = random_case(1)
    for row in coco_metrics(truth, detections)["classes"]:
        alone = {**truth, "categories": [{"id": row["id"], "name": "a"}]}
        expected = by_pycocotools(alone, detections)
        for key, value in zip(KEYS, expected, strict=True):
            assert row[key] is None if value < 0 else row[key] == pytest.approx(value, abs=1e-12)


def one_image(count, first_id):
    boxes = [[4 + 50 * i, 6, 40, 30] for i in range(count)]
    truth = {
        "images": [{"id": 9, "file_name": "a.png", "width": 320, "height": 64}],
        "categories": [{"id": 7, "name": "kind"}],
        "annotations": [
            {"id": first_id, "image_id": 9, "category_id": 7, "bbox": box} for box in boxes
        ],
    }
    for number, annotation in enumerate(truth["annotations"]):
        annotation["id"] += number
    found = [{"image_id": 9, "category_id": 7, "bbox": box, "score": 0.5} for box in boxes]
    return truth, found


@pytest.mark.parametrize("count", [1, 2, 5])
def test_ids_only_name_annotations(count):
    for first in (0, 1):
        assert coco_metrics(*one_image(count, first))["AP"] == pytest.approx(1)
    truth, found = one_image(count, 3)
    for annotation in truth["annotations"]:
        annotation["id"] = 3
    assert coco_metrics(truth, found)["AP"] == pytest.approx(1)


def test_nothing_found_is_worth_nothing():
    truth, _ = one_image(2, 1)
    truth["categories"].append({"id": 2, "name": "nowhere"})
    found = coco_metrics(truth, [])
    assert [found[key] for key in KEYS] == [0.0] * 3
    assert [row["AP"] for row in found["classes"]] == [None, 0.0]


def test_without_objects_there_is_no_value():
    truth, found = one_image(1, 1)
    truth["annotations"] = []
    assert coco_metrics(truth, found)["AP"] is None


def test_files_are_read(tmp_path):
    truth, found = one_image(2, 1)
    (tmp_path / "heldout.json").write_text(json.dumps(truth))
    (tmp_path / "detections.json").write_text(json.dumps(found[:1]))
    value = coco_metrics(tmp_path / "heldout.json", str(tmp_path / "detections.json"))["AP"]
    assert value == coco_metrics(truth, found[:1])["AP"] == pytest.approx(51 / 101)


def test_it_prints_nothing(capsys):
    coco_metrics(*one_image(1, 1))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("argument", "truth", "found"),
    [
        ("annotations", {}, []),
        ("annotations", [], []),
        ("annotations", "missing.json", []),
        ("annotations", {"annotations": [{"id": 1, "image_id": 9, "category_id": 7}]}, []),
        ("detections", {}, [{"image_id": 9, "category_id": 7, "bbox": [1, 2, 3], "score": 1}]),
        ("detections", {}, [{"image_id": 9, "category_id": 7, "bbox": [1, 2, 3, 4]}]),
        ("detections", {}, [{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 1}]),
        ("detections", {}, [{"image_id": 9, "bbox": [1, 2, 3, 4], "score": 1}]),
        (
            "detections",
            {},
            [{"image_id": 9, "category_id": 7, "bbox": [1, 2, float("nan"), 4], "score": 1}],
        ),
    ],
)
def test_what_is_not_of_the_format_is_an_error(argument, truth, found):
    if argument == "detections" or "annotations" in truth and isinstance(truth, dict):
        truth = {**one_image(1, 1)[0], **truth}
    with pytest.raises(ValueError, match=f"`{argument}`"):
        coco_metrics(truth, found)
