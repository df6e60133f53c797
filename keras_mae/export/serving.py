"""TF Serving: its requests, warm-up file, service and command lines, without its binary.

The messages are those of the package tensorflow-serving-api (`pip install "keras_mae[export]"`).
"""

import io
import time
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf
from PIL import Image

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
GRPC_PORT, REST_PORT = 8500, 8501
_PREDICT = "tensorflow/serving/predict"


def serving_apis():
    """Return the module `tensorflow_serving.apis`'s parts used here, as a dict.

    Raises:
        ImportError: if tensorflow-serving-api is not installed, with the extra that holds it.
    """
    try:
        from tensorflow_serving.apis import (
            predict_pb2,
            prediction_log_pb2,
            prediction_service_pb2_grpc,
        )
    except ImportError as error:
        raise ImportError(
            "Requests to TF Serving need tensorflow-serving-api: "
            f'pip install "keras_mae[export]" ({error}). Warm-up requests can be left out: '
            "warmup=False, --nowarmup."
        ) from error
    return {
        "predict": predict_pb2,
        "log": prediction_log_pb2,
        "service": prediction_service_pb2_grpc,
    }


def read_signatures(path):
    """Return the signatures of a SavedModel as its file declares them, without loading it.

    Args:
        path: of the version's directory.
    Returns:
        dict: name to {"inputs": {name: [dtype, shape]}, "outputs": {name: [dtype, shape]}}, with
        None for sizes that are free.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((Path(path) / "saved_model.pb").read_bytes())
    found = {}
    for name, signature in sorted(proto.meta_graphs[0].signature_def.items()):
        if signature.method_name == _PREDICT:
            found[name] = {
                "inputs": _tensors(signature.inputs),
                "outputs": _tensors(signature.outputs),
            }
    return found


def _tensors(infos):
    return {
        name: [
            tf.as_dtype(info.dtype).name,
            None
            if info.tensor_shape.unknown_rank
            else [None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim],
        ]
        for name, info in sorted(infos.items())
    }


def predict_request(inputs, signature="serving_default", model_name="encoder"):
    """Return a `PredictRequest`.

    Args:
        inputs: dict, name to array, or to a list of bytes.
        signature: str.
        model_name: str. What the server calls the model.
    """
    request = serving_apis()["predict"].PredictRequest()
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def encode_image(image, format):
    """Return a uint8 image `(H, W, 1 or 3)` as the bytes of a "PNG" or "JPEG" file."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, format)
    return file.getvalue()


def example_inputs(signatures, image):
    """Yield (signature, inputs), requests with one image for each signature that takes some.

    Args:
        signatures: see `read_signatures`.
        image: `(H, W, C)`, of the model's size, in its value range; uint8 where `signatures` has
            one that takes files.
    """
    for name, signature in signatures.items():
        for argument, (dtype, _) in signature["inputs"].items():
            if argument == "image_bytes":
                for format in ("JPEG", "PNG"):
                    yield name, {argument: [encode_image(image, format)]}
            elif argument == "images" and name.startswith("serving_"):
                yield name, {argument: image[None].astype(dtype)}


def write_warmup(directory, signatures, image, model_name):
    """Write the requests that TF Serving sends itself when it loads a model, before any client's.

    Args:
        directory: `Path`, of the version.
        signatures, image: see `example_inputs`.
        model_name: str.
    """
    log = serving_apis()["log"]
    path = Path(directory, WARMUP_FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, inputs in example_inputs(signatures, image):
            request = predict_request(inputs, name, model_name)
            record = log.PredictionLog(predict_log=log.PredictLog(request=request))
            writer.write(record.SerializeToString())


def read_warmup(directory):
    """Return the `PredictRequest`s of a version's warm-up file; an empty list if it has none."""
    log, path = serving_apis()["log"], Path(directory, WARMUP_FILE)
    if not path.is_file():
        return []
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    return [log.PredictionLog.FromString(record).predict_log.request for record in records]


class SessionModel:
    """A SavedModel as TF Serving holds one: a graph and a session, opened by the loader it uses.

    Args:
        path: of the version's directory.
    Attributes:
        signatures: dict, name to the `SignatureDef`, of those that predict.
    """

    def __init__(self, path):
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.session = tf.compat.v1.Session()
            loaded = tf.compat.v1.saved_model.loader.load(self.session, ["serve"], str(path))
        self.signatures = {
            name: signature
            for name, signature in loaded.signature_def.items()
            if signature.method_name == _PREDICT
        }

    def predict(self, request):
        """Return a `PredictResponse`, as TF Serving does.

        Args:
            request: `PredictRequest`. Of its outputs, those of the `output_filter`, if any.
        Raises:
            tf.errors.InvalidArgumentError: if the signature or the inputs do not fit, or an image
                cannot be decoded.
        """
        name = request.model_spec.signature_name or "serving_default"
        if name not in self.signatures:
            raise tf.errors.InvalidArgumentError(
                None, None, f"No signature {name!r}; there are {sorted(self.signatures)}"
            )
        signature = self.signatures[name]
        if set(request.inputs) != set(signature.inputs):
            raise tf.errors.InvalidArgumentError(
                None,
                None,
                f"{name} takes {sorted(signature.inputs)}. Received: {sorted(request.inputs)}",
            )
        feeds = {}
        for key, value in request.inputs.items():
            array, wanted = tf.make_ndarray(value), tf.as_dtype(signature.inputs[key].dtype)
            if tf.as_dtype(value.dtype) != wanted:
                raise tf.errors.InvalidArgumentError(
                    None, None, f"{key} must be {wanted.name}. Received: {array.dtype}"
                )
            feeds[signature.inputs[key].name] = array
        wanted = list(request.output_filter) or sorted(signature.outputs)
        try:
            values = self.session.run([signature.outputs[key].name for key in wanted], feeds)
        except (KeyError, ValueError) as error:  # an output not there, a shape that does not fit
            raise tf.errors.InvalidArgumentError(None, None, str(error)) from error
        response = serving_apis()["predict"].PredictResponse()
        response.model_spec.CopyFrom(request.model_spec)
        for key, value in zip(wanted, values, strict=True):
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response


def replay_warmup(model, directory):
    """Send a version's warm-up requests to a model, as TF Serving does when it loads one.

    Args:
        model: `SessionModel`.
        directory: of the version.
    Returns:
        list of (signature, {output: shape}, milliseconds), one a request.
    Raises:
        tf.errors.OpError: if a request fails; TF Serving would then not serve the version.
    """
    replayed = []
    for request in read_warmup(directory):
        start = time.perf_counter()
        response = model.predict(request)
        spent = 1000 * (time.perf_counter() - start)
        shapes = {name: shape_of(value) for name, value in sorted(response.outputs.items())}
        replayed.append((request.model_spec.signature_name, shapes, spent))
    return replayed


def shape_of(proto):
    """Return the shape of a `TensorProto` as a tuple."""
    return tuple(dim.size for dim in proto.tensor_shape.dim)


@contextmanager
def local_service(model):
    """Serve a `SessionModel` by gRPC on this machine; yield the stub of TF Serving's clients.

    The messages, the stub and the wire are TF Serving's; the server is a few lines of Python, so
    it is for checks, not for serving.
    """
    import grpc

    service = serving_apis()["service"]

    class Servicer(service.PredictionServiceServicer):
        def Predict(self, request, context):
            try:
                return model.predict(request)
            except tf.errors.OpError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)

    # Tokens of a few large images are more than gRPC's 4 MB.
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2), options=options)
    service.add_PredictionServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            yield service.PredictionServiceStub(channel)
    finally:
        server.stop(grace=None).wait()


def response_arrays(response):
    """Return the outputs of a `PredictResponse`, name to array."""
    return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def serving_commands(path, model_name=None):
    """Return, as text, the commands that serve a SavedModel in TF Serving's container and ask it.

    Args:
        path: of the version's directory, NAME/VERSION.
        model_name: str. Default: NAME.
    """
    name = model_name or Path(path).absolute().parent.name
    commands = f"""\
docker run --rm -p {GRPC_PORT}:{GRPC_PORT} -p {REST_PORT}:{REST_PORT} \\
    -v "{Path(path).absolute().parent}:/models/{name}:ro" -e MODEL_NAME={name} tensorflow/serving

curl http://localhost:{REST_PORT}/v1/models/{name}
curl http://localhost:{REST_PORT}/v1/models/{name}/metadata
"""
    if "serving_bytes" in read_signatures(path):
        commands += f"""\
printf '{{"signature_name": "serving_bytes", "instances": [{{"image_bytes": {{"b64": "%s"}}}}]}}' \\
    "$(base64 < image.jpg | tr -d '\\n')" |
    curl -d @- http://localhost:{REST_PORT}/v1/models/{name}:predict
"""
    return commands
