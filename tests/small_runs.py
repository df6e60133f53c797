"""Runs that do less where it is not the model, or what is written of it, that is tested.

Called before a script (see `forks.py`), or by a fixture (see `runs/conftest.py`).
"""

from keras_mae import presets
from keras_mae.tasks.pretrain import Pretrain

NAME = "mae_vit_mini_patch4"


def shrink():
    """Give the default preset one block where it has more, and larger patches.

    Widths stay, so that a checkpoint takes its time to be written.
    """
    presets._TABLE[NAME] = (28, 1, 7, (96, 1, 3), (64, 1, 4))


def train_only():
    """Let a run end with its `mae.keras`: no encoder is written, and no figure."""
    Pretrain.write_encoder_and_figures = lambda *args: None
