import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mae import ViTDetector, ViTEncoder
from keras_mae.models.weights import get_weights

ENCODER = {"image_size": (32, 48), "patch_size": 8, "hidden_dim": 16, "num_layers": 2}
ENCODER |= {"num_heads": 2}
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(4, 32, 48, 3)).astype("float32")
BOXES = np.full((4, 2, 4), -1, "float32")
CLASSES = np.full((4, 2), -1, "int32")
BOXES[0], CLASSES[0] = [[2, 2, 20, 20], [25, 5, 45, 30]], [0, 2]
BOXES[2, 0], CLASSES[2, 0] = [10, 4, 40, 28], 1
OBJECTS = {"boxes": BOXES, "classes": CLASSES}
NOTHING = {"boxes": np.full((4, 2, 4), -1, "float32"), "classes": np.full((4, 2), -1, "int32")}


@pytest.fixture
def model():
    return ViTDetector(ViTEncoder(**ENCODER), 3, filters=8, seed=0)


def compiled(model, **arguments):
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False, **arguments)
    return model


def test_outputs_are_of_all_anchors(model):
    assert list(model.pyramid.strides) == ["P2", "P3", "P4"]  # patches of 8
    places = 8 * 12 + 4 * 6 + 2 * 3
    assert model.anchors.shape == (9 * places, 4)
    outputs = model(IMAGES)
    assert outputs["offsets"].shape == (4, 9 * places, 4)
    assert outputs["logits"].shape == (4, 9 * places, 3)
    # Nothing is found at the start.
    np.testing.assert_allclose(np.mean(1 / (1 + np.exp(-outputs["logits"]))), 0.01, rtol=0.2)


@pytest.mark.slow
def test_an_image_without_objects_teaches_background(model):
    compiled(model)
    outputs = model(IMAGES[:1])
    nothing = {name: value[:1] for name, value in NOTHING.items()}
    loss = float(model.compute_loss(None, nothing, outputs))
    score = 1 / (1 + np.exp(-np.asarray(outputs["logits"], "float64")))
    expected = np.sum(0.75 * score**2 * -np.log(1 - score))
    assert loss == pytest.approx(expected, rel=1e-3) and loss > 0
    start = get_weights(model)
    model.train_on_batch(IMAGES[:1], nothing)
    assert (get_weights(model)["class_head.last.bias"] < start["class_head.last.bias"]).mean() > 0.9


def test_the_loss_is_a_mean_over_images(model):
    compiled(model)
    outputs = model(IMAGES)

    def loss(i, weights=None):
        one = {name: value[i : i + 1] for name, value in OBJECTS.items()}
        return float(
            model.compute_loss(None, one, {k: v[i : i + 1] for k, v in outputs.items()}, weights)
        )

    alone = [loss(i) for i in range(4)]
    assert float(model.compute_loss(None, OBJECTS, outputs)) == pytest.approx(np.mean(alone))
    weighted = model.compute_loss(None, OBJECTS, outputs, np.array([1.0, 0.0, 3.0, 0.5]))
    assert float(weighted) == pytest.approx(np.mean(np.multiply(alone, [1, 0, 3, 0.5])))


def test_perfect_offsets_cost_nothing_and_are_found(model):
    from keras_mae.layers import boxes as box_math

    compiled(model)
    boxes, classes = box_math.match(model.anchors, BOXES, CLASSES)
    one_hot = np.asarray(classes)[..., None] == np.arange(3)
    outputs = {
        "offsets": np.asarray(box_math.encode(boxes, model.anchors)),
        "logits": np.where(one_hot, 20, -20).astype("float32"),
    }
    assert float(model.compute_loss(None, OBJECTS, outputs)) == pytest.approx(0, abs=1e-5)
    found = model.detections(outputs)
    order = np.argsort(np.asarray(found["classes"][0])[:2])
    np.testing.assert_allclose(np.asarray(found["boxes"][0])[order], BOXES[0], atol=0.01)
    np.testing.assert_array_equal(found["classes"][:, 2:], np.full((4, 98), -1))


@pytest.mark.slow
def test_parts_and_replicas_do_the_same_step(replicas):
    def step(**arguments):
        keras.utils.set_random_seed(0)
        model = ViTDetector(ViTEncoder(**ENCODER), 3, filters=8, seed=0)
        compiled(model, **arguments).fit(IMAGES, OBJECTS, batch_size=4, verbose=0)
        return get_weights(model)

    whole = step()
    with replicas.scope():
        shared = step()
    for found in (step(accumulate_steps=3), step(recompute=True), shared):
        for name, value in whole.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_saved_and_loaded(model, tmp_path):
    compiled(model).fit(IMAGES, OBJECTS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    for name, value in model.predict(IMAGES, verbose=0).items():
        np.testing.assert_array_equal(loaded.predict(IMAGES, verbose=0)[name], value)
    assert len(get_weights(model)) == len(model.weights)
    assert np.isfinite(loaded.fit(IMAGES, OBJECTS, verbose=0).history["loss"][0])


@pytest.mark.slow
def test_it_learns_where_bright_squares_are():
    images, boxes = np.zeros((32, 32, 48, 3), "float32"), np.zeros((32, 1, 4), "float32")
    for image, box in zip(images, boxes, strict=True):
        left, top = RNG.integers(0, 28), RNG.integers(0, 12)
        image[top : top + 20, left : left + 20] = 1
        box[0] = [left, top, left + 20, top + 20]
    model = ViTDetector(ViTEncoder(**ENCODER), 1, filters=16, seed=0)
    model.compile(keras.optimizers.Adam(3e-3))
    labels = {"boxes": boxes, "classes": np.zeros((32, 1), "int32")}
    model.fit(images, labels, batch_size=8, epochs=25, verbose=0)
    found = model.predict(images, verbose=0)
    off = np.abs(found["boxes"][:, 0] - boxes[:, 0]).max(1)
    assert np.mean(off < 5) > 0.8 and np.median(found["scores"][:, 0]) > 0.5


def test_objects_that_do_not_fit_raise_before_training(model):
    compiled(model)
    wrong = [
        {**OBJECTS, "classes": np.full((4, 2), 3)},
        {**OBJECTS, "classes": np.full((4, 2), -2)},
        {**OBJECTS, "boxes": np.full((4, 2, 4), np.nan)},
        {**OBJECTS, "boxes": BOXES[..., :3]},
        {"boxes": BOXES},
        CLASSES,
    ]
    for y in wrong:
        for call in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match="`y"):
                call(IMAGES, y, verbose=0)
    for name in ("loss", "metrics"):
        with pytest.raises(ValueError, match=f"`{name}`"):
            model.compile(**{name: ["mse"]})


@pytest.mark.slow
def test_a_class_that_is_none_raises_in_a_data_set(model):
    y = {**OBJECTS, "classes": np.full((4, 2), 7)}
    data = tf.data.Dataset.from_tensor_slices((IMAGES, y)).batch(2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="classes.*7"):
        compiled(model).fit(data, verbose=0)


@pytest.mark.parametrize(
    "name,arguments",
    [
        ("num_classes", {"num_classes": 0}),
        ("filters", {"filters": 0}),
        ("least_score", {"least_score": 1}),
        ("largest_overlap", {"largest_overlap": -0.1}),
        ("max_detections", {"max_detections": 0}),
        ("class_names", {"class_names": ["a"]}),
        ("trainable_blocks", {"trainable_blocks": 3}),
        ("encoder", {"encoder": keras.Sequential()}),
    ],
)
def test_arguments_that_do_not_fit_raise(name, arguments):
    encoder = ViTEncoder(16, 1, 8, 8, 1, 2)
    with pytest.raises(ValueError, match=f"`{name}`"):
        ViTDetector(**{"encoder": encoder, "num_classes": 3, **arguments})
