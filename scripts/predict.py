"""Write what a fine-tuned classifier says of images, a row each.

Where the images have labels, it measures the predictions too, and draws the worst mistakes. The
same command goes on where it was cut.

    python scripts/predict.py --model=saved_models/few picture.png photos
    python scripts/predict.py --model=saved_models/few --dataset=mnist5k --part=heldout
    python scripts/predict.py --model=exported/few --dataset=folder:new --output=new.parquet
"""

from keras_mae.commands import run

if __name__ == "__main__":
    run("predict")
