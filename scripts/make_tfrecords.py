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

from keras_mae.data.sources import load_source
from keras_mae.data.tfrecords import write_tfrecords

FOLDER = flags.DEFINE_string("folder", None, "Folder of images, at any depth.", required=True)
OUTPUT = flags.DEFINE_string(
    "output", None, "Beginning of the files' names, such as /data/out/train.", required=True
)
NUM_SHARDS = flags.DEFINE_integer(
    "num_shards", None, "Number of files. Default: one for each 128 MiB.", lower_bound=1
)

SHARD_BYTES = 128 * 2**20


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    left_out = []

    def on_error(path, error):
        left_out.append(path)
        print(f"left out {path}: {error}", file=sys.stderr)

    try:
        source = load_source(f"folder:{FOLDER.value}")
        num_shards = NUM_SHARDS.value or min(
            source.num_examples, -(-source.num_bytes() // SHARD_BYTES) or 1
        )
        index = write_tfrecords(source, OUTPUT.value, num_shards=num_shards, on_error=on_error)
    except (ValueError, OSError) as error:
        sys.exit(f"make_tfrecords: {error}")
    print(
        f"{index['num_examples']} images in {num_shards} files {OUTPUT.value}-*.tfrecord, "
        f"{index['num_classes'] or 'no'} classes, {len(left_out)} files left out"
    )


if __name__ == "__main__":
    app.run(main)
