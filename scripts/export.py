"""Export an encoder or a classifier for use without this library: see --help."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_mae.export.command import export

if __name__ == "__main__":
    export(sys.argv)
