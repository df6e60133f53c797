"""Check that TF Serving will serve a SavedModel, without its binary, and print how to ask it.

    python scripts/serve_check.py --saved_model=exported/encoder

Opens the model with the loader of sessions, as the server does; sends itself the warm-up requests;
and calls it over gRPC with TF Serving's own client and messages. Needs
`pip install "keras_mae[export]"`.
"""

from keras_mae.commands import run

if __name__ == "__main__":
    run("serve-check")
