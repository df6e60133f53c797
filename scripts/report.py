"""Measure what an encoder is good for, for several seeds, and write a page with charts.

    python scripts/report.py --encoder=saved_models/mae_mnist5k/encoder.keras --dataset=mnist5k
    python scripts/report.py --encoder='saved_models/mae_{seed}/encoder.keras' --seeds=0,1,2
    python scripts/report.py --sweep=mask_ratio=.25,.5,.6,.75,.9 --sweep=masking=random,block,grid

Without --encoder, one is pre-trained for each seed. The page has linear probes, nearest neighbours,
full and partial fine-tuning, training from scratch, and raw pixels. The same command goes on where
it was cut; other settings add to what is there.
"""

from keras_mae.commands import run

if __name__ == "__main__":
    run("report")
