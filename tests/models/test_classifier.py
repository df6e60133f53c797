import keras
import numpy as np
import pytest

from keras_mae import MaskedAutoencoder, ViTEncoder, load_encoder
from keras_mae.models import ViTClassifier
from keras_mae.models.weights import get_weights

ENCODER = {"image_size": 16, "patch_size": 4, "hidden_dim": 16, "num_layers": 3, "num_heads": 2}
IMAGES = np.random.default_rng(0).normal(size=(6, 16, 16, 3)).astype("float32")
LABELS = np.array([0, 1, 2, 0, 1, 2])
CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture
def encoder():
    return ViTEncoder(**ENCODER)


def test_logits_are_those_of_the_pooled_tokens(encoder):
    tokens = np.asarray(encoder(IMAGES))
    pooled = {"token": tokens[:, 0], "mean": tokens[:, 1:].mean(1)}
    pooled["both"] = np.concatenate([*pooled.values()], axis=1)
    for pooling, features in pooled.items():
        model = ViTClassifier(encoder, 5, pooling=pooling, head_norm=None)
        expected = features @ np.asarray(model.head.kernel)
        np.testing.assert_allclose(model(IMAGES), expected, atol=1e-6)


def test_the_last_blocks_are_pooled_side_by_side(encoder, tmp_path):
    tokens = np.asarray(encoder(IMAGES, last_blocks=2))  # (6, 17, 32)
    features = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], axis=1)
    model = ViTClassifier(encoder, 5, pooling="both", pooled_blocks=2)
    assert model.head.kernel.shape == (64, 5)
    expected = features @ np.asarray(model.head.kernel)
    np.testing.assert_allclose(model(IMAGES), expected, atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))


def test_mean_pooling_normalises_after_it(encoder):
    model = ViTClassifier(encoder, 5, pooling="mean")
    assert (model.head_norm, model.encoder.norm) == ("layer", None)
    bare = ViTEncoder(**ENCODER, final_norm=False)
    assert set(get_weights(bare)) < set(get_weights(encoder))
    for own, source in zip(bare.weights, model.encoder.weights, strict=True):
        own.assign(source)
    features = np.asarray(bare(IMAGES))[:, 1:].mean(1)
    features = (features - features.mean(1, keepdims=True)) / np.sqrt(
        features.var(1, keepdims=True) + 1e-6
    )
    model.head.kernel.assign(np.random.default_rng(1).normal(size=(16, 5)))
    np.testing.assert_allclose(model(IMAGES), features @ np.asarray(model.head.kernel), atol=1e-4)


def test_batch_norm_head_has_no_scale_and_offset(encoder):
    model = ViTClassifier(encoder, 5, head_norm="batch", trainable_blocks=0)
    assert [w.path.split("/")[-1] for w in model.trainable_weights] == ["kernel", "bias"]
    model(IMAGES, training=True)
    features = np.asarray(encoder(IMAGES))[:, 0]
    np.testing.assert_allclose(model.feature_norm.moving_mean, 0.1 * features.mean(0), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "blocks,trained",
    [
        (0, ()),
        (0.5, ("blocks.2.mlp_norm.", "blocks.2.mlp.")),
        (1, ("blocks.2.",)),
        (2, ("blocks.1.", "blocks.2.")),
        (3, ("blocks.",)),
        (None, ("",)),
    ],
)
def test_exactly_the_named_blocks_change(encoder, blocks, trained):
    model = ViTClassifier(encoder, 3, trainable_blocks=blocks)
    # From a head near 0, the encoder's gradients are too small for the last bit of some weights.
    model.head.kernel.assign(np.random.default_rng(1).normal(size=(16, 3)))
    model.compile("sgd", CROSSENTROPY, jit_compile=False)
    model.optimizer.learning_rate = 1.0
    before = get_weights(model)
    model.fit(IMAGES, LABELS, epochs=2, verbose=0)
    prefixes = tuple(f"encoder.{name}" for name in trained) + ("head.",)
    for name, value in get_weights(model).items():
        expected = name.startswith(prefixes) and not name.endswith("positions.table")
        assert (value != before[name]).any() == expected, name


@pytest.mark.slow
def test_the_encoder_given_never_changes(encoder):
    before = get_weights(encoder)
    model = ViTClassifier(encoder, 3)
    model.compile("adam", CROSSENTROPY)  # with XLA, as is Keras's default
    model.fit(IMAGES, LABELS, verbose=0)
    for name, value in get_weights(encoder).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.slow
def test_a_frozen_encoder_runs_without_drop_path(encoder):
    model = ViTClassifier(encoder, 3, drop_path=0.9, trainable_blocks=0)
    np.testing.assert_array_equal(model(IMAGES, training=True), model(IMAGES))
    model = ViTClassifier(encoder, 3, drop_path=0.9)
    model.head.kernel.assign(np.ones((16, 3)))
    assert model.encoder.drop_path == 0.9 and encoder.drop_path == 0
    assert np.abs(model.encoder(IMAGES, training=True) - model.encoder(IMAGES)).max() > 0.1


@pytest.mark.slow
def test_drop_path_is_seeded_and_goes_on_where_it_was_saved(encoder, tmp_path):
    def dropping(seed):
        model = ViTClassifier(encoder, 3, drop_path=0.9, seed=seed)
        model.head.kernel.assign(np.ones((16, 3)))
        return model

    model = dropping(1)
    first = np.asarray(model(IMAGES, training=True))
    np.testing.assert_array_equal(dropping(1)(IMAGES, training=True), first)
    assert not np.array_equal(dropping(2)(IMAGES, training=True), first)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    second = np.asarray(model(IMAGES, training=True))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(loaded(IMAGES, training=True), second)


def test_positions_follow_the_image_size(encoder):
    model = ViTClassifier(encoder, 3, image_size=(8, 24))
    assert model.encoder.grid_size == (2, 6)
    assert model(np.zeros((1, 8, 24, 3), "float32")).shape == (1, 3)
    expected = ViTEncoder(**{**ENCODER, "image_size": (8, 24)}).positions.table
    np.testing.assert_array_equal(model.encoder.positions.table, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"pooling": "mean", "trainable_blocks": 0.5, "drop_path": 0.1},
        {"head_norm": "batch", "trainable_blocks": 0},
        {"image_size": (8, 24), "trainable_blocks": 2},
    ],
)
def test_saved_and_loaded(encoder, arguments, tmp_path):
    model = ViTClassifier(encoder, 3, **arguments)
    model.compile("adam", CROSSENTROPY, jit_compile=False)
    images = IMAGES[:, :8] if "image_size" in arguments else IMAGES
    images = np.concatenate([images] * 2, axis=2)[:, :, : model.encoder.image_size[1]]
    model.fit(images, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), model(images))
    assert len(loaded.trainable_weights) == len(model.trainable_weights)
    assert loaded.get_config() == model.get_config()


@pytest.mark.slow
def test_encoders_of_any_source_give_the_same_logits(tmp_path):
    autoencoder = MaskedAutoencoder(
        **ENCODER, decoder_hidden_dim=8, decoder_num_layers=1, decoder_num_heads=2
    )
    autoencoder.save(tmp_path / "mae.keras")
    autoencoder.encoder.save(tmp_path / "encoder.keras")
    sources = [autoencoder, autoencoder.encoder, tmp_path, str(tmp_path / "encoder.keras")]
    features = [np.asarray(ViTClassifier(s, 3).encoder(IMAGES)) for s in sources]
    for other in features[1:]:
        np.testing.assert_array_equal(other, features[0])


def test_mixed_precision_gives_float32_logits(encoder):
    model = ViTClassifier(encoder, 3, dtype="mixed_bfloat16")
    assert model.encoder.compute_dtype == "bfloat16"
    assert keras.backend.standardize_dtype(model(IMAGES).dtype) == "float32"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"num_classes": 0}, "`num_classes` must be an int of at least 1"),
        ({"pooling": "max"}, "`pooling` must be one of"),
        ({"pooled_blocks": 4}, "`pooled_blocks` must be an int from 1 to the encoder's 3 blocks"),
        ({"head_norm": "group"}, "`head_norm` must be one of"),
        ({"trainable_blocks": 4}, "`trainable_blocks` must be None, 0, 0.5"),
        ({"trainable_blocks": 1.5}, "`trainable_blocks` must be None, 0, 0.5"),
        ({"image_size": 18}, "`image_size` must be a multiple"),
        ({"encoder": keras.Sequential()}, "`encoder` must be a ViTEncoder"),
    ],
)
def test_arguments_that_do_not_fit_raise(encoder, arguments, message):
    with pytest.raises(ValueError, match=message):
        ViTClassifier(**{"encoder": encoder, "num_classes": 3, **arguments})


def test_of_a_runs_directory_the_encoders_own_file_is_opened(encoder, tmp_path):
    """`mae.keras` may need a masking of the user's that is not imported."""
    encoder.save(tmp_path / "encoder.keras")
    (tmp_path / "mae.keras").write_text("not to be opened")
    np.testing.assert_array_equal(load_encoder(tmp_path)(IMAGES), encoder(IMAGES))


def test_names_of_classes_travel_with_the_file(encoder, tmp_path):
    # A name with a comma, and one of a folder whose name is not UTF-8.
    names = ["tench, Tinca tinca", "zebra", "gr\udcfcn"]
    model = ViTClassifier(encoder, 3, class_names=names)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.class_names == model.class_names == names
    assert loaded.get_config() == model.get_config()
    assert ViTClassifier(encoder, 3).class_names is None


@pytest.mark.parametrize("wrong", [["a", "b"], ["a", "b", 3], "abc", 5, []])
def test_names_that_do_not_fit_the_classes(encoder, wrong):
    with pytest.raises(ValueError, match="`class_names`"):
        ViTClassifier(encoder, 3, class_names=wrong)
