"""Export an encoder or a classifier for use without this library, and check what was written.

    python scripts/export.py --model=saved_models/mae_mnist5k --output=exported/encoder
    python scripts/export.py --model=encoder.keras --format=litert --output=exported/encoder_litert

The model is a file or folder that `keras_mae.load_pretrained` knows. Every format needs
`pip install "keras_mae[export]"`, a SavedModel only for its warm-up requests (--nowarmup).
"""

from keras_mae.commands import run

if __name__ == "__main__":
    run("export")
