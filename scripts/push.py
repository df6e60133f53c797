"""Put a model on the Hugging Face hub, with a model card made from its run.

    python scripts/push.py --source=saved_models/mae_mnist5k --repo=me/mae-digits --licence=mit
    python scripts/push.py --source=run --repo=me/digits --licence=mit --format=keras_hub

It needs `pip install "keras_mae[hub]"` and a token that may write: in HF_TOKEN, or of `hf auth
login`. A new repository is private, unless --noprivate says otherwise.
"""

from keras_mae.commands import run

if __name__ == "__main__":
    run("push")
