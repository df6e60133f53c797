"""The page of a run: made of its files, and never at the run's cost."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from keras_mae.settings.run import RunSettings
from keras_mae.training import page
from keras_mae.training.loop import Task
from keras_mae.training.page import write_run_page


class Made(Task):
    """A task that has ended."""

    title = "Trial"
    files = {"figures/b.png": "what b shows", "figures/loss.png": "the loss", "gone.txt": "gone"}
    total_steps = 30

    def first_lines(self):
        return ["", "Model: <small>.\n  of one block"]

    def summary(self, results):
        return f"\nAll is {results['word']}.\nclass  f1\na  1"


@pytest.fixture
def ended(tmp_path):
    settings = RunSettings(dataset="folder:a&b", batch_size=4, output_dir=str(tmp_path))
    task = Made(settings)
    task.directory = tmp_path
    config = {"command": ["run.py", "--dataset=folder:a&b"], "environment": {"keras": "3"}}
    config["settings"] = dataclasses.asdict(settings)
    (tmp_path / "config.json").write_text(json.dumps(config))
    lines = [{"step": i, "loss": 1 / i} for i in range(1, 30)]
    lines += [{"step": s, "val_loss": 0.5, "val_top1": s / 100} for s in (10, 20)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "figures").mkdir()
    for name in ("monitor", "b", "loss"):
        Image.fromarray(np.zeros((4, 4), "uint8")).save(tmp_path / f"figures/{name}.png")
    Image.fromarray(np.zeros((4, 4), "uint8")).save(tmp_path / "figures/monitor.webp")
    (tmp_path / "figures/notes.txt").write_text("no figure")
    return task


def test_a_page_has_what_the_directory_has(ended, tmp_path):
    assert write_run_page(ended, {"word": "<well>"}) == ""
    text = (tmp_path / "index.html").read_text()
    assert "<h1>Trial: folder:a&amp;b</h1>" in text
    assert '<p class="lead">All is &lt;well&gt;.</p>' in text
    assert "<pre>class  f1\na  1</pre>" in text
    # Two charts: both losses, and top-1; and a line each.
    assert text.count("<svg") == 2 and text.count("<polyline") == 3
    # What the task names first, then the others; the loss is drawn already.
    shown = [part.split('"')[0] for part in text.split('alt="')[1:]]
    assert shown == ["what b shows", "monitor", "monitor"]
    assert text.count("data:image/png") == 2 and text.count("data:image/webp") == 1
    assert '<pre class="wraps">python run.py' in text
    assert "<li>Model: &lt;small&gt;.</li>\n<li>of one block</li>" in text
    assert '<td class="short">batch_size</td><td class="short">4</td>' in text
    assert 'href="figures/b.png"' in text and "gone.txt" not in text


def test_large_figures_are_not_put_inside(ended, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_BYTES", 70)
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "figures").glob("b.png")}
    assert write_run_page(ended, {"word": "well"}) == ""
    text = (tmp_path / "index.html").read_text()
    assert ("what b shows" in text.split("<h2>Files")[0]) == (sizes["b.png"] <= 70)


def test_a_page_that_cannot_be_written_is_said_and_no_more(ended, tmp_path):
    (tmp_path / "config.json").unlink()
    fault = write_run_page(ended, {"word": "well"})
    assert fault.startswith("index.html is not written: FileNotFoundError")
    assert not (tmp_path / "index.html").exists()
