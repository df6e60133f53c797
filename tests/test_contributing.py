"""The examples of CONTRIBUTING.md run, in order, as a reader would run them."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
SECTIONS = {
    section.splitlines()[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
}
EXAMPLES = {title: blocks for title, blocks in SECTIONS.items() if blocks}


def test_there_is_an_example_of_each():
    assert list(EXAMPLES) == [
        "Add a masking",
        "Add a source of images",
        "Add an export format",
        "Add a task",
    ]


@pytest.fixture
def small_model():
    """The autoencoder that the section before the export leaves behind."""
    from keras_mae import MaskedAutoencoder

    return MaskedAutoencoder.from_preset("mae_vit_mini_patch4", num_layers=1)


SLOW = ("Add a source of images", "Add an export format")  # tf.data, and a second process


@pytest.mark.parametrize(
    "title", [pytest.param(t, marks=[pytest.mark.slow] if t in SLOW else []) for t in EXAMPLES]
)
def test_example_runs(title, small_model, tmp_path, monkeypatch):
    """A block that begins with a file's name is that file, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = {"mae": small_model, "np": np}
    files = []
    for block in EXAMPLES[title]:
        if match := re.match(r"# (\w+)\.py\n", block):
            files.append(match[1])
            Path(f"{match[1]}.py").write_text(block)
        else:
            exec(compile(block, title, "exec"), names)
    assert files
    for name in files:
        sys.modules.pop(name, None)
