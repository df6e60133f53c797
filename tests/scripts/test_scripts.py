"""The scripts as a user runs them: in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def command(script, *arguments):
    return [ROOT / "scripts" / script, *map(str, arguments)]


def run(script, *arguments, **environment):
    return subprocess.run(
        [sys.executable, *command(script, *arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The output directory of a run of three steps on colour photographs in bfloat16."""
    directory = tmp_path_factory.mktemp("photos")
    flags = directory / "flags.txt"
    flags.write_text(
        "--dataset=photos\n--preset=mae_vit_mini_patch4\n--steps=3\n--batch_size=8\n--precision=bfloat16\n--probe_images=50"
    )
    # Nothing is written, or asked for, at home: in a container there may be none.
    done = run(
        *("pretrain.py", f"--flagfile={flags}", "--nojit", f"--output_dir={directory}/out"),
        HOME="/dev/null",
    )
    assert done.returncode == 0, done.stderr
    assert "Loss on held-out images" in done.stdout
    # What TensorFlow says of itself is kept from the user.
    assert "InitializeLog" not in done.stderr and "cudart_stub" not in done.stderr
    return directory / "out"


@pytest.mark.slow
def test_reconstruct_draws_a_persons_own_pictures(trained, tmp_path):
    for name, size in (("wide.png", (40, 60, 3)), ("grey.jpg", (50, 30))):
        Image.fromarray(np.full(size, 99, "uint8")).save(tmp_path / name)
    figure = tmp_path / "figure.png"
    pictures = [f"--image={tmp_path / name}" for name in ("wide.png", "grey.jpg")]
    done = run("reconstruct.py", f"--model={trained}", *pictures, f"--output={figure}")
    assert done.returncode == 0, done.stderr
    assert Image.open(figure).width > 100


@pytest.mark.parametrize(
    "script, arguments, message",
    [
        ("pretrain.py", ["--dataset=cifar"], "cifar"),
        ("pretrain.py", ["--mask_ratio=1.5"], "--mask_ratio"),
        ("pretrain.py", ["--image_size=30"], "--image_size"),
        ("reconstruct.py", ["--model=nowhere", "--image=x.png"], "--model"),
        ("make_tfrecords.py", ["--dataset=folder:nowhere", "--output=x"], "nowhere"),
    ],
)
def test_bad_flags_end_with_one_line_and_status_1(forks, script, arguments, message):
    done = forks.run(*command(script, *arguments))
    assert done.returncode == 1
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and message in error[0]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_model_opens_with_nothing_but_the_package_imported(trained):
    code = f"import keras, keras_mae; keras.models.load_model({str(trained / 'mae.keras')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_is_not_written_over(forks, trained):
    before = (trained / "config.json").read_bytes()
    done = forks.run(*command("pretrain.py", "--steps=1", f"--output_dir={trained}"))
    assert done.returncode == 1 and "--output_dir" in done.stderr
    assert (trained / "config.json").read_bytes() == before
