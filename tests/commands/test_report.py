"""The report's jobs and page, with runs that only say what they were asked."""

import json

import numpy as np
import pytest

import keras_mae
from keras_mae.commands import report_jobs
from keras_mae.commands.report import report
from keras_mae.commands.report_jobs import identity_of, value_text
from keras_mae.commands.report_page import headline, page
from keras_mae.errors import Interrupted
from keras_mae.pixels import normalize
from keras_mae.settings.report import ReportSettings

SIZES = {"image_size": 28, "patch_size": 7, "hidden_dim": 8, "num_layers": 1, "num_heads": 2}
TOP1 = {"full": 0.95, "scratch": 0.7, "linear": 0.9, "partial": 0.8}


class Runs:
    """Stand in for the real runs; `calls` has what each was asked."""

    def __init__(self):
        self.calls = []
        self.fail = lambda settings: None

    def pretrain(self, settings):
        self.calls.append(("pretrain", settings))
        self.fail(settings)
        return {"heldout_loss": 0.2, "training_seconds": 1.0, "accuracy": {}}

    def finetune(self, settings):
        self.calls.append((settings.protocol, settings))
        self.fail(settings)
        if settings.protocol == "knn":
            return {"top1": 0.5, "top5": None, "knn": {str(k): 0.5 for k in settings.knn}}
        spread = 0.002 * settings.seed
        return {"top1": TOP1[settings.protocol] + spread, "top5": None}

    def names(self):
        return [name for name, _ in self.calls]


def stand_in(monkeypatch):
    """Put `Runs` in the place of the real ones, and numbers in that of probes on pixels."""
    runs = Runs()
    # Half a second a job, where there is much to look through and nothing to free.
    monkeypatch.setattr("keras_mae.commands.jobs.gc.collect", lambda: None)
    monkeypatch.setattr(report_jobs, "pretrain", runs.pretrain)
    monkeypatch.setattr(report_jobs, "finetune", runs.finetune)
    monkeypatch.setattr(report_jobs, "view_features", lambda *args: ([], []))
    monkeypatch.setattr(report_jobs, "linear_probe", lambda *args: 0.85)
    monkeypatch.setattr(report_jobs, "logistic_accuracy", lambda *args: 0.86)
    return runs


@pytest.fixture
def runs(monkeypatch):
    return stand_in(monkeypatch)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A file with an encoder of one block for the digits."""
    encoder = keras_mae.ViTEncoder(channels=1, mean=(0.1,), std=(0.3,), **SIZES)
    path = tmp_path_factory.mktemp("encoder") / "encoder_1.keras"
    encoder.save(path)
    return path


def settings(directory, encoder=None, **changes):
    changes = {"seeds": [0, 1], "ks": [5, 20], "train_examples": 100, **changes}
    return ReportSettings(
        encoder=encoder and str(encoder), output_dir=str(directory / "out"), **changes
    )


@pytest.fixture(scope="module")
def whole(encoder, tmp_path_factory):
    """The whole comparison: what was asked, the summary, and the directory."""
    directory = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        runs = stand_in(patch)
        return runs, report(settings(directory, encoder)), directory / "out"


@pytest.mark.slow
def test_the_whole_comparison_for_each_seed(whole, encoder):
    runs, summary, directory = whole
    assert not summary["failures"] and not summary["missing"]
    per_seed = ["linear", "linear", "knn", "knn"] * 2  # untrained, then the encoder
    per_seed += ["full", "full", "scratch", "scratch", "partial", "partial", "partial"]
    assert runs.names() == per_seed * 2
    asked = [s for _, s in runs.calls]
    assert [s.train_examples for s in asked[:15]] == [None, 100] * 6 + [100] * 3
    assert [s.trainable_blocks for s in asked[12:15]] == [0, 0.5, 1]
    assert {s.seed for s in asked[:15]} == {0} and {s.seed for s in asked[15:]} == {1}
    assert "random_init" in asked[0].encoder and asked[4].encoder == str(encoder)
    fine = summary["accuracy"]["fine-tuned"]["labels"]["100 labels"]
    assert fine["mean"] == pytest.approx(0.951) and fine["of"] == 2
    assert fine["values"] == {0: 0.95, 1: pytest.approx(0.952)}
    assert {p.name for p in (directory / "figures").iterdir()} == {
        "comparison.png",
        "partial.png",
    }


@pytest.mark.slow
def test_the_page_says_what_is_not_better_than_raw_pixels(whole):
    _, summary, directory = whole
    text = (directory / "report.md").read_text()
    assert text == page(json.loads((directory / "report.json").read_text()))
    html = (directory / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 2 and "<h2>Accuracy</h2>" in html
    row = html[html.index("<td>pre-trained, 5 nearest neighbours</td>") :]
    assert "50.0 ± 0.0 %" in row[: row.index("</tr>")]
    assert f'<p class="lead">{headline(summary)[:20]}' in html
    worse = text[text.index("## Not better") : text.index("## Better than")]
    better = text[text.index("## Better than") : text.index("## What pre-training adds")]
    pixels = summary["accuracy"]["raw pixels, 5 nearest neighbours"]["labels"]["4,000 labels"]
    assert pixels["mean"] > 0.9  # measured: the digits' neighbours are good
    assert "| pre-trained, 5 nearest neighbours | 4,000 | 50.0 ± 0.0 % |" in worse
    assert "| from scratch | 4,000 | 70.1 ± 0.1 % |" in worse
    # The linear probe's rival is the better of two on pixels.
    assert (
        "| pre-trained, linear probe | 4,000 | 90.1 ± 0.1 % | 86.0 ± 0.0 % (logistic regression) |"
        in better
    )
    assert "| fine-tuned | 100 | 95.1 ± 0.1 % |" in better
    added = text[text.index("## What pre-training adds") :]
    assert (
        "| fine-tuned | 4,000 | 95.1 ± 0.1 % | 70.1 ± 0.1 % (from scratch) | 25.0 points" in added
    )
    assert "4,000 to train on and 1,000 held out, of 10 classes, seen at 28 x 28" in text
    assert "tensorflow 2." in text and "| scratch, 100 labels | 2 |" in text


@pytest.mark.slow
def test_the_last_blocks_are_probed_side_by_side(runs, tmp_path):
    path = tmp_path / "encoder.keras"
    two = {**SIZES, "num_layers": 2}
    keras_mae.ViTEncoder(channels=1, mean=(0.1,), std=(0.3,), **two).save(path)
    summary = report(settings(tmp_path, path, parts=["blocks", "linear", "random"], seeds=[0]))
    linear = [s.pooled_blocks for _, s in runs.calls if s.protocol == "linear"]
    assert linear == [1, 1, 2, 2] * 2  # untrained, then the encoder
    assert "pre-trained, linear probe of the last 2 blocks" in summary["accuracy"]
    row = summary["accuracy"]["random init, linear probe of the last 2 blocks"]
    assert set(row["labels"]) == {"4,000 labels", "100 labels"}


@pytest.mark.slow
def test_neighbours_are_whitened_of_pixels_too(runs, encoder, tmp_path):
    changes = {"parts": ["knn", "pixels"], "seeds": [0], "ks": [20], "train_examples": 0}
    summary = report(settings(tmp_path, encoder, whiten=8, **changes))
    assert [s.whiten for _, s in runs.calls] == [8]
    assert "pre-trained, 20 nearest neighbours, whitened to 8" in summary["accuracy"]
    row = summary["accuracy"]["raw pixels, 20 nearest neighbours, whitened to 8"]
    plain = report(settings(tmp_path / "plain", encoder, **changes))["accuracy"]
    other = plain["raw pixels, 20 nearest neighbours"]["labels"]["4,000 labels"]["mean"]
    assert 0.5 < row["labels"]["4,000 labels"]["mean"] < other  # few directions of 784


@pytest.mark.slow
def test_what_is_done_is_not_done_again(runs, encoder, tmp_path):
    parts = ["linear", "full"]
    report(settings(tmp_path, encoder, parts=parts))
    done = len(runs.calls)
    before = (tmp_path / "out/report.md").read_text()
    report(settings(tmp_path, encoder, parts=parts))
    assert len(runs.calls) == done == 8
    assert (tmp_path / "out/report.md").read_text() == before
    # Another seed, part or setting adds its jobs only.
    report(settings(tmp_path, encoder, parts=[*parts, "knn"], seeds=[0, 1, 2]))
    assert runs.names()[done:] == ["knn"] * 4 + ["linear", "linear", "knn", "knn", "full", "full"]
    done = len(runs.calls)
    report(settings(tmp_path, encoder, parts=parts, finetune={"epochs": 3.0}))
    assert runs.names()[done:] == ["full"] * 4
    assert {s.epochs for _, s in runs.calls[done:]} == {3}


@pytest.mark.slow
def test_other_weights_are_another_encoder_wherever_they_lie(runs, encoder, tmp_path):
    path = tmp_path / "encoder.keras"
    path.write_bytes(encoder.read_bytes())
    report(settings(tmp_path, encoder, parts=["linear"], seeds=[0]))
    report(settings(tmp_path, path, parts=["linear"], seeds=[0]))
    assert len(runs.calls) == 2  # of equal weights
    model = keras_mae.load_pretrained(path)
    model.class_token.assign(model.class_token + 1)
    model.save(path)
    report(settings(tmp_path, path, parts=["linear"], seeds=[0]))
    assert len(runs.calls) == 4
    assert identity_of(model) != identity_of(keras_mae.load_pretrained(encoder))


@pytest.mark.slow
def test_an_encoder_for_each_seed(runs, encoder, tmp_path):
    for seed in (0, 1):
        (tmp_path / f"e{seed}.keras").write_bytes(encoder.read_bytes())
    summary = report(settings(tmp_path, tmp_path / "e{seed}.keras", parts=["linear"]))
    assert [s.encoder[-8:] for _, s in runs.calls[::2]] == ["e0.keras", "e1.keras"]
    assert summary["encoder"].endswith("e{seed}.keras, one for each seed")


@pytest.mark.slow
def test_a_sweep_trains_each_value_and_shares_what_is_equal(runs, tmp_path):
    sweep = {"mask_ratio": ((0.5,), (0.75,)), "masking": ("random", "grid")}
    summary = report(settings(tmp_path, parts=["full"], sweep=sweep, pretrain={"steps": 2}))
    trained = [s for name, s in runs.calls if name == "pretrain"]
    # The default, .75 and random, is in both sweeps and in the comparison, and is trained once.
    assert [(s.seed, *s.mask_ratio, s.masking) for s in trained] == [
        (0, 0.75, "random"),
        (1, 0.75, "random"),
        (0, 0.5, "random"),
        (0, 0.75, "grid"),
        (1, 0.5, "random"),
        (1, 0.75, "grid"),
    ]
    assert all(s.steps == 2 for s in trained)
    assert runs.names().count("linear") == 6  # all labels
    assert runs.names().count("full") == 2 + 6  # all labels for the comparison, few for each
    assert [row["value"] for row in summary["sweeps"]["mask_ratio"]] == [0.5, 0.75]
    row = summary["sweeps"]["masking"][1]
    assert row["value"] == "grid"
    assert set(row["accuracy"]) == {"fine-tuned, 100 labels", "linear probe, 4,000 labels"}
    for field in sweep:
        assert (tmp_path / f"out/figures/sweep_{field}.png").exists()
        assert f"## Sweep: {field}" in (tmp_path / "out/report.md").read_text()
    encoders = {s.encoder for name, s in runs.calls if name == "full"}
    assert encoders == {f"{s.output_dir}/encoder.keras" for s in trained}


@pytest.mark.slow
def test_a_sweep_without_a_comparison(runs, tmp_path):
    summary = report(settings(tmp_path, parts=[], sweep={"masking": ["random", "grid"]}))
    assert runs.names() == ["pretrain", "full", "linear"] * 4
    text = (tmp_path / "out/report.md").read_text()
    assert "## Accuracy" not in text and "| grid | 95.1 ± 0.1 % | 90.1 ± 0.1 % |" in text
    assert not summary["accuracy"]


@pytest.mark.slow
def test_a_job_that_fails_is_on_the_page_with_the_rest(runs, encoder, tmp_path):
    def fail(asked):
        if asked.seed == 1 and asked.protocol == "full":
            raise RuntimeError("no memory")

    runs.fail = fail
    summary = report(settings(tmp_path, encoder, parts=["linear", "full"]))
    assert list(summary["failures"]) == [
        "seed 1: fine-tuned, 4,000 labels",
        "seed 1: fine-tuned, 100 labels",
    ]
    text = (tmp_path / "out/report.md").read_text()
    assert "- seed 1: fine-tuned, 100 labels: RuntimeError: no memory" in text
    assert "| fine-tuned | 95.0 % (1 of 2 seeds) |" in text


@pytest.mark.slow
def test_a_report_that_is_cut_says_what_is_missing_and_goes_on(runs, encoder, tmp_path):
    def fail(asked):
        if asked.seed == 1:
            raise Interrupted("SIGTERM: stopped after step 3, which is saved.")

    runs.fail = fail
    with pytest.raises(Interrupted):
        report(settings(tmp_path, encoder, parts=["linear"]))
    text = (tmp_path / "out/report.md").read_text()
    assert "## Not done yet" in text and "- seed 1: pre-trained, linear, 4,000 labels" in text
    cut = runs.calls[-1][1].output_dir
    runs.fail = lambda asked: None
    done = len(runs.calls)
    report(settings(tmp_path, encoder, parts=["linear"]))
    assert [s.seed for _, s in runs.calls[done:]] == [1, 1]
    assert runs.calls[done][1].output_dir == cut  # where its checkpoint lies
    assert "Not done yet" not in (tmp_path / "out/report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, changes",
    [
        ("dataset", {"dataset": "photos"}),
        ("train_examples", {"train_examples": 4000}),
        ("train_examples", {"train_examples": 5}),
        ("ks", {"ks": [20, 101]}),
        ("mask_ratio", {"sweep": {"mask_ratio": ((0.5,), (1.5,))}}),
        ("mask_ratio", {"sweep": {"mask_ratio": ((0.5,), (0.999,))}}),  # keeps no patch
        ("masking", {"sweep": {"masking": ("random", "stripes")}}),
        ("preset", {"pretrain": {"preset": "vit"}}),
        ("trainable_blocks", {"trainable_blocks": [9]}),
        ("layer_decay", {"finetune": {"layer_decay": 2.0}}),
    ],
)
def test_what_does_not_fit_is_told_before_any_work(runs, tmp_path, name, changes):
    with pytest.raises(ValueError, match=f"`{name}`"):
        report(settings(tmp_path, **changes))
    assert not runs.calls and not (tmp_path / "out").exists()


def test_values_as_a_page_has_them():
    assert [value_text(v) for v in ((0.5,), (0.5, 0.75), None, "grid", 3)] == [
        *(0.5, "0.5,0.75", "default", "grid", 3)
    ]


def test_an_encoder_that_does_not_fit_is_told_before_any_work(runs, encoder, tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match="encoder_0"):
        # Seed 1's is there, and seed 0's is not.
        report(settings(tmp_path, str(encoder).replace("_1", "_{seed}"), seeds=[1, 0]))
    keras_mae.ViTEncoder(channels=2, **SIZES).save(tmp_path / "two.keras")
    with pytest.raises(ValueError, match="`encoder`"):
        report(settings(tmp_path, tmp_path / "two.keras"))
    assert not runs.calls and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def rival(tmp_path_factory):
    """A folder with an encoder for colour, at another size."""
    sizes = {"image_size": 16, "patch_size": 8, "hidden_dim": 8, "num_layers": 1, "num_heads": 2}
    rival = keras_mae.ViTEncoder(channels=3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), **sizes)
    path = tmp_path_factory.mktemp("rival") / "encoder.keras"
    rival.save(path)
    return path


@pytest.mark.slow
def test_a_rival_is_probed_beside_the_encoder(runs, encoder, rival, tmp_path):
    parts = ["linear", "knn", "full"]
    summary = report(settings(tmp_path, encoder, parts=parts, rival=str(rival)))
    assert not summary["failures"]
    own = [s for _, s in runs.calls if s.encoder == str(encoder) and s.protocol == "linear"]
    others = [s for _, s in runs.calls if "rival_for_grey" in s.encoder]
    assert [s.protocol for s in others] == ["linear", "linear", "knn", "knn"] * 2
    assert {s.seed for s in others} == {0, 1} and {s.train_examples for s in others} == {None, 100}
    # The same recipe, of another size or not.
    same = ("recipe", "pooling", "base_learning_rate", "feature_views", "epochs", "augmentation")
    for name in same:
        assert getattr(others[0], name) == getattr(own[0], name)
    assert summary["rival"] == {"path": str(rival), "image_size": [16, 16]}
    row = summary["accuracy"]["pre-trained, linear probe"]
    assert row["other"] == "rival, linear probe" and row["other"] in summary["accuracy"]
    text = (tmp_path / "out/report.md").read_text()
    assert f"- Rival: {rival}, frozen, which sees images at 16 x 16 pixels." in text
    beside = text[text.index("## Beside the rival") :]
    assert "| pre-trained, linear probe | 4,000 | 90.1 ± 0.1 % | 90.1 ± 0.1 % (linear probe) |" in (
        beside
    )
    assert "| pre-trained, 5 nearest neighbours | 100 |" in beside
    assert text == page(json.loads((tmp_path / "out/report.json").read_text()))


@pytest.mark.slow
def test_a_rival_for_colour_sees_grey_as_colour(runs, encoder, rival, tmp_path):
    report(settings(tmp_path, encoder, parts=["knn"], rival=str(rival), seeds=[0]))
    path = next(s.encoder for _, s in runs.calls if "rival_for_grey" in s.encoder)
    grey, colour = keras_mae.load_pretrained(path), keras_mae.load_pretrained(rival)
    assert grey.channels == 1 and grey.image_size == (16, 16)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 1)).astype("float32")
    seen = [
        model(normalize(np.repeat(pixels, model.channels, axis=3), model.mean, model.std))
        for model in (grey, colour)
    ]
    np.testing.assert_allclose(*seen, atol=1e-5)


@pytest.mark.parametrize(
    "name, changes",
    [
        ("parts", {"rival": "x.keras", "parts": ["full"]}),
        ("rival_image_size", {"rival_image_size": [16]}),
        ("image_size", {"rival": "given", "rival_image_size": [15]}),
    ],
)
def test_a_rival_that_does_not_fit_is_told_before_any_work(
    runs, encoder, rival, tmp_path, name, changes
):
    if changes.get("rival") == "given":
        changes = {**changes, "rival": str(rival)}
    with pytest.raises(ValueError, match=f"`{name}`"):
        report(settings(tmp_path, encoder, **{"parts": ["knn"], **changes}))
    assert not runs.calls


def test_a_rival_of_other_bands_is_refused(runs, encoder, tmp_path):
    keras_mae.ViTEncoder(channels=5, **SIZES).save(tmp_path / "five.keras")
    with pytest.raises(ValueError, match="`rival`"):
        report(settings(tmp_path, encoder, parts=["knn"], rival=str(tmp_path / "five.keras")))


def test_a_page_begins_with_a_sentence_whatever_was_measured():
    def row(features, value):
        summary = {"mean": value, "spread": None, "values": {0: value}}
        return {"features": features, "labels": {"4,000 labels": summary}}

    rows = {"raw pixels, 5 nearest neighbours": row("raw pixels", 0.95)}
    rows |= {f"pre-trained, {k} nearest neighbours": row("pre-trained", k / 100) for k in (84, 79)}
    text = headline({"task": "classify", "accuracy": rows, "sweeps": {}, "heldout_images": 1000})
    assert text == (
        "With 4,000 labels, raw pixels, 5 nearest neighbours is best: 95.0 %; the encoder's best "
        "is pre-trained, 84 nearest neighbours: 84.0 %."
    )
    empty = headline({"task": "classify", "accuracy": {}, "sweeps": {}, "heldout_images": 1000})
    assert empty == "Nothing has been measured yet."
