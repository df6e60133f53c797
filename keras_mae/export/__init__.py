"""The encoder leaves the house: SavedModel for TF Serving, LiteRT, ONNX, each checked.

A format is one file of `keras_mae/export/formats`, or a class of your own. Neither keras nor
TensorFlow is imported before `export_encoder` is used.
"""

from keras_mae.export.formats.base import ExportError, Format, Option, Written

__all__ = ["ExportError", "Format", "Option", "Written", "export_encoder"]


def __getattr__(name):
    if name != "export_encoder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from keras_mae.export.write import export_encoder

    return export_encoder
