"""Check that TF Serving will serve a SavedModel, without its binary, and print how to ask it.

    python scripts/serve_check.py --saved_model=exported/encoder

Opens the model with the loader of sessions, as the server does; sends itself the warm-up requests;
and calls it over gRPC with TF Serving's own client and messages. Needs
`pip install "keras_mae[export]"`.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging

from keras_mae.export import serving
from keras_mae.export.serve_check import serve_check

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "saved_model", None, "NAME/VERSION, or NAME for its newest version.", required=True
)


def main(argv):
    logging.set_verbosity(logging.ERROR)  # the loader's word on its own age
    try:
        if argv[1:]:
            raise ValueError(f"Arguments must be flags (--name=value). Received: {argv[1:]}")
        path = serving.model_version(FLAGS.saved_model)
        serving.serving_apis()
        problems = serve_check(path)
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"\nServe it and ask it:\n\n{serving.serving_commands(path)}")
    if problems:
        sys.exit("error: " + "; ".join(problems))


if __name__ == "__main__":
    app.run(main)
