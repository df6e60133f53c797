"""Masked autoencoder pre-training of vision transformers in Keras 3.

Names are imported when they are first used, so that a command can tell a wrong flag at once. The
classes are registered with Keras all the same: as soon as both packages are imported, in either
order, `keras.saving.load_model` opens our files.
"""

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING

from keras_mae.version import __version__

if TYPE_CHECKING:
    from keras_mae import data, layers, training
    from keras_mae.export import export_encoder
    from keras_mae.interop import (
        load_encoder,
        load_pretrained,
        load_weights_into,
        save_pretrained,
    )
    from keras_mae.models import (
        MAEDecoder,
        MaskedAutoencoder,
        ViTClassifier,
        ViTEncoder,
    )
    from keras_mae.presets import list_presets
    from keras_mae.settings import FinetuneSettings, PretrainSettings, ReportSettings
    from keras_mae.tasks.classify import finetune
    from keras_mae.tasks.pretrain import pretrain

# Name -> the module that has it; a module itself where the two are the same.
_HOMES = {
    "FinetuneSettings": "keras_mae.settings",
    "MAEDecoder": "keras_mae.models",
    "MaskedAutoencoder": "keras_mae.models",
    "PretrainSettings": "keras_mae.settings",
    "ReportSettings": "keras_mae.settings",
    "ViTClassifier": "keras_mae.models",
    "ViTEncoder": "keras_mae.models",
    "data": "keras_mae.data",
    "export_encoder": "keras_mae.export",
    "finetune": "keras_mae.tasks.classify",
    "layers": "keras_mae.layers",
    "list_presets": "keras_mae.presets",
    "load_encoder": "keras_mae.interop",
    "load_pretrained": "keras_mae.interop",
    "load_weights_into": "keras_mae.interop",
    "pretrain": "keras_mae.tasks.pretrain",
    "save_pretrained": "keras_mae.interop",
    "training": "keras_mae.training",
}
# All modules that register classes with Keras.
_REGISTERING = ("keras_mae.interop", "keras_mae.training")

__all__ = [
    "FinetuneSettings",
    "MAEDecoder",
    "MaskedAutoencoder",
    "PretrainSettings",
    "ReportSettings",
    "ViTClassifier",
    "ViTEncoder",
    "__version__",
    "data",
    "export_encoder",
    "finetune",
    "layers",
    "list_presets",
    "load_encoder",
    "load_pretrained",
    "load_weights_into",
    "pretrain",
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


class _AfterKeras:
    """Finds `keras` as Python would have without it, and registers our classes after its import."""

    def find_spec(self, name, path=None, target=None):
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                _register()

            spec.loader.exec_module = execute_and_register
        return spec


if "keras" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _AfterKeras())
