"""SavedModel, laid out for TF Serving: `NAME/VERSION/`, with signatures and warm-up requests.

TF Serving loads it, and TensorFlow alone; `keras.layers.TFSMLayer(path, call_endpoint="serve")` is
a layer of it that trains.
"""

from pathlib import Path

from keras_mae.export.formats.base import Format, Option, Written
from keras_mae.files import check_writable, next_version_path, write_json
from keras_mae.pixels import BYTE_RANGE, normalize, pixel_dtype

CLASS_NAMES = "class_names.json"
SERVING_CANDIDATES = "serving_candidates"


class Runner:
    """A SavedModel and all its signatures that take images."""

    batch_size = None  # any

    def __init__(self, path):
        import tensorflow as tf

        self.tf = tf
        self.loaded = tf.saved_model.load(path)

    def __call__(self, images):
        outputs = self.answer(images)
        if SERVING_CANDIDATES in self.loaded.signatures:
            outputs.update(self.answer(images, SERVING_CANDIDATES))
        return outputs

    def answer(self, images, signature="serving_default"):
        """Return the outputs of one signature."""
        outputs = self.loaded.signatures[signature](
            images=self.tf.constant(images.astype("float32"))
        )
        return {name: value.numpy() for name, value in outputs.items()}

    def others(self, images, normalised):
        """Yield (signature, outputs) for the same images given in other ways."""
        tf, signatures = self.tf, self.loaded.signatures
        stored = f"serving_{images.dtype}"
        if stored in signatures:
            yield stored, signatures[stored](images=tf.constant(images))
        if "serving_bytes" in signatures:
            # Of the model's size, and without loss: the pixels come through as they are.
            encoded = tf.stack([tf.io.encode_png(image) for image in images])
            yield "serving_bytes", signatures["serving_bytes"](image_bytes=encoded)
        if "serving_tokens" in signatures:
            floats = tf.constant(images.astype("float32"))
            feature_map = signatures["serving_tokens"](images=floats)["feature_map"]
            rows = tf.reshape(feature_map, (len(images), -1, feature_map.shape[-1]))
            yield "serving_tokens", {"patch_tokens": rows}
        yield "serve", {"tokens": self.loaded.serve(tf.constant(normalised))}


class SavedModel(Format):
    """A SavedModel with these signatures, each for batches of any size.

        serving_default  images float32 (B, H, W, C), in the model's value range
        serving_uint8    images uint8, or serving_uint16 or serving_int16, where that is the type of
                         the range: a signature has one dtype. JSON has one kind of number, so
                         REST clients of either send to serving_default
        serving_bytes    image_bytes string (B,): JPEG or PNG files, of any sizes; of models that
                         take pixels 0-255 of one or three channels
        serving_candidates  images float32; of detectors: `candidate_boxes` and `candidate_scores`
        serving_tokens   images float32; with `dense`

    The first three give the other outputs that `keras_mae.export.export_encoder` names, but that
    boxes of `serving_bytes` are in the file's pixels; `serving_tokens` gives
    `feature_map` `(B, H / p, W / q, D)`, the patches' tokens in their places, for dense heads.
    Beside them there is the endpoint `serve`: images float32, normalised, to tokens
    `(B, T + N, D)`. Its variables train. Names of classes are in `class_names.json`.
    """

    OPTIONS = (
        Option("dense", bool, False, "add the signature serving_tokens: feature maps."),
        Option(
            "warmup",
            bool,
            True,
            "write requests with which TF Serving warms up; needs tensorflow-serving-api.",
        ),
        Option(
            "whole",
            bool,
            False,
            "serving_bytes resizes the whole image, as the pipeline does with data sets of images "
            "of one size; else the middle is cut out.",
        ),
        Option(
            "resize",
            str,
            "bicubic",
            "how serving_bytes resizes; bicubic (antialiased) is the pipeline's.",
            choices=("bicubic", "bilinear"),
        ),
    )
    PACKAGES = ("tensorflow",)
    BOUNDS = {"float32": {"difference": 1e-5}}
    Runner = Runner

    def check(self):
        if self.warmup:
            from keras_mae.export.serving import serving_apis

            serving_apis()

    def final_path(self, directory):
        """Return the path of the next free version in a model's directory: `directory/1` at first.

        Args:
            directory: str or path, NAME; TF Serving calls the model so by default.
        Raises:
            ValueError: if `directory` is a file, cannot be written, or is itself a version.
        """
        directory = Path(directory)
        if directory.exists() and not directory.is_dir():
            raise ValueError(f"`directory` must be a directory. Received: a file, {directory}")
        if (directory / "saved_model.pb").exists():
            raise ValueError(
                "`directory` must be NAME, which holds all versions of a model, not one of them, "
                f"NAME/VERSION. Received: {directory}"
            )
        check_writable(directory)
        return next_version_path(directory)

    def write(self, source, directory, images):
        import keras
        import tensorflow as tf

        from keras_mae.export.compare import CANDIDATES
        from keras_mae.export.image_bytes import (
            boxes_on_files,
            canvases_of_bytes,
            pixels_of_bytes,
        )
        from keras_mae.export.serving import read_signatures, write_warmup
        from keras_mae.export.source import model_outputs, pooled_tokens

        model, encoder = source.model, source.encoder
        size, value_range = encoder.image_size, encoder.value_range
        shape, dtype = (None, *size, encoder.channels), pixel_dtype(value_range)
        task = source.facts["task"]
        is_dense = task in ("segmentation", "detection")
        if self.whole and is_dense:
            raise ValueError(
                f"`whole` must be left out for {task}: serving_bytes takes the whole image anyway, "
                "in its own shape. Received: True"
            )

        # One graph of the encoder, which all signatures call: it is not written once for each.
        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False)
        def encode(images):
            return pooled_tokens(model, images)

        def last_block(images):
            return encode(images)[..., -encoder.hidden_dim :]

        def outputs_of(images):
            normalised = normalize(images, encoder.mean, encoder.std, value_range)
            return model_outputs(model, normalised, encode)

        def answer(images):
            outputs = outputs_of(images)
            return {name: value for name, value in outputs.items() if name not in CANDIDATES}

        def candidates(images):
            outputs = outputs_of(images)
            return {name: outputs[name] for name in CANDIDATES}

        background = [255 * mean for mean in encoder.mean]

        def of_bytes(image_bytes):
            return answer(pixels_of_bytes(image_bytes, size, background, self.resize, self.whole))

        def of_whole_bytes(image_bytes):
            images, sizes = canvases_of_bytes(image_bytes, size, background, self.resize)
            outputs = answer(images)
            if task == "detection":
                boxes, classes = outputs["boxes"], outputs["classes"]
                outputs["boxes"] = boxes_on_files(boxes, classes, sizes, size)
            return outputs

        def feature_map(images):
            tokens = last_block(normalize(images, encoder.mean, encoder.std, value_range))
            tokens = tokens[:, encoder.num_class_tokens :]
            return {
                "feature_map": tf.reshape(tokens, (-1, *encoder.grid_size, encoder.hidden_dim)),
            }

        pixels = tf.TensorSpec(shape, tf.float32, name="images")
        endpoints = {"serve": (last_block, pixels), "serving_default": (answer, pixels)}
        if dtype != "float32":
            endpoints[f"serving_{dtype}"] = (
                lambda images: answer(tf.cast(images, tf.float32)),
                tf.TensorSpec(shape, dtype, name="images"),
            )
        # TensorFlow decodes files of no other pixels.
        if value_range == BYTE_RANGE and encoder.channels in (1, 3):
            files = tf.TensorSpec((None,), tf.string, name="image_bytes")
            endpoints["serving_bytes"] = (of_whole_bytes if is_dense else of_bytes, files)
        if task == "detection":
            endpoints[SERVING_CANDIDATES] = (candidates, pixels)
        if self.dense:
            endpoints["serving_tokens"] = (feature_map, pixels)
        # It tracks the variables that its functions use. If it were told to track the model, too,
        # it would write them twice.
        archive = keras.export.ExportArchive()
        for name, (function, spec) in endpoints.items():
            archive.add_endpoint(name, function, input_signature=[spec])
        archive.write_out(str(directory), verbose=False)
        if names := source.facts.get("class_names"):
            write_json(directory / CLASS_NAMES, names)
        signatures = read_signatures(directory)
        if self.warmup:
            write_warmup(directory, signatures, images[0], source.facts["kind"])
        transform = {"resize": self.resize, "whole": self.whole or is_dense}
        facts = {"warmup_requests": self.warmup, "bytes_transform": transform}
        return Written(".", "float32", signatures, facts)
