import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import check_layer

from keras_mae import ViTEncoder, ViTSegmenter, load_encoder, load_pretrained
from keras_mae.models.weights import get_weights
from keras_mae.training.layer_decay import layer_rate_scales

ENCODER = {"image_size": (8, 12), "patch_size": 4, "hidden_dim": 16, "num_layers": 2}
ENCODER |= {"num_heads": 2}
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 8, 12, 3)).astype("float32")
LABELS = RNG.integers(0, 3, (6, 8, 12)).astype("uint8")
HEADS = ("linear", "multi_block", "pyramid")


@pytest.fixture
def encoder():
    return ViTEncoder(**ENCODER)


def matrix(size, new_size):
    """Bilinear weights of one axis, `(new_size, size)`: pixel centres aligned, edges repeated."""
    weights = np.zeros((new_size, size))
    for i in range(new_size):
        place = np.clip((i + 0.5) * size / new_size - 0.5, 0, size - 1)
        low = int(place)
        weights[i, low] += 1 - (place - low)
        weights[i, min(low + 1, size - 1)] += place - low
    return weights


@pytest.mark.parametrize("head,blocks", [("linear", 1), ("multi_block", 2)])
def test_logits_are_those_of_the_patches_resized(encoder, head, blocks):
    model = ViTSegmenter(encoder, 5, head=head)
    tokens = np.asarray(encoder(IMAGES, last_blocks=blocks))[:, 1:]
    kernel, bias = model.prediction.get_weights()
    assert kernel.shape == (blocks * 16, 5)
    maps = (tokens @ kernel + bias).reshape(6, 2, 3, 5)
    expected = np.einsum("yr,xc,brck->byxk", matrix(2, 8), matrix(3, 12), maps)
    np.testing.assert_allclose(model(IMAGES), expected, atol=1e-5)


def test_levels_of_a_pyramid_are_resized_and_added_up(encoder):
    model = ViTSegmenter(encoder, 3, head="pyramid", filters=8)
    assert list(model.pyramid.strides) == ["P1", "P2", "P3"]  # 2, 4 and 8 pixels
    fused = 0
    for level in model.pyramid(encoder(IMAGES)).values():
        _, rows, columns, _ = level.shape
        fused += np.einsum("yr,xc,brcf->byxf", matrix(rows, 4), matrix(columns, 6), level)
    fused = keras.ops.gelu(model.fusion_norm(model.fusion(fused)), approximate=False)
    logits = np.asarray(model.prediction(fused))
    expected = np.einsum("yr,xc,brck->byxk", matrix(4, 8), matrix(6, 12), logits)
    np.testing.assert_allclose(model(IMAGES), expected, atol=1e-4)


def test_patches_of_16_have_strides_from_4():
    encoder = ViTEncoder((32, 64), 3, 16, 16, 1, 2)
    model = ViTSegmenter(encoder, 3, head="pyramid", filters=8)
    assert [stride for stride, _ in model.pyramid.strides.values()] == [4, 8, 16, 32]


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_what_holds_of_every_model(encoder, head, tmp_path):
    own = sum(w.size for w in encoder.get_weights()) - 7 * 16  # without the positions
    arguments = {"num_classes": 3, "head": head, "filters": 8, "seed": 1, "image_size": (4, 8)}
    arguments |= {"class_names": ["a", "b", "c"], "drop_path": 0.1, "trainable_blocks": None}
    width = {"linear": 16, "multi_block": 32, "pyramid": 8}[head]
    more = width * 3 + 3
    if head == "pyramid":
        up, ends = 16 * 4 * 8 + 8, (8 + 16 + 16) * 8 + 3 * (9 * 64 + 4 * 8)
        more += up + ends + 9 * 64 + 2 * 8
    images = RNG.normal(size=(2, 4, 8, 3)).astype("float32")
    model, (logits,) = check_layer(
        ViTSegmenter,
        {"encoder": encoder, **arguments},
        {"images": images},
        tmp_path,
        weights=(own + more, 3 * 16),
        dtypes="float32",
    )
    assert logits.shape == (2, 4, 8, 3)
    assert set(get_weights(model)) > {"prediction.kernel", "encoder.class_token"}
    assert len(get_weights(model)) == len(model.weights)
    again = ViTSegmenter(encoder, **arguments)
    for value, other in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)


def compiled(encoder, **arguments):
    model = ViTSegmenter(encoder, 2, **arguments)
    model.compile("sgd", jit_compile=False)
    return model


def loss_of(model, logits, labels, weights=None):
    loss = model.compute_loss(None, np.array(labels), np.array(logits, "float32"), weights)
    return float(loss)


def test_the_loss_is_a_mean_over_labelled_pixels(encoder):
    model = compiled(encoder)
    # Of the labels 0 and 1, 1 is e times as likely.
    logits = np.broadcast_to([0.0, 1.0], (1, 2, 2, 2))
    of_0, of_1 = np.log(1 + np.e), np.log(1 + np.e) - 1
    labels = [[[0, 255], [1, 1]]]
    assert loss_of(model, logits, labels) == pytest.approx((of_0 + 2 * of_1) / 3, abs=1e-6)
    assert loss_of(model, logits, np.expand_dims(labels, -1)) == pytest.approx(
        (of_0 + 2 * of_1) / 3, abs=1e-6
    )
    assert loss_of(model, logits, np.full((1, 2, 2), 255)) == 0
    model._class_weight = [3.0, 0.5]
    assert loss_of(model, logits, labels) == pytest.approx((3 * of_0 + of_1) / 3, abs=1e-6)


def test_weights_are_of_images_or_of_pixels(encoder):
    model = compiled(encoder)
    logits = np.broadcast_to([0.0, 1.0], (2, 2, 2, 2))
    of_0, of_1 = np.log(1 + np.e), np.log(1 + np.e) - 1
    labels = np.array([[[0, 0], [0, 0]], [[1, 1], [255, 255]]])
    images = loss_of(model, logits, labels, np.array([2.0, 3.0]))
    assert images == pytest.approx((8 * of_0 + 6 * of_1) / 6, abs=1e-6)
    pixels = np.zeros((2, 2, 2))
    pixels[0, 0, 0], pixels[1, 0, 1], pixels[1, 1, 1] = 2, 5, 7
    found = loss_of(model, logits, labels, pixels)
    assert found == pytest.approx((2 * of_0 + 5 * of_1) / 6, abs=1e-6)


def trained(encoder, labels, data=None, compile=None, **fit):
    """Return what one step of gradient descent adds to each weight."""
    model = ViTSegmenter(encoder, 3, seed=0)
    model.compile(keras.optimizers.SGD(1.0), jit_compile=False, **(compile or {}))
    before = get_weights(model)
    given = (IMAGES, labels) if data is None else (data, None)
    model.fit(*given, batch_size=6 if data is None else None, verbose=0, **fit)
    return {name: value - before[name] for name, value in get_weights(model).items()}


def check_same(found, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_class_weights_weigh_pixels_by_their_own_label(encoder):
    weights = {0: 2.0, 1: 0.0}
    share = np.mean(LABELS != 1)
    ignored = trained(encoder, np.where(LABELS == 1, 255, LABELS), sample_weight=None)
    # By hand: weights of pixels. The mean is over all labelled ones.
    by_hand = trained(encoder, LABELS, sample_weight=np.array([2.0, 0.0, 1.0])[LABELS])
    check_same(trained(encoder, LABELS, class_weight=weights), by_hand)
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(6)
    check_same(trained(encoder, None, data, class_weight=weights), by_hand)
    zero = trained(encoder, LABELS, class_weight={1: 0.0})
    check_same(zero, {name: share * value for name, value in ignored.items()})


@pytest.mark.slow
def test_parts_of_a_step_share_one_mean(encoder, replicas):
    labels = LABELS.copy()
    labels[0], labels[1, :6] = 255, 255
    whole = trained(encoder, labels, class_weight={2: 3.0})
    parts = trained(encoder, labels, compile={"accumulate_steps": 3}, class_weight={2: 3.0})
    check_same(parts, whole)
    check_same(trained(encoder, labels, compile={"recompute": True}, class_weight={2: 3.0}), whole)
    with replicas.scope():
        encoder = ViTEncoder.from_config(encoder.get_config())
        encoder.set_weights(fresh_weights())
        shared = trained(encoder, labels, class_weight={2: 3.0})
    check_same(shared, whole)


def fresh_weights():
    keras.utils.set_random_seed(0)
    return ViTEncoder(**ENCODER).get_weights()


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_a_batch_without_labels_changes_nothing(encoder, head):
    model = ViTSegmenter(encoder, 3, head=head, filters=8)
    model.compile("sgd", jit_compile=False)
    before = get_weights(model)
    void = np.full_like(LABELS, 255)
    history = model.fit(IMAGES, void, verbose=0).history
    assert history == {"loss": [0.0], "mean_iou": [0.0]}
    for name, value in get_weights(model).items():
        np.testing.assert_array_equal(value, before[name])
    assert model.evaluate(IMAGES, void, verbose=0, return_dict=True) == {"loss": 0, "mean_iou": 0}
    assert model.fit(IMAGES, LABELS, verbose=0).history["loss"][0] > 0


@pytest.mark.slow
def test_mean_iou_is_of_the_whole_set_and_not_weighted(encoder):
    model = ViTSegmenter(encoder, 6)
    model.compile(jit_compile=False)
    labels = LABELS.copy()
    labels[:, :2] = 255
    guess = np.asarray(model(IMAGES)).argmax(-1)[labels != 255]
    truth = labels[labels != 255]
    ious = [
        np.sum((truth == c) & (guess == c)) / np.sum((truth == c) | (guess == c))
        for c in np.union1d(truth, guess)
    ]
    for size in (1, 4, 6):
        weights = np.arange(6.0)
        found = model.evaluate(
            IMAGES, labels, size, sample_weight=weights, verbose=0, return_dict=True
        )
        assert found["mean_iou"] == pytest.approx(np.mean(ious), abs=1e-6)


def test_labels_that_are_no_class_raise_before_training(encoder):
    model = ViTSegmenter(encoder, 3)
    model.compile(jit_compile=False)
    before = get_weights(model)
    wrong = LABELS.copy()
    wrong[3, 2, 1] = 3
    negative = LABELS.astype("int32")
    negative[0, 0, 0] = -1
    for labels in (wrong, negative, LABELS[:, :4], LABELS.astype("float32"), LABELS[:, 0, 0]):
        for call in (
            lambda y: model.fit(IMAGES, y, verbose=0),
            lambda y: model.evaluate(IMAGES, y, verbose=0),
            lambda y: model.train_on_batch(IMAGES, y),
            lambda y: model.fit(IMAGES, LABELS, validation_data=(IMAGES, y), verbose=0),
        ):
            with pytest.raises(ValueError, match="`y`"):
                call(labels)
    for name, value in get_weights(model).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_labels_that_are_no_class_raise_in_a_data_set(encoder, jit_compile):
    model = ViTSegmenter(encoder, 3)
    model.compile(jit_compile=jit_compile)
    wrong = LABELS.copy()
    wrong[3, 2, 1] = 7
    data = tf.data.Dataset.from_tensor_slices((IMAGES, wrong)).batch(3)
    for call in (model.fit, model.evaluate):
        with pytest.raises(tf.errors.InvalidArgumentError, match="`y`.*7"):
            call(data, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "weights", [{3: 1.0}, {-1: 1.0}, {0: -1.0}, {0: float("nan")}, {0.5: 1.0}, [1, 2, 3]]
)
def test_class_weights_that_do_not_fit_raise(encoder, weights):
    model = ViTSegmenter(encoder, 3)
    model.compile(jit_compile=False)
    with pytest.raises(ValueError, match="`class_weight`"):
        model.fit(IMAGES, LABELS, class_weight=weights, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,arguments",
    [
        ("num_classes", {"num_classes": 0}),
        ("num_classes", {"num_classes": 256}),
        ("head", {"head": "dense"}),
        ("filters", {"filters": 0}),
        ("trainable_blocks", {"trainable_blocks": 3}),
        ("image_size", {"image_size": 18}),
        ("class_names", {"class_names": ["a"]}),
        ("encoder", {"encoder": keras.Sequential()}),
        ("encoder", {"encoder": ViTEncoder(8, 1, 4, 8, 1, 2), "head": "multi_block"}),
    ],
)
def test_arguments_that_do_not_fit_raise(encoder, name, arguments):
    with pytest.raises(ValueError, match=f"`{name}`"):
        ViTSegmenter(**{"encoder": encoder, "num_classes": 3, **arguments})


@pytest.mark.slow
def test_frozen_parts_stay_and_the_encoder_given_never_changes(encoder):
    given = get_weights(encoder)
    model = ViTSegmenter(encoder, 3, head="pyramid", filters=8, trainable_blocks=1)
    model.compile(keras.optimizers.SGD(1.0), jit_compile=False)
    before = get_weights(model)
    model.fit(IMAGES, LABELS, verbose=0)
    for name, value in get_weights(model).items():
        frozen = name.startswith("encoder.") and not name.startswith("encoder.blocks.1.")
        assert (value == before[name]).all() == frozen, name
    for name, value in get_weights(encoder).items():
        np.testing.assert_array_equal(value, given[name])


def test_rates_fall_towards_the_pixels(encoder):
    model = ViTSegmenter(encoder, 3, head="pyramid", filters=8)
    scales = layer_rate_scales(model, 0.5)
    found = {
        v.path.split("/", 1)[1]: s for v, s in zip(model.trainable_variables, scales, strict=True)
    }
    assert {s for path, s in found.items() if "block_1" in path} == {0.5}
    assert {s for path, s in found.items() if "patch_embedding" in path} == {0.125}
    assert {s for path, s in found.items() if "pyramid" in path or "prediction" in path} == {1.0}


@pytest.mark.slow
def test_a_compiled_model_goes_on_where_it_was_saved(encoder, tmp_path):
    model = ViTSegmenter(encoder, 3, head="pyramid", filters=8, drop_path=0.2, trainable_blocks=1)
    model.compile("adam", jit_compile=False, accumulate_steps=2)
    model.fit(IMAGES, LABELS, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    assert len(loaded.trainable_weights) == len(model.trainable_weights)
    first, second = (
        m.fit(IMAGES, LABELS, verbose=0, shuffle=False).history for m in (model, loaded)
    )
    assert first == second and set(first) == {"loss", "mean_iou"}


@pytest.mark.slow
def test_a_file_opens_by_its_path_and_gives_its_encoder(encoder, tmp_path):
    model = ViTSegmenter(encoder, 3)
    model.save(tmp_path / "model.keras")
    loaded = load_pretrained(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))
    np.testing.assert_array_equal(load_encoder(tmp_path / "model.keras")(IMAGES), encoder(IMAGES))
    with pytest.raises(ValueError, match="`overrides`"):
        load_pretrained(tmp_path / "model.keras", image_size=16)
