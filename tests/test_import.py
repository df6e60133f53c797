"""`import keras_mae` is light, and registers all classes with Keras, whatever is imported first."""

import subprocess
import sys

import pytest

CHECK = """
import sys
import keras
names = ("ViTEncoder", "MaskedAutoencoder", "ViTClassifier", "SavedModelEncoder", "AdamW", "LARS")
for name in names:
    assert keras.saving.get_registered_object(f"keras_mae>{name}") is not None, name
import keras_mae.models.encoder
import keras_mae.layers.masking
assert keras_mae.ViTEncoder is keras_mae.models.encoder.ViTEncoder is keras_mae.models.ViTEncoder
assert keras.saving.get_registered_object("keras_mae>ViTEncoder") is keras_mae.ViTEncoder
for name, module in sys.modules.items():
    assert not name.startswith("keras_mae") or module.__spec__.name == name
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_nothing_heavy_is_imported_by_the_package_and_its_settings():
    run(
        "import sys, keras_mae, keras_mae.settings, keras_mae.commands\n"
        "heavy = {'keras', 'tensorflow', 'jax', 'torch', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import keras_mae",
        "import keras; import keras_mae",
        "import keras_mae.models",
        "from keras_mae.layers import Attention",
        "import keras_mae.training.optimizers",
        "from keras_mae import ViTEncoder",
        "import keras_mae.data; import keras_mae.tasks.pretrain",
    ],
)
def test_classes_are_registered_whatever_comes_first(first):
    run(first + "\n" + CHECK)


def test_all_names_are_there_and_no_others():
    import keras_mae

    assert set(keras_mae.__all__) <= set(dir(keras_mae))
    assert all(getattr(keras_mae, name) is not None for name in keras_mae.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        keras_mae.nothing  # noqa: B018
