"""Weights on the hub: what a name means, what is fetched, and each way in which it fails."""

import json
import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub

from keras_mae import (
    MaskedAutoencoder,
    ViTClassifier,
    ViTEncoder,
    load_encoder,
    load_pretrained,
    save_pretrained,
)
from keras_mae.files import save_model
from keras_mae.interop.hub import HubPath, parse, resolve
from keras_mae.models.weights import get_weights

SIZES = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_dim": 16,
    "num_layers": 2,
    "num_heads": 2,
}
DECODER = {"decoder_hidden_dim": 12, "decoder_num_layers": 1, "decoder_num_heads": 3}
CARD = b"---\nlicense: mit\n---\n# A model\n"
PLAIN = {"README.md": CARD, "config.json": b"{}", "model.safetensors": b"weights" * 500}


def files_of(folder):
    """Return a folder's files, a dict of path to bytes."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def encoder(seed=0, **changes):
    model = ViTEncoder(**SIZES | changes)
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


def written(model, folder):
    """Return the files that transformers would have of a model."""
    save_pretrained(model, folder, "hf")
    return files_of(folder)


def same_weights(one, other):
    one, other = get_weights(one), get_weights(other)
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


def in_cache(tmp_path):
    """Return the names of the files in the cache that are whole, by a snapshot."""
    return {path.name for path in (tmp_path / "cache").glob("**/snapshots/*/**/*")}


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("hf://lab/vit", ("lab/vit", "main", "")),
        ("hf://models/lab/vit", ("lab/vit", "main", "")),
        ("hf://lab/vit.b-16/", ("lab/vit.b-16", "main", "")),
        ("hf://lab/vit@v1.0", ("lab/vit", "v1.0", "")),
        ("hf://lab/vit/enc/model.safetensors", ("lab/vit", "main", "enc/model.safetensors")),
        ("hf://lab/vit@refs/pr/12", ("lab/vit", "refs/pr/12", "")),
        ("hf://lab/vit@refs/pr/1/a.bin", ("lab/vit", "refs/pr/1", "a.bin")),
        ("hf://lab/vit@refs%2Fpr%2F1/a.bin", ("lab/vit", "refs/pr/1", "a.bin")),
        ("hf://lab/vit@refs/convert/onnx/a.bin", ("lab/vit", "refs/convert/onnx", "a.bin")),
        ("hf://lab/vit@exp%2Flarge/a@b.bin", ("lab/vit", "exp/large", "a@b.bin")),
        ("hf://lab/vit@exp/large.bin", ("lab/vit", "exp", "large.bin")),
    ],
)
def test_a_name_has_a_repository_a_revision_and_a_file(spec, parts):
    assert parse(spec) == HubPath(*parts)


@pytest.mark.parametrize(
    "spec",
    [
        "hf://",
        "hf://vit",
        "hf://lab/",
        "hf://datasets/lab/digits",
        "hf://spaces/lab/demo",
        "hf://lab/vit@",
        "hf://lab/vit@/a.bin",
        "hf://lab/vit/../other/a.bin",
        "hf://lab/vit//a.bin",
        "hf://la b/vit",
    ],
)
def test_a_name_that_is_none_is_refused(spec):
    with pytest.raises(ValueError, match="`path`"):
        parse(spec)


def test_paths_on_disk_stay_as_they_are():
    assert resolve("saved_models/mae") == "saved_models/mae"
    assert resolve(Path("a")) == Path("a")


def test_one_line_names_repository_hash_and_licence(hub, capsys):
    commit = hub.add("lab/vit", PLAIN)
    path = resolve("hf://lab/vit")
    assert Path(path).read_bytes() == PLAIN["model.safetensors"]
    line = capsys.readouterr().out
    assert line.startswith(f"hf://lab/vit: revision {commit}, licence mit")
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("card", "words"),
    [
        (b"---\nlicense: other\nlicense_name: my-own\n---\n", "licence my-own"),
        (b"# No front matter\n", "its card states no licence"),
        (b"---\nlicense: [\n---\n", "its card states no licence"),
        (None, "it has no card"),
    ],
)
def test_what_a_card_states_is_said_and_no_more(hub, capsys, card, words):
    files = {name: data for name, data in PLAIN.items() if name != "README.md"}
    hub.add("lab/vit", files if card is None else {**files, "README.md": card})
    resolve("hf://lab/vit")
    assert words in capsys.readouterr().out


def test_a_file_has_the_config_of_its_own_folder_and_revision(hub):
    files = {
        **PLAIN,
        "preprocessor_config.json": b'{"of": "root"}',
        "enc/model.safetensors": b"enc",
        "enc/config.json": b'{"of": "enc"}',
        "bare/model.safetensors": b"bare",
    }
    hub.add("lab/vit", files)
    hub.add("lab/vit", {**files, "enc/config.json": b'{"of": "pr"}'}, "refs/pr/1")
    hub.add("lab/vit", {**files, "enc/config.json": b'{"of": "exp"}'}, "exp/large")
    for spec, of in {
        "hf://lab/vit/enc/model.safetensors": "enc",
        "hf://lab/vit/enc": "enc",
        "hf://lab/vit@refs/pr/1/enc/model.safetensors": "pr",
        "hf://lab/vit@exp%2Flarge/enc/model.safetensors": "exp",
    }.items():
        path = Path(resolve(spec))
        assert path.read_bytes() == b"enc"
        assert json.loads((path.parent / "config.json").read_text())["of"] == of
        assert not (path.parent / "preprocessor_config.json").exists()
    bare = Path(resolve("hf://lab/vit/bare/model.safetensors"))
    assert sorted(path.name for path in bare.parent.iterdir()) == ["model.safetensors"]


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["pytorch_model.bin", "model.safetensors", "mae.keras"], "model.safetensors"),
        (["pytorch_model.bin", "mae.keras", "encoder.keras"], "mae.keras"),
        (["pytorch_model.bin", "optimizer.bin"], "pytorch_model.bin"),
        (["notes.txt", "checkpoint-99.pth", "other/a.pth"], "checkpoint-99.pth"),
    ],
)
def test_safetensors_come_first_and_pickles_last(hub, names, taken):
    hub.add("lab/vit", {name: b"of " + name.encode() for name in names})
    assert Path(resolve("hf://lab/vit")).name == taken


def test_several_files_of_other_names_are_listed(hub):
    hub.add("lab/vit", {"a.pth": b"a", "b.pth": b"b"})
    with pytest.raises(ValueError, match="`path`.*a.pth, b.pth"):
        resolve("hf://lab/vit")


def test_all_shards_of_an_index_are_fetched(hub):
    shards = {"0": "model-1.safetensors", "1": "model-2.safetensors", "2": "../evil.safetensors"}
    files = {name: b"shard" for name in shards.values()}
    index = json.dumps({"weight_map": shards}).encode()
    hub.add("lab/vit", {**files, "model.safetensors.index.json": index, "config.json": b"{}"})
    path = Path(resolve("hf://lab/vit"))
    assert path.name == "model.safetensors.index.json"
    there = sorted(file.name for file in path.parent.iterdir())
    assert there == ["config.json", "model-1.safetensors", "model-2.safetensors", path.name]
    assert not any("evil" in asked for _, asked in hub.requests)


@pytest.mark.parametrize("revision", ["", "@refs/pr/1"])
def test_a_complete_cache_is_enough_without_network(hub, capsys, monkeypatch, revision):
    # Without a card and a preprocessor: that they are not there is known, too.
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    hub.add("lab/vit", files, revision[1:] or "main")
    first = resolve(f"hf://lab/vit{revision}")
    line = capsys.readouterr().out
    _forget()
    hub.close()
    assert resolve(f"hf://lab/vit{revision}") == first
    assert capsys.readouterr().out == line
    _forget()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve(f"hf://lab/vit{revision}") == first
    assert capsys.readouterr().out == line


def test_a_cache_that_huggingface_hub_filled_is_enough(hub, monkeypatch):
    import huggingface_hub

    hub.add("lab/vit", PLAIN)
    huggingface_hub.snapshot_download("lab/vit")
    if not hasattr(huggingface_hub, "get_cached_repo_tree"):
        pytest.skip("this version does not keep the list of all files")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert Path(resolve("hf://lab/vit")).read_bytes() == PLAIN["model.safetensors"]


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json"])
def test_a_config_that_is_merely_not_cached_is_an_error(hub, monkeypatch, missing):
    import huggingface_hub

    files = {**PLAIN, "preprocessor_config.json": b"{}"}
    hub.add("lab/vit", files)
    for name in set(files) - {missing}:
        huggingface_hub.hf_hub_download("lab/vit", name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=f"^{missing} of lab/vit"):
        resolve("hf://lab/vit")


def test_a_revision_is_looked_up_once_in_a_process(hub, capsys):
    hub.add("lab/vit", PLAIN)
    first = resolve("hf://lab/vit")
    asked = len(hub.requests)
    hub.add("lab/vit", {**PLAIN, "model.safetensors": b"moved"})
    assert resolve("hf://lab/vit") == first and len(hub.requests) == asked
    assert capsys.readouterr().out.count("hf://") == 1


SECRET = "hf_secret"


@pytest.mark.parametrize(
    ("spec", "token", "error", "words"),
    [
        ("hf://lab/none", None, ValueError, r"is there \(401\).*has no lab/none, or it is private"),
        ("hf://lab/none", "hf_reader", ValueError, r"your token may see \(404\)"),
        ("hf://lab/secret", None, ValueError, r"\(401\).*private, which the hub tells nobody"),
        ("hf://lab/secret", "hf_stranger", ValueError, r"your token may see \(404\)"),
        ("hf://lab/gated", None, ValueError, r"gated \(401\).*HF_TOKEN"),
        ("hf://lab/gated", "hf_stranger", ValueError, r"gated \(403\).*has no access"),
        ("hf://lab/vit", SECRET, ValueError, r"token.*refuses yours \(401\)"),
        ("hf://lab/vit@v9", None, ValueError, "revision that is there.*no v9"),
        ("hf://lab/vit/b.bin", None, ValueError, "file that is there.*no b.bin, but README.md"),
        ("hf://lab/empty", None, ValueError, "one checkpoint.*notes.txt"),
        ("hf://a--b/c--d", None, ValueError, "repository"),
    ],
)
def test_each_refusal_is_one_line_of_its_own(hub, monkeypatch, spec, token, error, words):
    hub.add("lab/vit", PLAIN)
    hub.add("lab/secret", PLAIN, private=True)
    hub.add("lab/gated", PLAIN, gated=True)
    hub.add("lab/empty", {"notes.txt": b""})
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(error, match=words) as caught:
        resolve(spec)
    text = "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value) and "HTTP" not in text
    assert token is None or token not in text


@pytest.mark.parametrize("name", ["secret", "gated"])
def test_a_token_opens_what_it_may_see(hub, monkeypatch, name):
    hub.add("lab/secret", PLAIN, private=True)
    hub.add("lab/gated", PLAIN, gated=True)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert Path(resolve(f"hf://lab/{name}")).read_bytes() == PLAIN["model.safetensors"]


def test_a_hub_that_is_not_reached_is_told_without_what_is_in_its_address(hub, monkeypatch):
    address = hub.url.replace("http://", f"http://user:{SECRET}@")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    hub.close()
    with pytest.raises(ConnectionError, match="cannot be reached") as caught:
        resolve("hf://lab/vit")
    text = "".join(traceback.format_exception(caught.value))
    assert SECRET not in text and hub.url in text


def test_without_network_nothing_is_asked(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        resolve("hf://lab/vit")
    assert hub.requests == []


def test_a_transfer_that_is_cut_leaves_nothing_half_written(hub, tmp_path, capfd):
    hub.add("lab/vit", PLAIN)
    hub.cut["model.safetensors"] = 1000
    with pytest.raises(ConnectionError, match="ended the transfer early.*model.safetensors"):
        resolve("hf://lab/vit")
    assert "model.safetensors" not in in_cache(tmp_path)
    # Its address, and so its signature, is in no line that is printed meanwhile.
    printed = capfd.readouterr()
    assert "hf_signature" not in printed.out + printed.err
    hub.cut.clear()
    assert Path(resolve("hf://lab/vit")).read_bytes() == PLAIN["model.safetensors"]


@pytest.mark.slow
def test_the_same_weights_come_by_all_ways_in(hub, tmp_path):
    mae = MaskedAutoencoder(**SIZES, **DECODER, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    hub.add("lab/mae", written(mae, tmp_path / "mae"))
    alone = encoder(mean=[0.5] * 3, std=[0.5] * 3)
    hub.add("lab/mae", written(alone, tmp_path / "encoder"), "encoder")
    name = "hf://lab/mae"
    assert same_weights(load_pretrained(name), mae)
    assert same_weights(MaskedAutoencoder.from_preset(name), mae)
    assert MaskedAutoencoder.from_preset(name, mask_ratio=0.5).mask_ratio == 0.5
    for opened in (load_encoder(name), ViTEncoder.from_preset(name)):
        assert same_weights(opened, mae.encoder) and opened.mean == mae.mean
    opened = ViTEncoder.from_preset(f"{name}@encoder")
    assert same_weights(opened, alone) and opened.mean == (0.5,) * 3
    assert ViTEncoder.from_preset(f"{name}@encoder", drop_path=0.1).drop_path == 0.1
    assert same_weights(ViTClassifier(name, 5).encoder, mae.encoder)
    with pytest.raises(ValueError, match="`name`"):
        MaskedAutoencoder.from_preset(f"{name}@encoder")


def test_our_own_files_are_opened_from_the_hub(hub, tmp_path):
    model = encoder()
    save_model(model, tmp_path / "run" / "encoder.keras")
    hub.add("lab/own", files_of(tmp_path / "run"))
    assert same_weights(load_pretrained("hf://lab/own"), model)


class _Runs:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_pickle_of_the_hub_is_opened_as_weights_only(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub.add("lab/bad", {"pytorch_model.bin": pickle.dumps({"a": _Runs()})})
    with pytest.raises(ValueError, match="nothing in it was run"):
        load_pretrained("hf://lab/bad")
    assert not (tmp_path / "ran").exists()


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"keras_mae\[hub\]"):
        load_pretrained("hf://lab/vit")


@pytest.mark.slow
def test_a_command_reads_from_the_hub_and_then_from_its_cache(tmp_path):
    """With the variables that a user sets, in processes of their own."""
    hub = Hub()
    files = {**written(encoder(), tmp_path / "encoder"), "README.md": CARD}
    commit = hub.add("lab/vit", files, private=True)
    env = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_reader",
        "HF_HUB_DISABLE_XET": "1",
    }

    def convert(target, **more):
        command = [sys.executable, "-m", "keras_mae", "convert", "--source=hf://lab/vit"]
        command += [f"--target={tmp_path / target}", "--format=keras"]
        return subprocess.run(command, env={**env, **more}, capture_output=True, text=True)

    online = convert("a.keras")
    assert online.returncode == 0, online.stderr
    line = f"hf://lab/vit: revision {commit}, licence mit"
    assert online.stdout.startswith(line)
    refused = convert("b.keras", HF_TOKEN="hf_other", HF_HOME=str(tmp_path / "empty"))
    assert refused.returncode and refused.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "hf_other" not in refused.stdout + refused.stderr
    hub.close()
    offline = convert("c.keras", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert offline.stdout.startswith(line)
    same = load_pretrained(tmp_path / "a.keras"), load_pretrained(tmp_path / "c.keras")
    assert same_weights(*same)


def _forget():
    """Let the next name be looked up anew, as in another process."""
    from keras_mae.interop import hub

    hub._resolved.cache_clear()
