"""What a user calls has type hints, and the package says so."""

import configparser
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Rooms that say in `__all__` what they have for users, and modules all of whose functions are.
ROOMS = (
    "keras_mae",
    "keras_mae.data",
    "keras_mae.export",
    "keras_mae.interop",
    "keras_mae.layers",
    "keras_mae.models",
    "keras_mae.settings",
    "keras_mae.training",
)
MODULES = (
    "keras_mae.commands",
    "keras_mae.errors",
    "keras_mae.evaluation.baseline",
    "keras_mae.evaluation.classification",
    "keras_mae.evaluation.coco",
    "keras_mae.evaluation.comparison",
    "keras_mae.evaluation.confusion",
    "keras_mae.evaluation.features",
    "keras_mae.evaluation.knn",
    "keras_mae.evaluation.neighbors",
    "keras_mae.evaluation.quality",
    "keras_mae.evaluation.segmentation",
    "keras_mae.files",
    "keras_mae.pixels",
    "keras_mae.pages",
    "keras_mae.plots.attention",
    "keras_mae.plots.charts",
    "keras_mae.plots.components",
    "keras_mae.plots.confusion",
    "keras_mae.plots.contact_sheet",
    "keras_mae.plots.dense",
    "keras_mae.plots.figures",
    "keras_mae.plots.monitors",
    "keras_mae.plots.reconstructions",
    "keras_mae.poolings",
    "keras_mae.presets",
    "keras_mae.registry",
    "keras_mae.tasks.classify",
    "keras_mae.tasks.dense",
    "keras_mae.tasks.detect",
    "keras_mae.tasks.embed",
    "keras_mae.tasks.encoders",
    "keras_mae.tasks.finetune",
    "keras_mae.tasks.outputs",
    "keras_mae.tasks.predict",
    "keras_mae.tasks.pretrain",
    "keras_mae.tasks.probe",
    "keras_mae.tasks.segment",
    "keras_mae.tasks.tables",
    "keras_mae.training.loop",
    "keras_mae.training.page",
)


def public_values(name):
    """Return {name: value} of what a room has in `__all__`, or of what a module itself defines."""
    module = importlib.import_module(name)
    if name in ROOMS:
        return {public: getattr(module, public) for public in module.__all__}
    return {
        public: value
        for public, value in vars(module).items()
        if not public.startswith("_") and getattr(value, "__module__", None) == name
    }


def functions_of(name, value):
    """Yield (name, function) of a function, or of a class's own public methods and properties."""
    if inspect.isfunction(value):
        yield name, value
    if not inspect.isclass(value):
        return
    for own, member in vars(value).items():
        if own.startswith("_") and own not in ("__init__", "__call__"):
            continue
        for function in (getattr(member, "fget", None), getattr(member, "__func__", None), member):
            if inspect.isfunction(function):
                yield f"{name}.{own}", inspect.unwrap(function)


def faults_of(name, function):
    """Yield what has no hint, of a function's parameters and of what it returns."""
    signature = inspect.signature(function)
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls") or parameter.kind in free:
            continue
        if parameter.annotation is parameter.empty:
            yield f"{name}: {parameter.name}"
    if signature.return_annotation is signature.empty and not name.endswith(".__init__"):
        yield f"{name}: what it returns"


def test_what_a_user_calls_has_hints():
    functions = {
        (module, name): function
        for module in (*ROOMS, *MODULES)
        for public, value in public_values(module).items()
        for name, function in functions_of(public, value)
    }
    faults = [
        f"{module}.{fault}"
        for (module, name), function in functions.items()
        for fault in faults_of(name, function)
    ]
    assert not faults, "\n".join(faults)
    # Something was looked at: a function, a method, a property, a class method.
    assert ("keras_mae.layers", "patchify") in functions
    assert ("keras_mae", "MaskedAutoencoder.reconstruct") in functions
    assert ("keras_mae", "MaskedAutoencoder.mean") in functions
    assert ("keras_mae", "MaskedAutoencoder.from_preset") in functions
    assert ("keras_mae.plots.figures", "loss_figure") in functions


def test_modules_are_all_that_a_room_without_all_has():
    for room in ("evaluation", "plots"):
        files = {path.stem for path in (ROOT / "keras_mae" / room).glob("[!_]*.py")}
        assert {f"keras_mae.{room}.{file}" for file in files} <= set(MODULES)


@pytest.mark.parametrize(
    "source, expected",
    [
        ("def f(a: int, *b, **c) -> int: ...", []),
        ("def f(a) -> int: ...", ["f: a"]),
        ("def f(*, a=1) -> int: ...", ["f: a"]),
        ("def f(a: int): ...", ["f: what it returns"]),
    ],
)
def test_a_missing_hint_is_found(source, expected):
    names = {}
    exec(source, names)
    assert list(faults_of("f", names["f"])) == expected


def test_a_missing_hint_of_a_method_is_found():
    class Mine:
        def __init__(self, a):
            """Without a hint of `a`."""

        @property
        def b(self):
            """Without a hint of what it returns."""

        @classmethod
        def c(cls) -> int:
            return 1

        def _d(self, a):
            """A user does not call it."""

    faults = [
        fault
        for name, function in functions_of("Mine", Mine)
        for fault in faults_of(name, function)
    ]
    assert faults == ["Mine.__init__: a", "Mine.b: what it returns"]


def test_hints_are_part_of_the_package():
    assert (ROOT / "keras_mae" / "py.typed").exists()
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["options.package_data"]["keras_mae"].split() == ["py.typed"]
