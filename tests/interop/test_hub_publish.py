"""Models to the hub: what is pushed is what is pulled, and the card tells no path."""

import json
import sys

import numpy as np
import pytest
from hub_server import TOKENS

from keras_mae import (
    MaskedAutoencoder,
    ViTClassifier,
    ViTEncoder,
    load_pretrained,
    push_to_hub,
)
from keras_mae.files import save_model
from keras_mae.interop.hub import resolve
from keras_mae.models.weights import get_weights

SIZES = {"image_size": 16, "patch_size": 4, "hidden_dim": 16, "num_layers": 2, "num_heads": 2}
DECODER = {"decoder_hidden_dim": 12, "decoder_num_layers": 1, "decoder_num_heads": 3}


def model_of(kind):
    if kind == "autoencoder":
        return MaskedAutoencoder(**SIZES, **DECODER, value_range=(0, 4095))
    encoder = ViTEncoder(**SIZES, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    return encoder if kind == "encoder" else ViTClassifier(encoder, 2, class_names=["cat", "dog"])


@pytest.fixture
def writer(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    return hub


@pytest.fixture
def run(tmp_path):
    """Return a run's directory under a name that must not be told, and a data set's path."""
    directory = tmp_path / "jane_doe" / "run"
    save_model(model_of("autoencoder"), directory / "mae.keras")
    config = {
        "run": {
            "dataset": "folder:/home/jane_doe/xrays",
            "batch_size": 64,
            "mask_ratio": [0.75],
            "masking": "/home/jane_doe/mine.py:Spiral",
            "total_steps": 3000,
            "norm_pix_loss": True,
        },
        "settings": {"output_dir": str(directory), "encoder": "/home/jane_doe/before"},
        "parts": {"heldout": {"images": 50, "from": "20% of /home/jane_doe/xrays"}},
        "training_images": 4000,
        "heldout_images": 1000,
        "command": ["/home/jane_doe/pretrain.py"],
        "environment": {"keras_mae": "0.1.0", "keras": "3.15.1"},
    }
    results = {
        "heldout_loss": 0.18702,
        "accuracy": {"encoder, pre-trained": {"linear_probe": 0.924, "knn": 0.827}},
        "measured_on": "held-out",
        "probe": {"heldout": 1000},
    }
    (directory / "figures").mkdir()
    (directory / "figures" / "reconstructions.png").write_bytes(b"a picture")
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "results.json").write_text(json.dumps(results))
    return directory


def head_of(hub, name):
    repo = hub.repos[name]
    return repo.commits[repo.revisions["main"]]


def card_of(hub, name):
    return head_of(hub, name)["README.md"].decode()


@pytest.mark.slow
@pytest.mark.parametrize("format", ["hf", "keras"])
@pytest.mark.parametrize("kind", ["autoencoder", "encoder", "classifier"])
def test_what_is_pushed_is_pulled(writer, kind, format):
    model = model_of(kind)
    name = push_to_hub(model, "lab/new", format, licence="mit")
    assert name == f"hf://lab/new@{writer.repos['lab/new'].revisions['main']}"
    back = load_pretrained(name)
    assert type(back) is type(model)
    weights, pulled = get_weights(model), get_weights(back)
    assert weights.keys() == pulled.keys()
    assert all(np.array_equal(weights[name], pulled[name]) for name in weights)
    encoder, theirs = getattr(model, "encoder", model), getattr(back, "encoder", back)
    for name in ("mean", "std", "value_range", "image_size"):
        assert getattr(encoder, name) == getattr(theirs, name)
    assert getattr(back, "class_names", None) == getattr(model, "class_names", None)


@pytest.mark.slow
def test_a_card_has_data_recipe_results_figure_licence_and_patent(writer, run):
    push_to_hub(run, "lab/new", licence="cc-by-nc-4.0", data="X-rays of hands")
    card = card_of(writer, "lab/new")
    assert card.startswith("---\n") and "\nlicense: cc-by-nc-4.0\n" in card
    for row in (
        "| images | X-rays of hands |",
        "| values of pixels | 0 to 4095, mapped to 0 and 1 |",
        "| trained on | 4,000 |",
        "| steps | 3000 |",
        "| mask ratio | 0.75 |",
        "| masking | Spiral |",
        "| loss on normalised patches | yes |",
        "| loss on held-out images | 0.1870 |",
        "| accuracy of encoder, pre-trained | linear probe 92.4%, nearest neighbours 82.7% |",
        "| measured on | 1,000 held-out images |",
    ):
        assert row in card
    assert "![Held-out images, masked and rebuilt](figures/reconstructions.png)" in card
    assert "US 12,266,160 B2" in card and 'load_pretrained("hf://lab/new")' in card
    assert head_of(writer, "lab/new")["figures/reconstructions.png"] == b"a picture"


@pytest.mark.slow
@pytest.mark.parametrize("format", ["hf", "keras"])
def test_nothing_that_is_pushed_tells_a_path(writer, run, format):
    push_to_hub(run, "lab/new", format, licence="mit")
    for name, data in head_of(writer, "lab/new").items():
        assert b"jane_doe" not in data and b"xrays" not in data, name
    assert "| images | not named |" in card_of(writer, "lab/new")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        ("mnist5k", "mnist5k"),
        ("tfds:imagenette/160px:train", "tfds:imagenette/160px:train"),
        ("tfds:/data/secret", "not named"),
        ("huggingface:work/secret", "not named"),
        ("mine:Secret", "not named"),
    ],
)
def test_public_data_sets_are_named(writer, run, dataset, told):
    config = json.loads((run / "config.json").read_text())
    config["run"]["dataset"] = dataset
    (run / "config.json").write_text(json.dumps(config))
    push_to_hub(run, "lab/new", licence="mit", figure=False)
    assert f"| images | {told} |" in card_of(writer, "lab/new")
    assert not any(name.endswith(".png") for name in head_of(writer, "lab/new"))


def test_a_push_in_another_format_leaves_nothing_of_the_one_before(writer):
    push_to_hub(model_of("encoder"), "lab/new", "hf", licence="mit")
    push_to_hub(model_of("autoencoder"), "lab/new", "keras", licence="mit")
    assert sorted(head_of(writer, "lab/new")) == [".gitattributes", "README.md", "mae.keras"]
    assert resolve("hf://lab/new").endswith("mae.keras")


def test_a_new_repository_is_private_and_a_public_one_asks_for_a_word(writer):
    push_to_hub(model_of("encoder"), "lab/new", licence="mit")
    assert writer.repos["lab/new"].private
    before = writer.add("lab/open", {"README.md": b"mine"})
    with pytest.raises(ValueError, match="`private`"):
        push_to_hub(model_of("encoder"), "lab/open", licence="mit")
    assert writer.repos["lab/open"].revisions["main"] == before
    push_to_hub(model_of("encoder"), "hf://lab/open", licence="mit", private=False)
    assert "model.safetensors" in head_of(writer, "lab/open")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"licence": None}, "licence"),
        ({"licence": "My own!"}, "licence"),
        ({"format": "meta"}, "format"),
        ({"repo": "vit"}, "repo"),
        ({"repo": "lab/vit@v1"}, "repo"),
        ({"repo": "lab/vit/a.bin"}, "repo"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_asked(writer, arguments, name):
    given = {"repo": "lab/new", "licence": "mit", **arguments}
    with pytest.raises(ValueError, match=f"`{name}`"):
        push_to_hub(model_of("encoder"), **given)
    assert writer.requests == []


def test_a_licence_has_to_be_given(writer):
    with pytest.raises(TypeError, match="licence"):
        push_to_hub(model_of("encoder"), "lab/new")


def test_a_model_that_the_format_cannot_hold_makes_no_repository(writer):
    encoder = ViTEncoder(**SIZES, value_range=(-1, 1))
    with pytest.raises(ValueError, match="`format`"):
        push_to_hub(encoder, "lab/new", licence="mit")
    assert writer.requests == []


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, r"none is given \(HF_TOKEN\) \(401\)"),
        ("hf_secret", r"refuses yours \(401\)"),
        ("hf_reader", r"right to it.*\(403\)"),
    ],
)
def test_a_token_without_the_right_to_write_is_told(hub, monkeypatch, token, words):
    assert token is None or TOKENS.get(token) in (None, "read")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ValueError, match=f"`repo`.*{words}") as caught:
        push_to_hub(model_of("encoder"), "lab/new", licence="mit")
    assert hub.repos == {} and (token is None or token not in str(caught.value))


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"keras_mae\[hub\]"):
        push_to_hub(model_of("encoder"), "lab/new", licence="mit")
