"""Exports of detectors: boxes after non-maximum suppression, and how a choice is judged."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from shaken import card_of, digits, encoder, normalised, shake
from test_exports_of_sensors import FORMATS, QUICK, run

from keras_mae import ViTDetector, ViTSegmenter
from keras_mae.export import ExportError, export_encoder
from keras_mae.export.compare import CANDIDATES, CHOSEN, Suppression, compare_detections
from keras_mae.export.plain import function_of_weights, plain_function
from keras_mae.layers import boxes as box_math
from keras_mae.models.weights import get_weights

pytestmark = pytest.mark.export
NAMES = ["paper", "ink", "edge"]
PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def detector(least_score=0.01, **changes):
    own = {"class_names": NAMES, "max_detections": 10, "least_score": least_score}
    model = shake(ViTDetector(encoder(**changes), 3, filters=8, **own))
    last = model.class_head.last.kernel
    last.assign(5 * last)  # scores far from one another
    return model


# An image of 40 x 40 pixels. Of the first class two boxes that overlap by 81 / 100, and one far
# away; of the second one box, on the first.
RULE = Suppression(0.1, 0.5, 3, 100)
BOXES = np.array([[0, 0, 10, 10], [0, 0, 10, 8.1], [20, 20, 40, 40]], "float32")
SCORES = np.array([[0.9, 0.3], [0.8, 0.05], [0.2, 0.05]], "float32")
SCALE = np.sqrt(np.mean(BOXES.astype("float64") ** 2))


def chosen(*picks, boxes=BOXES, scores=SCORES, most=3):
    """Return the outputs of a file that chooses (anchor, class), and the model's own."""
    count = most - len(picks)
    rows = [boxes[anchor] for anchor, _ in picks] + [np.full(4, -1)] * count
    outputs = {
        "boxes": np.array([rows], "float32"),
        "classes": np.array([[label for _, label in picks] + [-1] * count], "int32"),
        "scores": np.array([[scores[pick] for pick in picks] + [0] * count], "float32"),
        "candidate_boxes": boxes[None],
        "candidate_scores": scores[None],
    }
    return outputs


RIGHT = (0, 0), (0, 1), (2, 0)


def changes(outputs, rule=RULE):
    found = compare_detections(outputs, chosen(*RIGHT), rule)
    return [found[name]["difference"] for name in CHOSEN]


def test_the_right_choice_needs_no_change():
    assert changes(chosen(*RIGHT)) == [0, 0, 0]
    assert changes(chosen((0, 0), (0, 1), most=3), RULE._replace(least_score=0.25)) == [0, 0, 0]
    # Of the greatest two scores the second is overlapped by the first.
    assert changes(chosen((0, 0)), RULE._replace(num_candidates=2)) == [0, 0, 0]
    two = RULE._replace(max_detections=2)
    wanted = chosen((0, 0), (0, 1), most=2)
    assert compare_detections(wanted, wanted, two)["classes"]["difference"] == 0


@pytest.mark.parametrize(
    "picks,change",
    [
        # Left out: one score must fall by .2 to the least one, or the box ...
        (((0, 0), (0, 1)), 0.1),
        # The other class's box does not stand for it.
        (((0, 0), (2, 0)), 0.2),
        # One more: the two overlap by .81, .31 too much, and the smaller side is 8.1.
        (((0, 0), (1, 0), (0, 1)), 0.31 * 8.1 / SCALE),
        # The worse one of the two: scores differ by .1.
        (((1, 0), (0, 1), (2, 0)), 0.1),
        # Its score is under the least.
        (((0, 0), (0, 1), (2, 1)), 0.1),
    ],
)
def test_a_wrong_choice_needs_the_change_that_would_make_it_right(picks, change):
    assert changes(chosen(*picks))[1] == pytest.approx(change, rel=1e-5)


def test_near_ties_may_be_decided_either_way():
    scores = SCORES.copy()
    scores[1, 0] = scores[0, 0] - 1e-6
    outputs = chosen((1, 0), (0, 1), (2, 0), scores=scores)
    assert changes(outputs)[1] == pytest.approx(1e-6, rel=0.1)
    # An overlap of a millionth more than the rule allows, left in.
    nearly = RULE._replace(largest_overlap=0.81 - 1e-6)
    picks = (0, 0), (1, 0), (0, 1)
    assert 0 < changes(chosen(*picks), nearly._replace(least_score=0.25))[1] < 1e-5


def test_values_that_are_no_candidates_are_seen():
    outputs = chosen(*RIGHT)
    outputs["boxes"][0, 1, 2] += 0.5
    assert changes(outputs)[0] == pytest.approx(0.5 / SCALE)
    outputs = chosen(*RIGHT)
    outputs["scores"][0, 2] -= 0.01
    assert changes(outputs)[2] == pytest.approx(0.01, rel=1e-5)
    swapped = chosen((0, 1), (0, 0), (2, 0))
    assert changes(swapped)[2] == pytest.approx(0.6, rel=1e-5)  # not the best first


def test_what_nothing_explains_is_nan():
    for name, place, value in (
        ("classes", (0, 0), 7),
        ("classes", (0, 0), -1),
        ("boxes", (0, 2), [1, 1, 1, 1]),
        ("scores", (0, 2), 0.1),
        ("boxes", (0, 0), np.nan),
    ):
        outputs = chosen((0, 0), (0, 1))
        outputs[name][place] = value
        assert np.isnan(changes(outputs)).all(), name
    assert np.isnan(changes(chosen((0, 0), (0, 0), (2, 0)))).all()  # one box, twice
    other = chosen(*RIGHT)
    other["classes"] = other["classes"].astype("int64")
    assert np.isnan(changes(other)).all()


def suppressed(seed, **rule):
    """Return random candidates, and what `best_boxes` chooses of them."""
    draw = np.random.default_rng(seed)
    corner, sides = draw.uniform(0, 50, (2, 200, 2)), draw.uniform(2, 40, (2, 200, 2))
    boxes = np.concatenate([corner, corner + sides], axis=-1).astype("float32")
    scores = draw.uniform(0, 1, (2, 200, 4)).astype("float32") ** 4
    found = box_math.best_boxes(boxes, scores, **rule)
    found = {name: np.asarray(value) for name, value in found.items()}
    return {**found, "candidate_boxes": boxes, "candidate_scores": scores}


@pytest.mark.parametrize("seed,most,candidates", [(0, 20, 80), (1, 100, 400), (2, 200, 1600)])
def test_the_models_own_choice_is_right_and_no_other_rules(seed, most, candidates):
    rule = Suppression(0.05, 0.5, most, candidates)
    outputs = suppressed(seed, **rule._asdict())
    found = compare_detections(outputs, outputs, rule)
    assert max(one["difference"] for one in found.values()) < 1e-6
    for other in ({"largest_overlap": 0.3}, {"largest_overlap": 0.7}, {"least_score": 0.3}):
        others = suppressed(seed, **rule._replace(**other)._asdict())
        found = compare_detections(others, others, rule)
        is_same = np.array_equal(others["boxes"], outputs["boxes"])
        assert (found["classes"]["difference"] > 1e-3) != is_same, other


def test_suppression_in_numpy_as_the_page_has_it():
    """docs/export.md shows the function, for files or runtimes of other thresholds."""
    code = re.search(r"```python\n(def suppress.*?)```", PAGE.read_text(), re.DOTALL)[1]
    scope = {"np": np}
    exec(code, scope)
    rule = Suppression(0.05, 0.5, 30, 120)
    outputs = suppressed(0, **rule._asdict())
    for i in range(2):
        boxes, classes, scores = scope["suppress"](
            *(outputs[name][i] for name in CANDIDATES), 0.05, 0.5, 30, 120
        )
        real = outputs["classes"][i] >= 0
        np.testing.assert_array_equal(boxes, outputs["boxes"][i][real])
        np.testing.assert_array_equal(classes, outputs["classes"][i][real])
        np.testing.assert_array_equal(scores, outputs["scores"][i][real])


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"patch_size": 14}, {"num_class_tokens": 2, "norm_epsilon": 1e-3}]
)
def test_the_plain_forward_pass_is_the_models(changes):
    model = detector(**changes)
    images = digits(3)
    wanted = model.outputs_of_tokens(model.encoder(normalised(model.encoder, images)))
    found = plain_function(model)(images.astype("float32"))
    assert set(found) == {*CHOSEN, *CANDIDATES}
    for name in CANDIDATES:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-4)
    outputs = {name: np.asarray(value) for name, value in found.items()}
    judged = compare_detections(outputs, outputs, Suppression(**model.suppression))
    assert max(one["difference"] for one in judged.values()) < 1e-6
    assert (outputs["classes"] >= 0).any()


@pytest.mark.slow
def test_heads_that_levels_share_are_written_once():
    model = detector()
    _, weights = function_of_weights(model)
    named = get_weights(model)
    shared = [name for name in named if name.startswith(("class_head", "box_head"))]
    kernels = [value for value in weights.values() if value.ndim == 4]
    assert sum(name.endswith("kernel") for name in shared) == 6
    for name in shared:
        assert sum(np.array_equal(named[name], kernel) for kernel in kernels) <= 1
    assert sum(value.size for value in weights.values()) < 1.05 * sum(
        value.size for value in named.values()
    )


@pytest.mark.slow
def test_a_pyramids_norm_has_its_own_epsilon():
    model = shake(ViTSegmenter(encoder(norm_epsilon=1e-3), 3, head="pyramid", filters=8))
    images = digits(1)
    logits = np.asarray(model(normalised(model.encoder, images)))
    found = plain_function(model)(images.astype("float32"))["logits"]
    np.testing.assert_allclose(found, logits, atol=1e-5 * max(1, np.abs(logits).max()))


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_boxes_of_every_format(format, tmp_path):
    packages, signature, bound = FORMATS[format]
    for package in packages:
        pytest.importorskip(package)
    model = detector()
    # In a new process, where keras cannot be imported.
    path = export_encoder(model, tmp_path / "out", format, num_check_images=3)
    images = digits(3, seed=1)
    got = run(format, path, images)
    if format == "saved_model":
        import tensorflow as tf

        served = tf.saved_model.load(path).signatures["serving_candidates"]
        assert set(got) == set(CHOSEN)
        got |= {k: v.numpy() for k, v in served(images=images.astype("float32")).items()}
    wanted = model.outputs_of_tokens(model.encoder(normalised(model.encoder, images)))
    wanted = {name: np.asarray(value) for name, value in wanted.items()}
    for name in CANDIDATES:
        scale = max(1, np.abs(wanted[name]).max())
        np.testing.assert_allclose(got[name], wanted[name], atol=bound * scale)
    judged = compare_detections(got, wanted, Suppression(**model.suppression))
    assert max(one["difference"] for one in judged.values()) < bound
    card = card_of(path)
    assert (card["kind"], card["task"]) == ("detector", "detection")
    assert card["class_names"] == NAMES and card["suppression"] == model.suppression
    assert card["check"]["num_boxes"] > 3 and not card["check"]["keras_imported"]
    batch, outputs = 1 if format == "litert" else None, card["signatures"][signature]["outputs"]
    assert {name: outputs[name] for name in CHOSEN} == {
        "boxes": ["float32", [batch, 10, 4]],
        "classes": ["int32", [batch, 10]],
        "scores": ["float32", [batch, 10]],
    }
    if format == "saved_model":
        assert json.loads((path / "class_names.json").read_text()) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize(
    "format,options",
    [
        ("litert", {"quantize": "float16"}),
        ("litert", {"quantize": "int8", "representative": "mnist5k"}),
        ("onnx", {"quantize": "dynamic_int8"}),
        ("onnx", {"fuse": True}),
    ],
)
def test_what_8_bits_may_hold(format, options, tmp_path):
    for package in FORMATS[format][0]:
        pytest.importorskip(package)
    path = export_encoder(detector(), tmp_path / "out", format, **QUICK, **options)
    card = card_of(path)
    assert card["check"]["outputs"]["classes"]["difference"] < 1e-4  # the suppression is exact
    if "fuse" in options:
        assert card["fused_operators"]["Attention"] == 2


def test_8_bits_for_all_are_refused(tmp_path):
    pytest.importorskip("ai_edge_litert")
    for quantize in ("full_int8", "int16x8"):
        with pytest.raises(ValueError, match="`quantize`"):
            export_encoder(
                detector(),
                tmp_path / "out",
                "litert",
                quantize=quantize,
                representative="mnist5k",
                **QUICK,
            )
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_files_of_any_size_have_boxes_in_their_own_pixels(tmp_path):
    pytest.importorskip("tensorflow_serving.apis")
    import tensorflow as tf

    from keras_mae.export import serve_check

    model = detector()
    model.save(tmp_path / "model.keras")
    path = export_encoder(tmp_path / "model.keras", tmp_path / "out", dense=True, **QUICK)
    assert serve_check.serve_check(path, lambda line: None) == []
    served = tf.saved_model.load(path).signatures
    # Of twice the size, wider than high: the lower half of the model's image is the mean colour.
    picture = np.repeat(digits(1, seed=2)[0, :14].repeat(2, axis=0).repeat(2, axis=1), 1, axis=-1)
    found = served["serving_bytes"](image_bytes=tf.stack([tf.io.encode_png(picture)]))
    boxes, real = found["boxes"][0].numpy(), found["classes"][0].numpy() >= 0
    assert real.any() and (boxes[~real] == -1).all()
    assert (boxes[real] >= 0).all() and (boxes[real] <= [56, 28, 56, 28]).all()
    assert boxes[real][:, 2].max() > 28  # not in pixels of the model's image
    with pytest.raises(ValueError, match="`whole`"):
        export_encoder(model, tmp_path / "no", whole=True, **QUICK)


@pytest.mark.slow
def test_a_file_that_suppresses_by_another_rule_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    from keras_mae.export import plain

    right = plain.best_boxes
    monkeypatch.setattr(
        plain, "best_boxes", lambda *a, **k: right(*a, **{**k, "largest_overlap": 0.1})
    )
    with pytest.raises(ExportError, match="difference"):
        export_encoder(detector(), tmp_path / "out", "litert", **QUICK)
