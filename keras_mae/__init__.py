"""Masked autoencoder pre-training of vision transformers in Keras 3.

Names are imported when they are first used, so that a command can tell a wrong flag at once. The
classes are registered with Keras all the same: as soon as both packages are imported, in either
order, `keras.saving.load_model` opens our files.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
from typing import TYPE_CHECKING

from keras_mae.version import __version__

if TYPE_CHECKING:
    from keras_mae import data, layers, plots, training
    from keras_mae.export import export_encoder
    from keras_mae.interop import (
        load_encoder,
        load_pretrained,
        load_weights_into,
        push_to_hub,
        save_pretrained,
    )
    from keras_mae.models import (
        MAEDecoder,
        MaskedAutoencoder,
        ViTClassifier,
        ViTDetector,
        ViTEmbedder,
        ViTEncoder,
        ViTSegmenter,
        backbones,
    )
    from keras_mae.presets import list_presets
    from keras_mae.settings import FinetuneSettings, PretrainSettings, ReportSettings
    from keras_mae.tasks.embed import embed
    from keras_mae.tasks.finetune import finetune
    from keras_mae.tasks.predict import predict
    from keras_mae.tasks.pretrain import pretrain

# Name -> the module that has it; a module itself where the two are the same.
_HOMES = {
    "FinetuneSettings": "keras_mae.settings",
    "MAEDecoder": "keras_mae.models",
    "MaskedAutoencoder": "keras_mae.models",
    "PretrainSettings": "keras_mae.settings",
    "ReportSettings": "keras_mae.settings",
    "ViTClassifier": "keras_mae.models",
    "ViTDetector": "keras_mae.models",
    "ViTEmbedder": "keras_mae.models",
    "ViTEncoder": "keras_mae.models",
    "ViTSegmenter": "keras_mae.models",
    "backbones": "keras_mae.models",
    "data": "keras_mae.data",
    "embed": "keras_mae.tasks.embed",
    "export_encoder": "keras_mae.export",
    "finetune": "keras_mae.tasks.finetune",
    "layers": "keras_mae.layers",
    "list_presets": "keras_mae.presets",
    "load_encoder": "keras_mae.interop",
    "load_pretrained": "keras_mae.interop",
    "load_weights_into": "keras_mae.interop",
    "plots": "keras_mae.plots",
    "predict": "keras_mae.tasks.predict",
    "pretrain": "keras_mae.tasks.pretrain",
    "push_to_hub": "keras_mae.interop",
    "save_pretrained": "keras_mae.interop",
    "training": "keras_mae.training",
}
# Rooms that import Keras when they are, and those of them that hold all registered classes.
_ROOMS = ("evaluation", "interop", "layers", "models", "plots", "tasks", "training")
_REGISTERING = ("keras_mae.interop", "keras_mae.training")

__all__ = [
    "FinetuneSettings",
    "MAEDecoder",
    "MaskedAutoencoder",
    "PretrainSettings",
    "ReportSettings",
    "ViTClassifier",
    "ViTDetector",
    "ViTEmbedder",
    "ViTEncoder",
    "ViTSegmenter",
    "__version__",
    "backbones",
    "data",
    "embed",
    "export_encoder",
    "finetune",
    "layers",
    "list_presets",
    "load_encoder",
    "load_pretrained",
    "load_weights_into",
    "plots",
    "predict",
    "pretrain",
    "push_to_hub",
    "save_pretrained",
    "training",
]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    value = module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})


def _register():
    for module in _REGISTERING:
        importlib.import_module(module)


class _RegisterFirst:
    """Registers our classes when Keras, or a room that needs it, is first imported.

    A room is not begun before: half imported, it could not be imported by the others.
    """

    def find_spec(self, name, path=None, target=None):
        rooms = [f"{__name__}.{room}" for room in _ROOMS]
        if name != "keras" and name not in rooms:
            return None
        sys.meta_path.remove(self)
        if name == "keras":
            return _then(importlib.util.find_spec(name), _register)
        importlib.import_module("keras")
        _register()
        if name not in sys.modules:
            return None  # to be found as any module
        # Python asks the module, which is there by now, for its spec: that one has to be ours.
        module = sys.modules[name]
        module.__spec__ = importlib.machinery.ModuleSpec(name, _Loaded(module))
        return module.__spec__


class _Loaded:
    """The loader of a module that is there already."""

    def __init__(self, module):
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec):
        return self.module

    def exec_module(self, module):
        module.__spec__ = self.spec


def _then(spec, function):
    """Return the spec of a module, after whose import a function is called."""
    if spec is not None and spec.loader is not None:
        execute = spec.loader.exec_module

        def execute_and_call(module):
            execute(module)
            function()

        spec.loader.exec_module = execute_and_call
    return spec


if "keras" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _RegisterFirst())
