"""benchmarks/scaling.py: its numbers by hand, and docs/scaling.md in step with it."""

import importlib.util
from pathlib import Path

import pytest
from absl import flags

pytestmark = pytest.mark.runs
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scaling():
    path = ROOT / "benchmarks" / "scaling.py"
    spec = importlib.util.spec_from_file_location("scaling", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["scaling"])
    return module


@pytest.mark.parametrize(
    "preset, parameters, tables",
    [
        # The counts of README.md, which tests/models/test_presets.py takes from built models.
        ("mae_vit_mini_patch4", 564_688, 50 * (96 + 64)),
        ("mae_vit_base_patch16", 111_907_840, 197 * (768 + 512)),
        ("mae_vit_huge_patch14", 657_074_508, 257 * (1280 + 512)),
    ],
)
def test_parameters_are_those_of_the_models(scaling, preset, parameters, tables):
    model = scaling.Model(preset, 0.75)
    assert model.parameters == parameters
    assert model.trainable == parameters - tables


def test_flops_by_hand(scaling):
    # mini: 49 patches of 16 values; 12 visible and the class token.
    encoder = 13 * 16 * 96 + 4 * (12 * 13 * 96**2 + 2 * 13**2 * 96)
    decoder = 13 * 96 * 64 + 2 * (12 * 50 * 64**2 + 2 * 50**2 * 64) + 50 * 64 * 16
    assert scaling.Model("mae_vit_mini_patch4", 0.75).flops == 6 * (encoder + decoder)


def test_a_ring_of_two_sends_the_gradients_once(scaling):
    model = scaling.Model("mae_vit_mini_patch4", 0.75)
    assert scaling.ring_bytes(model, 2) == 4 * model.trainable
    assert scaling.ring_bytes(model, 1) == 0


def test_the_tables_of_the_documentation_are_the_scripts(scaling):
    text = (ROOT / "docs" / "scaling.md").read_text()
    for name, table in scaling.tables().items():
        assert table in text, f"{name}: run benchmarks/scaling.py and paste it"
