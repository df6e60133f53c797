"""The tests here need PyTorch and transformers, for numbers to compare with."""

import importlib

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
# Before any test imports a model of transformers or timm.
importlib.import_module("keras_mae.testing.oracle")
