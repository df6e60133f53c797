"""Pack a folder of images into sharded TFRecord files.

    python scripts/make_tfrecords.py --folder=/data/photos --output=/data/photos_tfrecord/train
    python scripts/pretrain.py --dataset='tfrecord:/data/photos_tfrecord/train-*.tfrecord'

Image files are copied as they are, not decoded; class folders become labels. A file appears under
its name only when it is whole, and OUTPUT.index.json last: if it is there, all is there.
"""

from keras_mae.commands import run

if __name__ == "__main__":
    run("records")
