"""TF Serving's messages, warm-up file and service, on this machine."""

import numpy as np
import pytest
import tensorflow as tf
from shaken import digits

from keras_mae.export import serving
from keras_mae.export.serve_check import find_version, serve_check

pytestmark = pytest.mark.export
grpc = pytest.importorskip("grpc")
pytest.importorskip("tensorflow_serving.apis")


@pytest.fixture(scope="module")
def path(served):
    return served


@pytest.fixture(scope="module")
def model(path):
    return serving.SessionModel(path)


@pytest.mark.slow
def test_warmup_requests_are_real_images_for_every_signature(path, model):
    requests = serving.read_warmup(path)
    names = [request.model_spec.signature_name for request in requests]
    assert sorted(names) == [
        "serving_bytes",
        "serving_bytes",
        "serving_default",
        "serving_tokens",
        "serving_uint8",
    ]
    for request in requests:
        ((name, value),) = request.inputs.items()
        assert name == ("image_bytes" if "bytes" in request.model_spec.signature_name else "images")
        if name == "images":
            assert 10 < tf.make_ndarray(value).mean() < 100
    replayed = serving.replay_warmup(model, path)
    assert [name for name, _, _ in replayed] == names
    assert replayed[2][1] == {"cls": (1, 32), "pooled": (1, 32), "tokens": (1, 50, 32)}


@pytest.mark.slow
def test_over_grpc_a_broken_file_fails_alone(model):
    image = digits(1)[0]
    inputs = {"image_bytes": [serving.encode_image(image, "PNG"), b"not an image"]}
    with serving.local_service(model) as stub:
        with pytest.raises(grpc.RpcError) as raised:
            stub.Predict(serving.predict_request(inputs, "serving_bytes"))
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "must be JPEG or PNG" in raised.value.details()
        inputs["image_bytes"].pop()
        got = stub.Predict(serving.predict_request(inputs, "serving_bytes"))
        pixels = {"images": image[None].astype("float32")}
        wanted = stub.Predict(serving.predict_request(pixels))
    got, wanted = serving.response_arrays(got), serving.response_arrays(wanted)
    for name in wanted:
        np.testing.assert_allclose(got[name], wanted[name], atol=1e-6)


@pytest.mark.parametrize(
    "inputs, signature, message",
    [
        ({"images": np.zeros((1, 28, 28, 1), "float32")}, "classify", "No signature 'classify'"),
        ({"pixels": np.zeros((1, 28, 28, 1), "float32")}, "serving_default", "takes .'images'"),
        ({"images": np.zeros((1, 28, 28, 1), "uint8")}, "serving_default", "must be float32"),
        ({"images": np.zeros((1, 28, 24, 1), "float32")}, "serving_default", "Cannot feed"),
    ],
)
def test_requests_that_do_not_fit(model, inputs, signature, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.predict(serving.predict_request(inputs, signature))


def test_the_output_filter(model):
    request = serving.predict_request({"images": np.zeros((2, 28, 28, 1), "float32")})
    request.output_filter.append("cls")
    assert {n: v.shape for n, v in serving.response_arrays(model.predict(request)).items()} == {
        "cls": (2, 32)
    }
    request.output_filter.append("nothing")
    with pytest.raises(tf.errors.InvalidArgumentError):
        model.predict(request)


@pytest.mark.slow
def test_serve_check_finds_nothing_wrong_with_ours(path):
    lines = []
    assert serve_check(path, lines.append) == []
    text = "\n".join(lines)
    assert "Warm-up requests replayed: 5" in text
    assert "a broken file: INVALID_ARGUMENT" in text
    assert "serving_tokens: feature_map (3, 7, 7, 32)" in text


def test_serve_check_finds_a_signature_that_differs(tmp_path):
    module = tf.Module()

    def signature(dtype, change):
        spec = tf.TensorSpec((None, 4, 4, 1), dtype, name="images")
        return tf.function(
            lambda images: {"cls": tf.cast(images, tf.float32)[:, 0, :, 0] + change}, [spec]
        )

    @tf.function(input_signature=[tf.TensorSpec((None, 4, 4, 1), name="images")])
    def nothing_known(images):
        return {"feature_map": images}

    module.default, module.bytes = signature(tf.float32, 0.0), signature(tf.uint8, 0.5)
    module.nothing_known = nothing_known
    signatures = {"serving_default": module.default, "serving_uint8": module.bytes}
    signatures["serving_tokens"] = nothing_known
    tf.saved_model.save(module, tmp_path / "1", signatures=signatures)
    problems = [
        "serving_uint8 differs from serving_default by 0.5",
        "serving_tokens differs from serving_default by inf",
    ]
    assert serve_check(tmp_path / "1", lambda line: None) == 2 * problems


def test_the_newest_version_is_asked(path, tmp_path):
    assert find_version(path.parent) == find_version(path) == path
    for nothing in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="`saved_model`"):
            find_version(nothing)


def test_commands_name_the_model_and_its_folder(path):
    text = serving.serving_commands(path)
    assert f'"{path.parent}:/models/digits:ro"' in text and "MODEL_NAME=digits" in text
    assert "/v1/models/digits:predict" in text and '"image_bytes": {"b64"' in text
