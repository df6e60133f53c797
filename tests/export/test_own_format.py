"""Formats that are not the library's: found, checked in a new process, with flags of their own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from shaken import card_of, digits, encoder, expected

from keras_mae.export import ExportError, export_encoder

pytestmark = pytest.mark.export
ROOT = Path(__file__).parents[2]
NUMPY = "numpy_format:NumpyZip"


@pytest.mark.slow
@pytest.mark.parametrize("precision, bits", [("float32", 32), ("float16", 16)])
def test_a_new_process_runs_it(tmp_path, precision, bits):
    model = encoder(image_size=(28, 20))
    path = export_encoder(model, tmp_path / "out", NUMPY, num_check_images=4, bits=bits)
    found = card_of(path)
    assert (found["format"], found["precision"], found["bits"]) == (NUMPY, precision, bits)
    assert path.name == found["load"] == "weights.npz"
    assert found["check"]["fresh_process"] and not found["check"]["keras_imported"]
    assert 0 < found["check"]["difference"] < found["check"]["bound"]["difference"]


@pytest.mark.slow
def test_the_forward_pass_by_hand_is_the_models(tmp_path):
    """No line of it is the library's."""
    from numpy_format import Runner

    model = encoder()
    path = export_encoder(model, tmp_path / "out", NUMPY, fresh_process=False, num_check_images=2)
    tokens = Runner(path)(digits(3))["tokens"]
    assert abs(tokens - expected(model, digits(3))).max() < 2e-5


@pytest.mark.slow
def test_a_module_that_needs_keras_is_no_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a module in the working directory is found
    module = (
        "import keras\nfrom numpy_format import NumpyZip\n\n\nclass Keras(NumpyZip):\n    pass\n"
    )
    (tmp_path / "needs_keras.py").write_text(module)
    with pytest.raises(ExportError, match="keras"):
        export_encoder(encoder(), tmp_path / "out", "needs_keras:Keras", num_check_images=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_example_of_the_docs_from_the_shell(tmp_path):
    text = (ROOT / "docs" / "export.md").read_text()
    section = text[text.index("## Your own format") :]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    (tmp_path / "my_formats.py").write_text(code)
    encoder().save(tmp_path / "encoder.keras")
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "scripts" / "export.py",
            "--model=encoder.keras",
            "--output=out",
            "--format=my_formats:Frozen",
            "--num_check_images=4",
            "--batch_size=2",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "# my_formats:Frozen, float32" in done.stdout
    assert "Written: out" in done.stdout
    found = card_of(tmp_path / "out")
    assert found["format"] == "my_formats:Frozen" and found["batch_size"] == 2
    assert found["check"]["fresh_process"] and not found["check"]["keras_imported"]
    assert 0 < found["check"]["difference"] < 1e-4
