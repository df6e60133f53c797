"""What a step takes, by hand; and docs/scaling.md in step with benchmarks/scaling.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from keras_mae.models.costs import StepCosts
from keras_mae.presets import preset_config

ROOT = Path(__file__).resolve().parents[2]


def costs(preset):
    return StepCosts(preset_config(preset), 0.75)


@pytest.mark.parametrize(
    "preset, parameters, tables",
    [
        # The counts of README.md, which tests/models/test_presets.py takes from built models.
        ("mae_vit_mini_patch4", 564_688, 50 * (96 + 64)),
        ("mae_vit_base_patch16", 111_907_840, 197 * (768 + 512)),
        ("mae_vit_huge_patch14", 657_074_508, 257 * (1280 + 512)),
    ],
)
def test_parameters_are_those_of_the_models(preset, parameters, tables):
    model = costs(preset)
    assert model.parameters == parameters
    assert model.trainable == parameters - tables


def test_flops_by_hand():
    # mini: 49 patches of 16 values; 12 visible and the class token.
    encoder = 13 * 16 * 96 + 4 * (12 * 13 * 96**2 + 2 * 13**2 * 96)
    decoder = 13 * 96 * 64 + 2 * (12 * 50 * 64**2 + 2 * 50**2 * 64) + 50 * 64 * 16
    assert costs("mae_vit_mini_patch4").flops == 6 * (encoder + decoder)
    whole = 50 * 16 * 96 + 4 * (12 * 50 * 96**2 + 2 * 50**2 * 96)
    assert costs("mae_vit_mini_patch4").encoding == 2 * whole


@pytest.mark.slow
def test_the_tables_of_the_documentation_are_the_scripts():
    script = ROOT / "benchmarks" / "scaling.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    text = (ROOT / "docs" / "scaling.md").read_text()
    tables = [part.split("\n\n")[1] for part in done.stdout.split("## ")[1:]]
    assert len(tables) == 7
    for table in tables:
        assert table.strip() in text, f"run benchmarks/scaling.py and paste its tables:\n{table}"
