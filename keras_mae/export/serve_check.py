"""What TF Serving would do with a SavedModel, done here and printed line by line."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_mae.export.compare import CANDIDATES, Suppression, compare_detections
from keras_mae.export.serving import (
    SessionModel,
    encode_image,
    example_inputs,
    local_service,
    predict_request,
    read_signatures,
    replay_warmup,
    response_arrays,
)
from keras_mae.files import saved_model_path
from keras_mae.models.saved_model_encoder import CARD
from keras_mae.pixels import BYTE_RANGE, pixel_dtype

# Between two ways to give the same image; they run the same graph.
TOLERANCE = 1e-5
BATCHES = (1, 3)
# Those that take the same images, each in its way.
SIGNATURES = (
    "serving_default",
    "serving_uint8",
    "serving_uint16",
    "serving_int16",
    "serving_bytes",
    "serving_tokens",
)
# A detector's answers are held to what this one gives, for near ties may be decided either way.
SERVING_CANDIDATES = "serving_candidates"


def find_version(path):
    """Return the `Path` of a SavedModel: `path` itself, or the newest version in it.

    Raises:
        ValueError: if there is none.
    """
    version = saved_model_path(path)
    if version is None:
        raise ValueError(
            "`saved_model` must be a SavedModel, NAME/VERSION, or a directory of versions, NAME. "
            f"Received: {path}"
        )
    return version


def serve_check(path, report=print):
    """Open a SavedModel as a server, replay its warm-up file, and ask it over gRPC.

    Asked: every signature that takes images, in batches of 1 and 3; each must give the same as
    `serving_default`. Then a broken file, which must fail alone: the next request must succeed.

    Args:
        path: of the version's directory.
        report: function that is given each line.
    Returns:
        list of str: what is wrong; empty if nothing is.
    Raises:
        ValueError: if the SavedModel has no `serving_default` that takes `images`.
    """
    import grpc

    signatures = read_signatures(path)
    if "images" not in signatures.get("serving_default", {"inputs": ()})["inputs"]:
        raise ValueError(
            f"`saved_model` must have a signature serving_default with the input images. {path} "
            f"has {sorted(signatures)}"
        )
    card = _card(path)
    image = _image(signatures, card.get("value_range", BYTE_RANGE))
    rule = Suppression(**card["suppression"]) if "suppression" in card else None
    model, problems = SessionModel(path), []
    report(f"{path}: opened with tf.compat.v1.saved_model.loader")
    for name, signature in signatures.items():
        inputs, outputs = (_described(signature[side]) for side in ("inputs", "outputs"))
        report(f"  {name}: {inputs} -> {outputs}")

    try:
        replayed = replay_warmup(model, path)
    except tf.errors.OpError as error:
        return [f"a warm-up request failed: {error.message}"]
    report(f"Warm-up requests replayed: {len(replayed)}")
    for name, shapes, milliseconds in replayed:
        report(f"  {name}: {_shapes(shapes)}, {milliseconds:.0f} ms")

    with local_service(model) as stub:
        report("PredictionService, over gRPC on 127.0.0.1:")
        for name, inputs, wanted in _requests(model, signatures, image):
            got = response_arrays(stub.Predict(predict_request(inputs, name)))
            difference = _largest_difference(got, wanted, rule)
            shapes = {key: value.shape for key, value in sorted(got.items())}
            report(f"  {name}: {_shapes(shapes)}; differs by {difference:.1e}")
            if not difference <= TOLERANCE:
                problems.append(f"{name} differs from serving_default by {difference:.3g}")
        if "serving_bytes" in signatures:
            broken = predict_request({"image_bytes": [b"not an image"]}, "serving_bytes")
            try:
                stub.Predict(broken)
                problems.append("a broken file was answered")
            except grpc.RpcError as error:
                reason = " ".join(error.details().split())[:100]
                report(f"  a broken file: {error.code().name}: {reason}")
            for name, inputs in example_inputs(signatures, image):
                stub.Predict(predict_request(inputs, name))
            report("  and every signature answers after it")
    return problems


def _largest_difference(got, wanted, rule=None):
    """Return that of all outputs; infinity where there is nothing to compare with.

    Args:
        got, wanted: dicts of arrays; of a detector `wanted` holds its candidates, too.
        rule: `Suppression`, of a detector.
    """
    if rule is not None:
        held_to = {name: wanted[name] for name in CANDIDATES if name in wanted}
        if set(got) != set(wanted) - set(held_to):
            return float("inf")
        found = compare_detections({**held_to, **got}, wanted, rule).values()
        # NaN, where nothing explains an answer, wins.
        return float(np.max([one["difference"] for one in found]))
    if "feature_map" in got and "tokens" in wanted:
        shape = got["feature_map"].shape
        patches = wanted["tokens"][:, -shape[1] * shape[2] :]
        wanted = {"feature_map": patches.reshape(shape)}
    if not set(got) & set(wanted) or set(wanted) - set(got):
        return float("inf")
    # Label maps are unsigned, of which differences are not.
    return max(
        float(np.abs(got[key].astype("float64") - wanted[key].astype("float64")).max())
        for key in wanted
    )


def _requests(model, signatures, image):
    """Yield (signature, inputs, wanted outputs), the same images in every way there is."""
    for count in BATCHES:
        # Distinct images, so that an answer in another order is seen.
        images = np.stack([np.roll(image, 3 * i, axis=1) for i in range(count)])
        inputs = {"images": images.astype("float32")}
        wanted = response_arrays(model.predict(predict_request(inputs)))
        if SERVING_CANDIDATES in signatures:
            request = predict_request(inputs, SERVING_CANDIDATES)
            wanted.update(response_arrays(model.predict(request)))
        for name in SIGNATURES:
            if name not in signatures:
                continue
            if name == "serving_tokens" and {"label_map", "boxes"} & set(wanted):
                continue  # serving_default has nothing to compare it with
            if name == "serving_bytes":
                inputs = {"image_bytes": [encode_image(one, "PNG") for one in images]}
            else:
                inputs = {"images": images.astype(signatures[name]["inputs"]["images"][0])}
            yield name, inputs, wanted


def _card(path):
    """Return a SavedModel's card, empty if there is none."""
    card = Path(path, CARD)
    return json.loads(card.read_text()) if card.exists() else {}


def _image(signatures, value_range):
    """Return a picture of the model's size with an edge and a slope: `(H, W, C)`, in its range."""
    height, width, channels = signatures["serving_default"]["inputs"]["images"][1][1:]
    rows, columns, _ = np.ogrid[:height, :width, :channels]
    picture, (low, high) = columns / width * (rows > height // 3), value_range
    picture = np.broadcast_to(low + picture * (high - low), (height, width, channels))
    return picture.astype(pixel_dtype(value_range))


def _described(tensors):
    return ", ".join(
        f"{name} {dtype}{tuple('?' if size is None else size for size in shape)}".replace("'", "")
        for name, (dtype, shape) in tensors.items()
    )


def _shapes(shapes):
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
