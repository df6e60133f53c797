"""Reports of segmentation and detection, with runs that only say what they were asked."""

import json

import pytest

import keras_mae
from keras_mae.commands import report_jobs
from keras_mae.commands.report import report
from keras_mae.commands.report_page import page
from keras_mae.settings.report import ReportSettings

SIZES = {"image_size": 32, "patch_size": 8, "hidden_dim": 8, "num_layers": 1, "num_heads": 2}
FOUND = {"full": 0.5, "scratch": 0.2, "linear": 0.3}


@pytest.fixture
def asked(monkeypatch):
    """What each run was asked, in place of the runs."""
    asked = []

    def finetune(settings):
        asked.append(settings)
        value = FOUND[settings.protocol] + 0.01 * settings.seed
        if "random_init" in settings.encoder:
            value = 0.1
        other = {"segment": {"pixel_accuracy": 0.9}, "detect": {"AP": 0.1, "AP75": 0.1}}
        name = {"segment": "mean_iou", "detect": "AP50"}[settings.task]
        return {name: value, **other[settings.task]}

    monkeypatch.setattr("keras_mae.commands.jobs.gc.collect", lambda: None)
    monkeypatch.setattr(report_jobs, "finetune", finetune)
    return asked


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "encoder.keras"
    keras_mae.ViTEncoder(channels=3, **SIZES).save(path)
    return str(path)


def settings(directory, task, encoder, **changes):
    changes = {"seeds": [0, 1], "train_examples": [20, 50], **changes}
    output = str(directory / "out")
    return ReportSettings(task=task, encoder=encoder, output_dir=output, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("task, name", [("segment", "mean IoU"), ("detect", "AP50")])
def test_three_ways_are_compared_by_the_number_of_labelled_images(
    task, name, asked, encoder, tmp_path
):
    summary = report(settings(tmp_path, task, encoder))
    assert not summary["failures"] and not summary["missing"]
    assert [(s.seed, s.protocol, s.train_examples) for s in asked] == [
        (seed, protocol, count)
        for seed in (0, 1)
        for protocol in ("full", "linear", "scratch")
        for count in (20, 50)
    ]
    assert {s.task for s in asked} == {task} and {s.dataset for s in asked} == {"digit_scenes"}
    # All are trained as long, with the same head.
    for count in (20, 50):
        own = [s for s in asked if s.train_examples == count]
        assert len({s.total_steps(count) for s in own}) == 1
        assert {s.head for s in own} == {"pyramid" if task == "segment" else None}
    fine = summary["accuracy"]["fine-tuned"]["labels"]["50 labelled images"]
    assert fine["values"] == {0: 0.5, 1: pytest.approx(0.51)}
    text = (tmp_path / "out/report.md").read_text()
    assert text == page(json.loads((tmp_path / "out/report.json").read_text()))
    assert f"## {name[0].upper()}{name[1:]}\n" in text and "top-1" not in text
    assert "| method | 20 labelled images | 50 labelled images |" in text
    assert "| pre-trained, frozen | 30.5 ± 0.7 % | 30.5 ± 0.7 % |" in text
    added = text[text.index("## What pre-training adds") :]
    assert "| fine-tuned | 20 | 50.5 ± 0.7 % | 20.5 ± 0.7 % (from scratch) | 30.0 points" in added
    assert (tmp_path / "out/figures/comparison.png").exists()
    done = len(asked)
    report(settings(tmp_path, task, encoder))
    assert len(asked) == done  # what is done is not done again


@pytest.mark.slow
def test_a_frozen_encoder_is_compared_with_one_that_is_not_trained(asked, encoder, tmp_path):
    report(settings(tmp_path, "segment", encoder, parts=["linear", "random"]))
    assert [s.protocol for s in asked] == ["linear"] * 8
    summary = json.loads((tmp_path / "out/report.json").read_text())
    against = {s["against"] for s in summary["statements"]["control"]}
    assert against == {"random init, frozen"}


def test_from_scratch_has_its_own_rate_and_zero_means_all(asked, encoder, tmp_path):
    changes = {"scratch": {"base_learning_rate": 0.5}, "train_examples": [0], "seeds": [0]}
    report(settings(tmp_path, "detect", encoder, finetune={"steps": 7}, **changes))
    full, frozen, scratch = asked
    assert (full.steps, frozen.steps, scratch.steps) == (7, 7, 7)
    assert scratch.base_learning_rate == 0.5 != full.base_learning_rate
    assert {s.train_examples for s in asked} == {None}


@pytest.mark.parametrize(
    "name, changes",
    [
        ("parts", {"parts": ["knn"]}),
        ("rival", {"rival": "x.keras"}),
        ("trainable_blocks", {"trainable_blocks": [1]}),
        ("train_examples", {"train_examples": [4000]}),
        ("train_examples", {"train_examples": [20, 20]}),
        ("task", {"task": "caption"}),
        ("task", {"dataset": "mnist5k"}),
    ],
)
def test_what_does_not_fit_is_told_before_any_work(name, changes, asked, encoder, tmp_path):
    with pytest.raises(ValueError, match=f"`{name}`"):
        report(settings(tmp_path, **{"task": "segment", "encoder": encoder, **changes}))
    assert not asked and not (tmp_path / "out").exists()
