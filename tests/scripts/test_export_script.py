"""scripts/export.py and scripts/serve_check.py, from the shell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from keras_mae import ViTEncoder

pytestmark = pytest.mark.export
SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.slow
def test_a_model_is_exported_and_served(forks, tmp_path):
    pytest.importorskip("tensorflow_serving.apis")
    ViTEncoder(28, 1, 14, 16, 1, 2).save(tmp_path / "encoder.keras")
    output = tmp_path / "served"
    flags = [f"--model={tmp_path / 'encoder.keras'}", f"--output={output}", "--image_size=28,42"]
    done = subprocess.run(
        [sys.executable, SCRIPTS / "export.py", *flags, "--num_check_images=3", "--dense"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert f"Written: {output / '1'}" in done.stdout and "largest difference" in done.stdout
    found = json.loads((output / "1" / "card.json").read_text())
    assert found["image_size"] == [28, 42] and "serving_tokens" in found["signatures"]
    assert found["check"]["num_images"] == 3 and found["check"]["fresh_process"]

    done = forks.run(SCRIPTS / "serve_check.py", f"--saved_model={output}")
    assert done.returncode == 0, done.stderr
    assert "tf.compat.v1.saved_model.loader" in done.stdout
    assert "a broken file: INVALID_ARGUMENT" in done.stdout
    assert "docker run" in done.stdout and "curl" in done.stdout


def test_errors_are_one_line(forks, tmp_path):
    done = forks.run(SCRIPTS / "export.py", "--model=none", f"--output={tmp_path}/model")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert list(tmp_path.iterdir()) == []
    done = forks.run(SCRIPTS / "serve_check.py", f"--saved_model={tmp_path}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: --saved_model")
