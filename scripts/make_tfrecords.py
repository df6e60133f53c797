"""Pack the images of any data set into sharded TFRecord files, once, and smaller where wished.

    python scripts/make_tfrecords.py --dataset=folder:/data/photos --output=/data/packed/photos \\
        --shorter_side=512
    python scripts/pretrain.py --dataset='tfrecord:/data/packed/photos-*.tfrecord'

Labels, splits and names are kept, so the same images are held out. Without --shorter_side image
files are copied as they are, not decoded. A file appears under its name only when it is whole, and
OUTPUT.index.json last: if it is there, all is there.
"""

from keras_mae.commands import run

if __name__ == "__main__":
    run("records")
