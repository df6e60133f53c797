"""Pack a folder of images into sharded TFRecord files.

    python scripts/make_tfrecords.py --folder=/data/photos --output=/data/photos_tfrecord/train
    python scripts/pretrain.py --dataset='tfrecord:/data/photos_tfrecord/train-*.tfrecord'

Image files are copied as they are, not decoded; class folders become labels. A file appears under
its name only when it is whole, and OUTPUT.index.json last: if it is there, all is there.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags

from keras_mae.data.tfrecords import make_tfrecords
from keras_mae.files import printable

FOLDER = flags.DEFINE_string("folder", None, "Folder of images, at any depth.", required=True)
OUTPUT = flags.DEFINE_string(
    "output", None, "Beginning of the files' names, such as /data/out/train.", required=True
)
NUM_SHARDS = flags.DEFINE_integer(
    "num_shards", None, "Number of files. Default: one for each 128 MiB.", lower_bound=1
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    left_out = []

    def on_error(path, error):
        left_out.append(path)
        print(f"left out {printable(path)}: {error}", file=sys.stderr)

    try:
        index = make_tfrecords(
            FOLDER.value, OUTPUT.value, num_shards=NUM_SHARDS.value, on_error=on_error
        )
    except (ValueError, OSError) as error:
        sys.exit(f"make_tfrecords: {error}")
    print(
        f"{index['num_examples']} images in {len(index['shards'])} files "
        f"{OUTPUT.value}-*.tfrecord, {index['num_classes'] or 'no'} classes, "
        f"{len(left_out)} files left out"
    )


if __name__ == "__main__":
    app.run(main)
