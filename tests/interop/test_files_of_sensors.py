"""Value ranges and names of classes, in the files of other libraries and back."""

import json

import numpy as np
import pytest
import transformers

from keras_mae import MaskedAutoencoder, ViTClassifier, ViTEncoder
from keras_mae.interop import load_pretrained, save_pretrained
from keras_mae.interop.transformers_format import config_from_transformers
from keras_mae.pixels import normalize

SMALL = {"image_size": 8, "patch_size": 4, "hidden_dim": 8, "num_layers": 1, "num_heads": 2}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
# More than ten: as text, "10" comes before "2".
NAMES = [f"name, {letter}" for letter in "zyxwvutsrqpo"]


def encoder(**others):
    return ViTEncoder(**{**SMALL, **others})


@pytest.mark.slow
@pytest.mark.parametrize("high", [4095, 65535, 1.5, 0.1 + 0.2, 100])
def test_a_range_from_0_on_is_transformers_factor(high, tmp_path):
    model = encoder(value_range=(0, high), mean=(0.1, 0.2, 0.3))
    save_pretrained(model, tmp_path / "hf")
    loaded = load_pretrained(tmp_path / "hf")
    assert loaded.value_range == model.value_range == (0, high)
    assert (loaded.mean, loaded.std) == (model.mean, model.std)
    processor = transformers.ViTImageProcessorPil.from_pretrained(tmp_path / "hf")
    values = np.random.default_rng(0).uniform(0, high, (8, 8, 3)).astype("float32")
    pixels = processor(values, do_resize=False, input_data_format="channels_last")["pixel_values"]
    wanted = normalize(values, model.mean, model.std, model.value_range)
    np.testing.assert_allclose(np.transpose(pixels[0], (1, 2, 0)), wanted, atol=1e-5)


def test_pixels_0_255_need_no_key_of_ours(tmp_path):
    save_pretrained(encoder(), tmp_path / "hf")
    preprocessor = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    assert preprocessor["rescale_factor"] == 1 / 255 and "value_range" not in preprocessor
    assert load_pretrained(tmp_path / "hf").value_range == (0, 255)


def test_a_range_that_begins_elsewhere(tmp_path):
    model = MaskedAutoencoder(
        **SMALL,
        decoder_hidden_dim=8,
        decoder_num_layers=1,
        decoder_num_heads=2,
        value_range=(-1024, 3071),
    )
    with pytest.raises(ValueError, match="`format`"):
        save_pretrained(model, tmp_path / "hf")
    save_pretrained(model, tmp_path / "meta", "meta")
    assert load_pretrained(tmp_path / "meta").value_range == (-1024, 3071)
    loaded = load_pretrained(tmp_path / "meta", value_range=(0, 1))
    assert loaded.encoder.value_range == (0, 1)


@pytest.mark.parametrize(
    "preprocessor, value_range, mean, std",
    [
        (HALF, (0, 255), 0.5, 0.5),
        ({**HALF, "rescale_factor": 0.0039215686}, (0, 255), 0.5, 0.5),
        # Pixels become 0..2, 0..255 or stay: what is subtracted is half of that.
        (
            {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
            (0, 255),
            0.5,
            0.5,
        ),
        (
            {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51.0] * 3},
            (0, 255),
            0.5,
            0.2,
        ),
        ({**HALF, "do_normalize": False}, (0, 255), 0, 1),
        ({"do_normalize": False}, (0, 255), 0, 1),
        # Deeper pixels.
        ({**HALF, "rescale_factor": 1 / 4095}, (0, 4095), 0.5, 0.5),
        ({**HALF, "rescale_factor": 1 / 49000}, (0, 49000), 0.5, 0.5),
    ],
)
def test_what_a_preprocessor_means(preprocessor, value_range, mean, std):
    got = config_from_transformers({}, preprocessor)
    assert got["value_range"] == value_range
    np.testing.assert_allclose([got["mean"], got["std"]], [[mean] * 3, [std] * 3], rtol=1e-6)


@pytest.mark.parametrize("format", ["hf", "meta"])
def test_names_of_classes(format, tmp_path):
    model = ViTClassifier(encoder(), len(NAMES), class_names=NAMES)
    save_pretrained(model, tmp_path / "out", format)
    assert load_pretrained(tmp_path / "out").class_names == NAMES
    if format == "hf":
        theirs = transformers.AutoConfig.from_pretrained(tmp_path / "out")
        assert theirs.id2label == dict(enumerate(NAMES))
        assert theirs.label2id["name, z"] == 0


def test_classes_that_nobody_named(tmp_path):
    save_pretrained(ViTClassifier(encoder(), 12), tmp_path / "hf")
    assert transformers.AutoConfig.from_pretrained(tmp_path / "hf").id2label[11] == "LABEL_11"
    assert load_pretrained(tmp_path / "hf").class_names is None
