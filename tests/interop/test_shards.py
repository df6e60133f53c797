"""Checkpoints in several files: opened as a whole or not at all."""

import json
import os

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from keras_mae.interop import load_pretrained
from keras_mae.models.weights import get_weights
from keras_mae.testing import oracle

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folders(tmp_path):
    """Return a folder with one file and one with several, as transformers writes them."""
    config = transformers.ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
    )
    model = oracle.make_oracle(config, transformers.ViTModel)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="60KB")
    assert sum(name.endswith(".safetensors") for name in os.listdir(tmp_path / "many")) > 2
    return tmp_path / "one", tmp_path / "many"


def places(folder):
    return json.loads((folder / INDEX).read_text())["weight_map"]


def write(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards_are_opened_as_one(folders, tmp_path):
    one, many = folders
    expected = get_weights(load_pretrained(one))
    for path in (many, many / INDEX):
        for name, value in get_weights(load_pretrained(path)).items():
            np.testing.assert_array_equal(value, expected[name])


def test_shards_of_pytorch(folders):
    one, many = folders
    weights = {
        name: torch.from_numpy(v) for name, v in load_file(one / "model.safetensors").items()
    }
    for file in many.glob("*.safetensors*"):
        file.unlink()
    index = {}
    for number in range(2):
        file = f"pytorch_model-0000{number + 1}-of-00002.bin"
        part = dict(list(weights.items())[number::2])
        torch.save(part, many / file)
        index |= dict.fromkeys(part, file)
    index = {"weight_map": index}
    (many / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    expected = get_weights(load_pretrained(one))
    for name, value in get_weights(load_pretrained(many)).items():
        np.testing.assert_array_equal(value, expected[name])


def test_a_shard_that_is_not_there_is_named(folders):
    _, many = folders
    lost = sorted(many.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ValueError, match=lost.name):
        load_pretrained(many)
    (many / INDEX).unlink()
    with pytest.raises(ValueError, match="index"):
        load_pretrained(many)


def test_one_shard_alone_is_no_checkpoint(folders):
    _, many = folders
    shard = sorted(many.glob("*.safetensors"))[0]
    with pytest.raises(ValueError, match="`path`"):
        load_pretrained(shard)


def test_a_weight_that_is_not_where_the_index_says_is_named(folders):
    _, many = folders
    index = places(many)
    name, file = next(iter(index.items()))
    elsewhere = next(other for other in index.values() if other != file)
    write(many, {**index, name: elsewhere})
    with pytest.raises(ValueError, match=name):
        load_pretrained(many)
    # And one that the index does not know.
    write(many, index)
    more = {**load_file(many / file), "more.weight": np.zeros(3, "float32")}
    save_file(more, many / file)
    with pytest.raises(ValueError, match=r"more\.weight"):
        load_pretrained(many)


@pytest.mark.parametrize("place", ["../{}", "/{}", "a/../../{}", "..\\{}", "C:\\{}"])
def test_a_path_out_of_the_folder_is_refused(folders, place):
    one, many = folders
    index = places(many)
    file = next(iter(index.values()))
    outside = place.format(file)
    if outside == f"/{file}":
        outside = str(one / file)
    os.replace(many / file, one.parent / file)
    write(many, {n: outside if f == file else f for n, f in index.items()})
    with pytest.raises(ValueError, match="own folder"):
        load_pretrained(many)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {}}'],
)
def test_a_broken_index_is_refused(folders, text):
    _, many = folders
    (many / INDEX).write_text(text)
    with pytest.raises(ValueError, match="`path`"):
        load_pretrained(many)
