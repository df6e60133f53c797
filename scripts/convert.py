"""Turn a checkpoint of one library into another's, and check what was written.

    python scripts/convert.py --source=downloads/vit-mae-base --target=mae.keras --format=keras
    python scripts/convert.py --source=saved_models/mae_mnist5k --target=mae_hf --format=hf
    python scripts/convert.py --source=hf://facebook/vit-mae-base --target=preset --format=keras_hub

The source is what `keras_mae.load_pretrained` knows: a file, a folder, or hf://OWNER/NAME on the
Hugging Face hub. Files of PyTorch, read or written, need `pip install "keras_mae[interop]"`; hf://
needs "keras_mae[hub]"; writing KerasHub's presets needs "keras_mae[keras_hub]".
"""

from keras_mae.commands import run

if __name__ == "__main__":
    run("convert")
