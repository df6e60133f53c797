"""The encoder as a backbone of KerasCV's and KerasHub's models."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_mae import ViTEncoder, backbones
from keras_mae.training import make_adamw
from keras_mae.training.layer_decay import layer_rate_scales, variable_depths

ENCODER = {"image_size": (64, 96), "patch_size": 16, "hidden_dim": 16, "num_layers": 2}
ENCODER |= {"num_heads": 2}
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 64, 96, 3)).astype("float32")
BOXES = np.array([[[4, 4, 40, 40], [50, 20, 90, 60]], [[8, 10, 60, 50], [-1] * 4]], "float32")
CLASSES = np.array([[0, 1], [1, -1]], "float32")
LIBRARIES = ("keras_cv", "keras_hub")

# Run with one of the two libraries: what its import changes. (A model's weights are drawn by the
# global seed, as all of Keras's are.)
STATE = """
import json, logging, os, random, sys, warnings
import keras, numpy as np, tensorflow as tf
import keras_mae
from absl import logging as absl_logging

keras.utils.set_random_seed(3)
keras.config.set_dtype_policy("mixed_bfloat16")
from keras_mae.models import backbones

def state():
    return {
        "keras": [str(keras.config.dtype_policy()), keras.config.floatx(), keras.config.epsilon(),
                  keras.config.image_data_format(), keras.config.is_traceback_filtering_enabled()],
        "random": [str(random.getstate()), str(np.random.get_state())],
        "logging": [absl_logging.get_verbosity(), tf.get_logger().level, logging.root.level,
                    [str(h) for h in logging.root.handlers]],
        "warnings": [str(entry) for entry in warnings.filters],
        "environment": dict(os.environ),
        "hooks": [str(sys.excepthook), str(sys.displayhook), str(np.geterr())],
        "tensorflow": [tf.config.functions_run_eagerly(), tf.config.get_soft_device_placement()],
    }

before = state()
sys.stdout.flush(), sys.stderr.flush()
print("FROM HERE", flush=True), print("FROM HERE", file=sys.stderr, flush=True)
backbones._class_of("LIBRARY")
sys.stdout.flush(), sys.stderr.flush()
print("TO HERE", flush=True), print("TO HERE", file=sys.stderr, flush=True)
after = state()
print(json.dumps([key for key in before if before[key] != after[key]]))
"""


@pytest.fixture
def encoder():
    return ViTEncoder(**ENCODER)


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_import_changes_no_state_and_prints_nothing(library):
    pytest.importorskip(library)
    code = STATE.replace("LIBRARY", library.removeprefix("keras_"))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-3000:]
    for text in (run.stdout, run.stderr):
        assert text.partition("FROM HERE")[2].partition("TO HERE")[0].strip() == ""
    assert json.loads(run.stdout.splitlines()[-1]) == []


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_levels_are_the_pyramids_and_weights_the_encoders(encoder, library):
    pytest.importorskip(library)
    backbone = getattr(backbones, library)(encoder, filters=8)
    levels = backbone(IMAGES)
    shapes = {level: value.shape[1:] for level, value in levels.items()}
    assert shapes == {"P2": (16, 24, 8), "P3": (8, 12, 8), "P4": (4, 6, 8), "P5": (2, 3, 8)}
    expected = backbone.get_layer("pyramid")(encoder(IMAGES))
    for level, value in levels.items():
        np.testing.assert_array_equal(value, expected[level])
    assert {id(v) for v in encoder.trainable_variables} < {
        id(v) for v in backbone.trainable_variables
    }
    # Patches of 4 pixels have strides of 4 to 32, too.
    small = ViTEncoder(**{**ENCODER, "patch_size": 4, "image_size": 32})
    few = getattr(backbones, library)(small, filters=8, levels=["P5", "P3"])
    assert {level: value.shape for level, value in few.output.items()} == {
        "P3": (None, 4, 4, 8),
        "P5": (None, 1, 1, 8),
    }


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_file_opens_where_the_library_is_not_imported_yet(encoder, library, tmp_path):
    pytest.importorskip(library)
    backbone = getattr(backbones, library)(encoder, filters=8, trainable_blocks=1, levels=["P3"])
    backbone.save(tmp_path / "backbone.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    code = (
        "import keras, keras_mae, numpy as np, sys\n"
        f"assert {library!r} not in sys.modules\n"
        "model = keras.saving.load_model('backbone.keras')\n"
        "np.save('level.npy', model(np.load('images.npy'))['P3'])\n"
        "print(type(model).__module__, len(model.trainable_variables))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=tmp_path,
        env=environment,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    np.testing.assert_allclose(np.load(tmp_path / "level.npy"), backbone(IMAGES)["P3"], atol=1e-5)
    assert run.stdout.split()[-1] == str(len(backbone.trainable_variables))


@pytest.mark.slow
def test_a_retinanet_of_kerascv_trains_the_encoder_by_depth(encoder, tmp_path):
    """The lines that docs/dense.md shows."""
    keras_cv = pytest.importorskip("keras_cv")
    backbone = backbones.keras_cv(encoder, levels=["P3", "P4", "P5"])
    model = keras_cv.models.RetinaNet(backbone, 2, "xyxy")
    scales = layer_rate_scales(model, layer_decay=0.75)
    model.compile(
        optimizer=make_adamw(model, 1e-3, rate_scales=scales),
        box_loss="smoothl1",
        classification_loss="focal",
        jit_compile=False,
    )
    start = encoder.get_weights()
    model.fit(IMAGES, {"boxes": BOXES, "classes": CLASSES}, verbose=0)
    moved = [np.abs(a - b).max() for a, b in zip(encoder.get_weights(), start, strict=True)]
    assert np.count_nonzero(moved) == len(moved) - 1  # all but the positions
    depths = dict(zip(map(id, model.trainable_variables), variable_depths(model), strict=True))
    assert depths[id(encoder.blocks[1].mlp.hidden.kernel)] == 2
    assert depths[id(encoder.norm.gamma)] == 3
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for name, value in model(IMAGES).items():
        np.testing.assert_allclose(loaded(IMAGES)[name], value, atol=1e-5)


@pytest.mark.slow
def test_a_retinanet_of_kerashub_leaves_frozen_blocks_alone(encoder, tmp_path):
    """The lines that docs/dense.md shows."""
    keras_hub = pytest.importorskip("keras_hub")
    images_to_levels = backbones.keras_hub(encoder, trainable_blocks=1, levels=["P3", "P4", "P5"])
    backbone = keras_hub.models.RetinaNetBackbone(
        images_to_levels, 3, 5, use_p5=False, image_shape=(64, 96, 3)
    )
    model = keras_hub.models.RetinaNetObjectDetector(backbone, 2, "xyxy")
    model.compile(make_adamw(model, 1e-3), jit_compile=False)
    start = encoder.get_weights()
    model.fit(IMAGES, {"boxes": BOXES, "labels": CLASSES}, verbose=0)
    names = [weight.path for weight in encoder.weights]
    for name, a, b in zip(names, encoder.get_weights(), start, strict=True):
        assert (a != b).any() == ("block_1" in name), name
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.trainable_weights) == len(model.trainable_weights)
    for name, value in model(IMAGES).items():
        np.testing.assert_allclose(loaded(IMAGES)[name], value, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["YOLOV8Detector", "DeepLabV3Plus"])
def test_other_models_of_kerascv_train(name):
    keras_cv = pytest.importorskip("keras_cv")
    encoder = ViTEncoder(**{**ENCODER, "image_size": (32, 64), "num_layers": 1})
    images, start = IMAGES[:, :32, :64], encoder.get_weights()
    # One step: to trace and optimise YOLO's graph takes minutes, to run it once does not.
    once = {"run_eagerly": True}
    if name == "YOLOV8Detector":
        backbone = backbones.keras_cv(encoder, 8, levels=["P3", "P4", "P5"])
        model = keras_cv.models.YOLOV8Detector(backbone, 2, "xyxy", fpn_depth=1)
        model.compile(
            optimizer="adam",
            box_loss="ciou",
            classification_loss="binary_crossentropy",
            **once,
        )
        labels = {"boxes": BOXES / 2, "classes": CLASSES}
    else:
        model = keras_cv.models.DeepLabV3Plus(
            backbones.keras_cv(encoder, 8, levels=["P2", "P5"]), 3
        )
        model.compile("adam", "sparse_categorical_crossentropy", **once)
        labels = np.zeros((2, 32, 64, 1), "int32")
    assert np.isfinite(model.fit(images, labels, verbose=0).history["loss"]).all()
    moved = [np.abs(a - b).max() for a, b in zip(encoder.get_weights(), start, strict=True)]
    assert np.count_nonzero(moved) == len(moved) - 1  # all but the positions


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_another_image_size_makes_a_copy(encoder, library):
    pytest.importorskip(library)
    backbone = getattr(backbones, library)(encoder, 8, image_size=(32, 64), levels=["P4"])
    assert backbone.encoder is not encoder and backbone.encoder.grid_size == (2, 4)
    assert backbone(IMAGES[:, :32, :64])["P4"].shape == (2, 2, 4, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,arguments",
    [
        ("encoder", {"encoder": keras.Sequential()}),
        ("encoder", {"encoder": ViTEncoder(28, 1, 14, 8, 1, 2)}),
        ("encoder", {"encoder": ViTEncoder((32, 16), 1, (16, 8), 8, 1, 2)}),
        ("filters", {"filters": 0}),
        ("levels", {"levels": ["P6"]}),
        ("levels", {"levels": []}),
        ("trainable_blocks", {"trainable_blocks": 3}),
    ],
)
def test_arguments_that_do_not_fit_raise(encoder, name, arguments):
    pytest.importorskip("keras_hub")
    with pytest.raises(ValueError, match=f"`{name}`"):
        backbones.keras_hub(**{"encoder": encoder, **arguments})


def test_a_library_that_is_missing_is_named_with_its_extra(encoder, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    with pytest.raises(ImportError, match="detection"):
        backbones.keras_cv(encoder)
