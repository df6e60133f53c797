"""Keep what TensorFlow prints before its log level counts from the user's screen."""

import logging
import os
import re
import sys
import tempfile
from contextlib import contextmanager

# Lines of no consequence: of the logger itself, of a processor's features, of a GPU that is not
# there. Anything else, an error above all, is printed.
_NOISE = re.compile(
    rb"All log messages before absl::InitializeLog"
    rb"|port\.cc:\d+\] oneDNN"
    rb"|cudart_stub\.cc:\d+\]"
    rb"|cpu_feature_guard\.cc:\d+\]"
    rb"|^To enable the following instructions:"
    rb"|Unable to register cu\w+ factory"
    rb"|computation_placer\.cc"
)


@contextmanager
def quiet_import():
    """Hold back what is written to the error stream inside, and print at the end what matters.

    Example:
        with quiet_import():
            import tensorflow
    """
    try:
        kept = os.dup(2)
    except OSError:  # no error stream: nothing to keep quiet
        yield
        return
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            for line in file:
                if not _NOISE.search(line):
                    os.write(2, line)


def set_environment():
    """Set what TensorFlow reads when it is imported, unless the user has; keep matplotlib quiet."""
    # It says where it keeps its font cache where the home directory cannot be written.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Its matrix products are the fastest; TensorFlow leaves them off on CPUs without AVX-512.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
