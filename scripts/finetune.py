"""Put a pre-trained encoder to work on labelled images: fine-tune, probe, neighbours.

    python scripts/finetune.py --encoder=saved_models/mae_mnist5k
    python scripts/finetune.py --encoder=saved_models/mae_mnist5k --protocol=linear
    python scripts/finetune.py --encoder=saved_models/mae_mnist5k --train_examples=500
    python scripts/finetune.py --encoder=mae_pretrain_vit_base.pth --dataset=folder:photos

Flags that are not given follow the recipe of the protocol, which is printed; docs/recipes.md says
where the recipes come from. Flags can be kept in a file, one a line, and given by --flagfile=FILE.
"""

from keras_mae.commands import run

if __name__ == "__main__":
    run("finetune")
