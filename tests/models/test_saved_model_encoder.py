import json

import keras
import numpy as np
import pytest

from keras_mae import ViTEncoder
from keras_mae.files import saved_model_path
from keras_mae.interop import load_encoder
from keras_mae.models import ViTClassifier
from keras_mae.models.saved_model_encoder import SavedModelEncoder
from keras_mae.training import make_adamw, undecayed_variables
from keras_mae.training.layer_decay import layer_rate_scales

IMAGES = np.random.default_rng(0).normal(size=(6, 8, 12, 2)).astype("float32")
LABELS = np.array([0, 1, 2, 0, 1, 2])
STATISTICS = {"mean": [0.1, 0.2], "std": [0.3, 0.4]}


@pytest.fixture(scope="module")
def encoder():
    return ViTEncoder(
        image_size=(8, 12), channels=2, patch_size=4, hidden_dim=8, num_layers=1, num_heads=2
    )


@pytest.fixture(scope="module")
def exported(encoder, tmp_path_factory):
    directory = tmp_path_factory.mktemp("exported") / "name"
    # Keras's own export has the endpoint `serve`, as this library's has, and no card.
    spec = keras.InputSpec(shape=(None, *IMAGES.shape[1:]), dtype="float32")
    encoder.export(directory / "2", "tf_saved_model", verbose=False, input_signature=[spec])
    return directory


def compiled(model):
    model.compile(
        make_adamw(model, 0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


@pytest.mark.slow
def test_tokens_are_the_encoders(encoder, exported):
    loaded = SavedModelEncoder(exported, **STATISTICS)
    np.testing.assert_allclose(loaded(IMAGES), encoder(IMAGES), atol=1e-5)
    assert loaded.image_size == (8, 12) and loaded.channels == 2 and loaded.hidden_dim == 8
    assert (loaded.mean, loaded.std) == ((0.1, 0.2), (0.3, 0.4))


@pytest.mark.slow
def test_the_newest_version_is_taken(exported):
    assert saved_model_path(exported) == exported / "2" == saved_model_path(exported / "2")
    assert saved_model_path(exported.parent) is None
    assert saved_model_path(exported / "2" / "saved_model.pb") is None


@pytest.mark.slow
def test_the_card_says_what_the_graph_does_not(exported):
    card = {**STATISTICS, "patch_size": [4, 4], "num_layers": 1, "value_range": [0, 4095]}
    path = exported / "2" / "card.json"
    path.write_text(json.dumps(card))
    try:
        found = load_encoder(exported, mean=[9, 9], std=[9, 9], value_range=(0, 9))
    finally:
        path.unlink()
    assert found.mean == (0.1, 0.2) and found.patch_size == (4, 4) and found.num_layers == 1
    assert found.value_range == found.adapted().value_range == (0, 4095)
    assert found.get_config()["value_range"] == (0, 4095)
    bare = load_encoder(exported, [0, 0], [1, 1])
    assert (bare.std, bare.value_range) == ((1, 1), (0, 255))
    assert load_encoder(exported, [0, 0], [1, 1], (-1, 9)).value_range == (-1, 9)
    with pytest.raises(ValueError, match="`mean` and `std` must be given"):
        load_encoder(exported)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [None, 0])
def test_it_is_trained_or_frozen_and_saved(exported, blocks, tmp_path):
    source = SavedModelEncoder(exported, **STATISTICS)
    model = compiled(ViTClassifier(source, 3, pooling="mean", trainable_blocks=blocks))
    before = [np.asarray(v) for v in model.encoder.variables]
    model.head.kernel.assign(np.random.default_rng(1).normal(size=(8, 3)))
    model.fit(IMAGES, LABELS, epochs=2, verbose=0)
    changed = [
        not np.array_equal(v, old) for v, old in zip(model.encoder.variables, before, strict=True)
    ]
    trained = sum(v.trainable for v in model.encoder.variables)
    assert sum(changed) == trained == (0 if blocks == 0 else len(changed) - 1)  # positions are not
    for own, old in zip(source.variables, before, strict=True):
        np.testing.assert_array_equal(own, old)  # the classifier has its own
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="safe_mode"):
        keras.models.load_model(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=False)
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))
    assert len(loaded.trainable_variables) == len(model.trainable_variables)


def test_it_gives_the_last_blocks_tokens_only(exported):
    with pytest.raises(ValueError, match="`last_blocks`"):
        SavedModelEncoder(exported, **STATISTICS)(IMAGES, last_blocks=2)


def test_decay_leaves_vectors_and_the_class_token_alone(exported):
    model = ViTClassifier(SavedModelEncoder(exported, **STATISTICS), 3)
    shapes = {tuple(v.shape) for v in undecayed_variables(model)}
    assert shapes == {(8,), (24,), (32,), (3,), (1, 1, 8)}
    assert set(layer_rate_scales(model, 1.0)) == {1.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"trainable_blocks": 1}, "`trainable_blocks` must be None or 0 for a SavedModel"),
        ({"drop_path": 0.1}, "`drop_path` must be 0, or None, for a SavedModel"),
        ({"pooled_blocks": 2}, "`pooled_blocks`"),
        ({"image_size": 16}, "`image_size` must be .* for a SavedModel"),
    ],
)
def test_what_cannot_be_done_to_a_saved_model(exported, arguments, message):
    with pytest.raises(ValueError, match=message):
        ViTClassifier(SavedModelEncoder(exported, **STATISTICS), 3, **arguments)


def test_no_saved_model(tmp_path):
    with pytest.raises(ValueError, match="`filepath` must be a SavedModel's directory"):
        SavedModelEncoder(tmp_path)


def test_layer_decay_needs_blocks(exported):
    model = ViTClassifier(SavedModelEncoder(exported, **STATISTICS), 3)
    with pytest.raises(ValueError, match="`layer_decay` must be 1 for a SavedModel"):
        layer_rate_scales(model, 0.5)
