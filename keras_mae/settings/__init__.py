"""The settings of each command, without anything heavy: flags, help and checks are made of them."""

from keras_mae.settings.finetune import FinetuneSettings
from keras_mae.settings.pretrain import PretrainSettings
from keras_mae.settings.report import ReportSettings

__all__ = ["FinetuneSettings", "PretrainSettings", "ReportSettings"]
