"""scripts/convert.py, from the shell, from our archive to Meta's names and back."""

from pathlib import Path

import numpy as np
import pytest

from keras_mae import MaskedAutoencoder, load_pretrained

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert.py"


def command(**flags):
    return [str(SCRIPT), *(f"--{name}={value}" for name, value in flags.items())]


@pytest.mark.slow
def test_there_and_back_again(forks, tmp_path):
    pytest.importorskip("torch")
    model = MaskedAutoencoder.from_preset("mae_vit_mini_patch4", norm_pix_loss=False)
    model.save(tmp_path / "a.keras")
    for source, target, format in (
        ("a.keras", "meta", "meta"),
        ("meta", "b.keras", "keras"),
    ):
        done = forks.run(
            *command(source=tmp_path / source, target=tmp_path / target, format=format)
        )
        assert done.returncode == 0, done.stderr
        assert "MaskedAutoencoder" in done.stdout
        assert "largest difference of a weight 0, " in done.stdout
        assert "of an output for a random image 0\n" in done.stdout
    images = np.random.default_rng(0).normal(size=(1, 28, 28, 1)).astype("float32")
    outputs = load_pretrained(tmp_path / "b.keras")(images)["prediction"]
    np.testing.assert_array_equal(outputs, model(images)["prediction"])


@pytest.mark.slow
def test_errors_are_one_line(forks, tmp_path):
    done = forks.run(*command(source=tmp_path / "none", target=tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out").exists()
