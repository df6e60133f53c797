"""Formats and their options, without writing a file: no package of an export is needed."""

import subprocess
import sys

import pytest
from shaken import encoder

from keras_mae import registry
from keras_mae.export import Format, Option, calibration, compare, export_encoder
from keras_mae.settings.tools import FORMATS, ExportSettings

pytestmark = pytest.mark.export
NAMES = registry.names(FORMATS)


def find(name):
    return registry.find(FORMATS, name, Format, "format")


def test_all_formats_are_there():
    assert NAMES == ["litert", "onnx", "saved_model"]


@pytest.mark.parametrize("name", NAMES)
def test_a_format_is_whole(name):
    format = find(name)
    options = [option.name for option in format.OPTIONS]
    assert len(set(options)) == len(options)
    # A format's flags stand beside those of all formats.
    assert not set(options) & set(ExportSettings.__dataclass_fields__)
    for option in format.OPTIONS:
        option.check(option.default)
        assert option.help.endswith(".")
    assert format.BOUNDS and all(
        set(bound) <= {"difference", "min_cosine"} for bound in format.BOUNDS.values()
    )
    assert callable(format.Runner) and format.__doc__ != Format.__doc__


def test_options_and_runners_are_read_without_keras_and_tensorflow():
    """`compare.py` finds them where the library's own `__init__` is left out."""
    code = f"""
import runpy, importlib, sys
runpy.run_path({compare.__file__!r})["hide_library"]()
for name in {["card", *(f"formats.{name}" for name in NAMES)]}:
    importlib.import_module("keras_mae.export." + name)
heavy = {{"keras", "tensorflow", "onnx", "onnxruntime", "tf2onnx", "ai_edge_litert"}}
print(sorted(name for name in heavy if sys.modules.get(name) is not None))
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    "option, right, wrong",
    [
        (Option("a", bool, True, ""), [True, False], [1, None, "yes"]),
        (Option("a", int, 1, "", least=1), [1, 5], [0, 1.0, True, None, "1"]),
        (Option("a", int, 1, "", least=1, or_none=True), [1, None], [0]),
        (Option("a", float, 0.5, "", least=0), [0.0, 2], [-0.1, True, "1"]),
        (Option("a", str, "x", "", choices=("x", "y")), ["x", "y"], ["z", None]),
        (Option("a", str, None, ""), ["z", None], []),
        (Option("a", str, "z", ""), ["y"], [None]),
    ],
)
def test_values_of_an_option(option, right, wrong):
    for value in right:
        option.check(value)
    for value in wrong:
        with pytest.raises(ValueError, match="`a`"):
            option.check(value)


def test_options_become_attributes_and_the_rest_their_defaults():
    class Own(Format):
        OPTIONS = (Option("bits", int, 8, "bits."), Option("fast", bool, False, "faster."))

    own = Own(bits=4)
    assert (own.bits, own.fast) == (4, False)


@pytest.mark.parametrize(
    "name, options, argument",
    [
        ("coreml", {}, "format"),
        ("no_such_module:Own", {}, "format"),
        ("keras_mae.export:Option", {}, "format"),
        ("saved_model", {"opset": 17}, "options"),
        ("saved_model", {"dense": 3}, "dense"),
        ("saved_model", {"resize": "area"}, "resize"),
        ("litert", {"quantize": "int4"}, "quantize"),
        ("litert", {"quantize": "int8"}, "representative"),
        ("litert", {"representative": "mnist5k"}, "representative"),
        (
            "litert",
            {"quantize": "int8", "representative": "mnist5k", "num_representative": 0},
            "num_representative",
        ),
        ("litert", {"batch_size": 0}, "batch_size"),
        ("litert", {"fuse": True}, "options"),
        ("onnx", {"quantize": "float16"}, "quantize"),
        ("onnx", {"quantize": "int8"}, "representative"),
        ("onnx", {"representative": "mnist5k"}, "representative"),
        ("onnx", {"fuse": 1}, "fuse"),
        ("onnx", {"fuse": True, "quantize": "dynamic_int8"}, "fuse"),
    ],
)
def test_options_that_do_not_fit(name, options, argument):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        find(name)(**options)


@pytest.mark.parametrize(
    "arguments, argument",
    [
        ({"loads": 0}, "loads"),
        ({"num_check_images": 1.5}, "num_check_images"),
        ({"image_size": 30}, "image_size"),
        ({"check_dataset": "photos"}, "check_dataset"),
        ({"format": "coreml"}, "format"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, arguments, argument):
    options = {} if "format" in arguments else {"warmup": False}
    with pytest.raises(ValueError, match=f"`{argument}`"):
        export_encoder(encoder(num_layers=1), tmp_path / "model", **arguments, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, module", [("litert", "ai_edge_litert"), ("onnx", "tf2onnx"), ("saved_model", "apis")]
)
def test_missing_packages_are_named_before_any_work(tmp_path, monkeypatch, name, module):
    absent = "tensorflow_serving.apis" if module == "apis" else module
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(ImportError, match=r"keras_mae\[export\]"):
        export_encoder("no such model", tmp_path / "model", name)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_use_is_named_before_any_work(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(ValueError, match="`directory`"):
        export_encoder("no such model", tmp_path, warmup=False)


def test_representative_images_are_real_and_fit():
    class Source:
        encoder = encoder(num_layers=1)

    images, facts = calibration.representative_images(Source, "mnist5k", 6)
    assert images.shape == (6, 28, 28, 1)
    assert facts == {"representative": {"images": "mnist5k", "num_images": 6}}
    for wrong in ("photos", "folder:there_is_none"):
        with pytest.raises(ValueError, match="`representative`"):
            calibration.representative_images(Source, wrong, 6)


def test_weights_that_are_too_many_for_one_file():
    class Source:
        facts = {"parameters": calibration.MAX_CONSTANT_BYTES // 4}

    calibration.check_constants_fit(Source)
    Source.facts = {"parameters": calibration.MAX_CONSTANT_BYTES // 4 + 1}
    with pytest.raises(ValueError, match="`model`"):
        calibration.check_constants_fit(Source)
