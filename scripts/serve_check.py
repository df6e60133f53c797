"""Check that TF Serving will serve a SavedModel, without its binary: see --help."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_mae.export.command import serve_check

if __name__ == "__main__":
    serve_check(sys.argv)
