"""Features of a frozen encoder, and what they are good for: probe, neighbours, comparison.

And what classifiers, segmenters and detectors are worth.
"""

from keras_mae.evaluation.coco import coco_metrics
from keras_mae.evaluation.segmentation import PixelCounts, segmentation_metrics

__all__ = ["PixelCounts", "coco_metrics", "segmentation_metrics"]
