import pytest
from small_preset import NAME, shrink

from keras_mae.models import presets


@pytest.fixture(scope="module")
def small_preset():
    """Make the default preset's model small, for a module's tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets._TABLE, NAME, presets._TABLE[NAME])
        shrink()
        yield
