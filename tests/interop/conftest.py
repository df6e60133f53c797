"""The tests here need PyTorch and transformers, for numbers to compare with."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
