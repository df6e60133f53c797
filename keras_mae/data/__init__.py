"""Images for training and for measuring: sources, decoding, augmentation, `tf.data` pipelines."""

from keras_mae.data.augment import evaluation_transform
from keras_mae.data.decode import load_image
from keras_mae.data.finetune import balanced_subset, features_dataset, finetune_dataset
from keras_mae.data.parts import Parts, open_parts
from keras_mae.data.pipeline import eval_dataset, pretrain_dataset
from keras_mae.data.sensor import SensorOptions
from keras_mae.data.skips import SkipLog, TooManyBadImages
from keras_mae.data.sources import ArraySource, EncodedSource, Source, load_source

__all__ = [
    "ArraySource",
    "EncodedSource",
    "Parts",
    "SensorOptions",
    "SkipLog",
    "Source",
    "TooManyBadImages",
    "balanced_subset",
    "eval_dataset",
    "evaluation_transform",
    "features_dataset",
    "finetune_dataset",
    "load_image",
    "load_source",
    "open_parts",
    "pretrain_dataset",
]
