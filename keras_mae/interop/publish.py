"""To the Hugging Face hub: a model, with a card that says what it is and how it was made."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from keras_mae.files import save_model
from keras_mae.interop.hub import KERAS_HUB_FILES, USUAL_FILES, parse
from keras_mae.interop.hub_errors import Request, asked, hub_api
from keras_mae.interop.keras_format import kind_of
from keras_mae.interop.load import load_pretrained
from keras_mae.interop.save import save_pretrained
from keras_mae.models.encoder import ViTEncoder
from keras_mae.models.openers import HUB_SCHEME
from keras_mae.types import AnyPath

FORMATS = ("hf", "keras_hub", "keras")
_KERAS_FILES = {
    "autoencoder": "mae.keras",
    "encoder": "encoder.keras",
    "classifier": "model.keras",
}
_LIBRARIES = {"hf": "transformers", "keras_hub": "keras-hub", "keras": "keras"}
# Of a run's figures, the first that there is.
_FIGURES = {
    "figures/reconstructions.png": "Held-out images, masked and rebuilt",
    "figures/confusion.png": "Which classes are taken for which",
}
# What an earlier push in another format has left would be taken for the model.
_REPLACED = (
    *USUAL_FILES,
    *KERAS_HUB_FILES,
    "preprocessor_config.json",
    "model-*.safetensors",
    *_FIGURES,
)
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
# Sources whose names hold no path of a machine's.
_NAMED_SOURCES = re.compile(r"mnist5k|photos|tfds:[\w.]+(?:/[\w.]+)*(?::[\w.%:\[\]]+)?")
# Settings of a run that its card tells, and their words.
_RECIPE = {
    "protocol": "protocol",
    "preset": "preset",
    "steps": "steps",
    "epochs": "epochs",
    "batch_size": "images a step",
    "base_learning_rate": "base learning rate (of 256 images)",
    "weight_decay": "weight decay",
    "mask_ratio": "mask ratio",
    "masking": "masking",
    "norm_pix_loss": "loss on normalised patches",
    "decoder_attention": "decoder attention",
    "pooling": "pooling",
    "trainable_blocks": "blocks trained",
    "layer_decay": "layer decay",
    "drop_path": "drop path",
    "mixup": "mixup",
    "cutmix": "cutmix",
    "crops_per_image": "crops of an image",
    "precision": "precision",
    "seed": "seed",
}
_RESULTS = {
    "heldout_loss": "loss on held-out images",
    "test_loss": "loss on test images",
    "mean_predictor_loss": "loss of a predictor of mean patches",
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "macro_f1": "macro F1",
    "macro_auroc": "macro AUROC",
    "map": "mAP",
}
_PATENT = (
    "The method of masked autoencoders is patented (US 12,266,160 B2, Meta). The licence of these "
    "weights grants no right to that patent: ask a lawyer before you use it commercially."
)


def push_to_hub(
    source: keras.Model | AnyPath,
    repo: str,
    format: str = "hf",
    *,
    licence: str,
    private: bool = True,
    data: str | None = None,
    figure: bool = True,
) -> str:
    """Put a model on the Hugging Face hub in one commit, with a model card; return its name there.

    The card has the model's sizes and how to give it pixels, and of a run its data, recipe, results
    and figure. It holds no path: images that are not those of a public data set are named by
    `data`. Weights, configs and the card that the repository has already are replaced.

    Args:
        source: `MaskedAutoencoder`, `ViTEncoder` or `ViTClassifier`; or a run's directory; or a
            path that `load_pretrained` knows.
        repo: str, "OWNER/NAME", made if it is not there.
        format: "hf", for transformers; "keras_hub", a preset for KerasHub, without a decoder;
            "keras", a `.keras` file, which holds every model.
        licence: str, the identifier of the weights' licence, such as "apache-2.0", "cc-by-nc-4.0"
            or "other".
        private: bool. Whether a new repository is private. One that is public already is refused,
            unless this is False.
        data: str, what the images are, for the card.
        figure: bool. Whether a run's figure goes with it. That of a pre-training shows some of its
            held-out images.
    Returns:
        str, `hf://OWNER/NAME@HASH`, which `load_pretrained` opens.
    Raises:
        ValueError: for an argument that does not fit, or a token without the right to write;
            nothing is uploaded then.
        ConnectionError: if the hub cannot be reached.
        ImportError: if huggingface_hub is not installed, or KerasHub for its format.
    Example:
        keras_mae.push_to_hub("saved_models/mae_mnist5k", "me/mae-digits", licence="apache-2.0")
    """
    name = _check_arguments(repo, format, licence)
    request = Request(repo, name, "main", "an upload", "repo")
    api = hub_api()
    model, run = _opened(source)
    kind = kind_of(model)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        _write_model(model, kind, format, folder)
        shown = _copy_figure(run, folder) if figure else None
        card = model_card(model, format, licence, run, name=name, data=data, figure=shown)
        (folder / "README.md").write_text(card, encoding="utf-8")
        asked(lambda: api.create_repo(name, private=private, exist_ok=True), request)
        if private and not asked(lambda: api.model_info(name), request).private:
            raise ValueError(
                f"`private` must be False for {name}, which is there and public. Received: True"
            )
        done = asked(
            lambda: api.upload_folder(
                repo_id=name,
                folder_path=folder,
                commit_message=f"{type(model).__name__} by keras_mae",
                delete_patterns=list(_REPLACED),
            ),
            request,
        )
    return f"{HUB_SCHEME}{name}@{done.oid}"


def _check_arguments(repo: str, format: str, licence: str) -> str:
    """Return OWNER/NAME, which may be written with hf://."""
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {list(FORMATS)}. Received: {format!r}")
    if not isinstance(licence, str) or not _LICENCE.fullmatch(licence):
        raise ValueError(
            "`licence` must be an identifier such as 'apache-2.0', 'cc-by-nc-4.0' or 'other'. "
            f"Received: {licence!r}"
        )
    name = repo.removeprefix(HUB_SCHEME)
    try:
        path = parse(f"{HUB_SCHEME}{name}")
    except ValueError:
        path = None
    if path is None or path.repo != name:
        raise ValueError(f"`repo` must be OWNER/NAME. Received: {repo!r}")
    return name


def _opened(source: keras.Model | AnyPath) -> tuple[keras.Model, Path | None]:
    """Return (the model, the directory of the run that made it or None)."""
    if not isinstance(source, str | os.PathLike):
        return source, None
    path = Path(source)
    folder = path if path.is_dir() else path.parent
    model = load_pretrained(source)
    return model, folder if "run" in _json(folder / "config.json") else None


def _json(path: Path) -> dict[str, Any]:
    """Return a file's JSON object; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_model(model: keras.Model, kind: str, format: str, folder: Path) -> None:
    encoder = getattr(model, "encoder", model)
    if not isinstance(encoder, ViTEncoder):
        # Its file has the path of a SavedModel in place of weights.
        raise ValueError(f"`source` must have a ViTEncoder as its encoder. Received: {encoder!r}")
    if format != "keras":
        save_pretrained(model, folder, format)
        return
    folder.mkdir()
    # A copy that was never compiled: an optimizer's state is thrice the weights.
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    save_model(copy, folder / _KERAS_FILES[kind])


def _copy_figure(run: Path | None, folder: Path) -> str | None:
    """Copy a run's figure into a folder, and return its name in there; None if there is none."""
    for name in _FIGURES if run is not None else ():
        if (run / name).is_file():  # type: ignore[operator]
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(run / name, folder / name)  # type: ignore[operator]
            return name
    return None


def model_card(
    model: keras.Model,
    format: str,
    licence: str,
    run: AnyPath | None = None,
    *,
    name: str = "OWNER/NAME",
    data: str | None = None,
    figure: str | None = None,
) -> str:
    """Return the text of a model's card, Markdown with the hub's front matter.

    Args:
        model: `MaskedAutoencoder`, `ViTEncoder` or `ViTClassifier`.
        format, licence, data, name: see `push_to_hub`; `name` is its `repo`.
        run: path of the run's directory, or None.
        figure: str, the name of a figure beside the card, or None.
    """
    from huggingface_hub import ModelCardData

    kind, folder = kind_of(model), None if run is None else Path(run)
    config = {} if folder is None else _json(folder / "config.json")
    results = {} if folder is None else _json(folder / "results.json")
    front = ModelCardData(
        license=licence,
        library_name=_LIBRARIES[format],
        pipeline_tag="image-classification" if kind == "classifier" else "image-feature-extraction",
        tags=["keras_mae", "masked-autoencoder", "vision-transformer"],
    )
    sections = [
        f"---\n{front.to_yaml()}\n---",
        f"# {name.partition('/')[2]}",
        _about(model, kind, format),
        _usage(kind, format, name),
        _table("Model", _sizes(model, kind, format)),
        _table("Data", _data_rows(config, data)),
        _table("Recipe", _recipe_rows(config)),
        _table("Results", _result_rows(results)),
        f"![{_FIGURES[figure]}]({figure})" if figure else "",
        f"## Licence and patent\n\nThe weights are under: {licence}.\n\n{_PATENT}",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _about(model: keras.Model, kind: str, format: str) -> str:
    made = "made with keras_mae, a library for masked autoencoders in Keras"
    words = {
        "autoencoder": "A masked autoencoder: a vision transformer that rebuilds hidden patches",
        "encoder": "The encoder of a masked autoencoder: a vision transformer without a head",
        "classifier": "A vision transformer that classifies images",
    }
    if kind == "autoencoder" and format == "keras_hub":
        kind = "encoder"
    return f"{words[kind]} (He et al. 2021, arXiv:2111.06377), {made}."


def _usage(kind: str, format: str, name: str) -> str:
    """Return how the model is opened, by us and by the library whose format it has."""
    ours = f'import keras_mae\n\nmodel = keras_mae.load_pretrained("{HUB_SCHEME}{name}")'
    if format == "hf":
        cls, more = {
            "autoencoder": ("ViTMAEForPreTraining", ""),
            "encoder": ("ViTMAEModel", ", mask_ratio=0.0"),
            "classifier": ("ViTForImageClassification", ""),
        }[kind]
        theirs = (
            f'import transformers\n\nmodel = transformers.{cls}.from_pretrained("{name}"{more})'
        )
    elif format == "keras_hub":
        cls = "ImageClassifier" if kind == "classifier" else "Backbone"
        theirs = (
            f'import keras_hub\n\nmodel = keras_hub.models.{cls}.from_preset("{HUB_SCHEME}{name}")'
        )
    codes = [ours] if format == "keras" else [theirs, ours]
    return "\n\n".join(f"```python\n{code}\n```" for code in codes)


def _sizes(model: keras.Model, kind: str, format: str) -> Iterator[tuple[str, str]]:
    encoder = getattr(model, "encoder", model)
    part = encoder if kind == "autoencoder" and format == "keras_hub" else model
    low, high = encoder.value_range
    yield "parameters", f"{part.count_params():,}"
    yield (
        "images",
        f"{encoder.image_size[0]} x {encoder.image_size[1]} pixels, channels: {encoder.channels}",
    )
    yield "patches", f"{encoder.patch_size[0]} x {encoder.patch_size[1]} pixels"
    yield (
        "encoder",
        f"width {encoder.hidden_dim}, {encoder.num_layers} blocks of {encoder.num_heads} heads",
    )
    yield "values of pixels", f"{low:g} to {high:g}, mapped to 0 and 1"
    yield "mean, deviation", f"{_numbers(encoder.mean)}; {_numbers(encoder.std)}"
    if kind == "classifier":
        yield "classes", str(model.num_classes)
        if model.class_names:
            yield "names of classes", ", ".join(model.class_names)


def _data_rows(config: dict[str, Any], data: str | None) -> Iterator[tuple[str, str]]:
    settings = config.get("run", {})
    source = str(settings.get("dataset", ""))
    if data is None and _NAMED_SOURCES.fullmatch(source):
        data = source
    if data or settings:
        yield "images", data or "not named"
    for key, words in (
        ("training_images", "trained on"),
        ("heldout_images", "held out"),
        ("test_images", "tested on"),
    ):
        if isinstance(config.get(key), int):
            yield words, f"{config[key]:,}"


def _recipe_rows(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    settings = dict(config.get("run", {}))
    settings["steps"] = settings.get("total_steps", settings.get("steps"))
    for key, words in _RECIPE.items():
        value = settings.get(key)
        # 0.0 stands for an augmentation that is off.
        if value is not None and value != [] and not (key in ("mixup", "cutmix") and not value):
            # Of a class of one's own, MODULE:CLASS, the module may be a path.
            text = str(value).rpartition(":")[2] if isinstance(value, str) else _shown(value)
            yield words, text
    start = str(config.get("settings", {}).get("encoder") or "")
    if start.startswith(HUB_SCHEME):
        yield "starts from", start
    versions = config.get("environment", {})
    made_with = [
        f"{n} {versions[n]}" for n in ("keras_mae", "keras", "tensorflow") if n in versions
    ]
    if made_with:
        yield "made with", ", ".join(made_with)


def _result_rows(results: dict[str, Any]) -> Iterator[tuple[str, str]]:
    on = results.get("measured_on")
    for key, words in _RESULTS.items():
        if isinstance(results.get(key), int | float):
            value = results[key]
            yield words, f"{value:.4f}" if key.endswith("loss") else f"{value:.1%}"
    for features, numbers in results.get("accuracy", {}).items():
        accuracies = (
            f"{words} {numbers[key]:.1%}"
            for key, words in (("linear_probe", "linear probe"), ("knn", "nearest neighbours"))
            if isinstance(numbers.get(key), float)
        )
        yield f"accuracy of {features}", ", ".join(accuracies)
    if on and (results.get("top1") is not None or "accuracy" in results):
        count = results.get("heldout_examples") or results.get("probe", {}).get("heldout")
        yield "measured on", f"{count:,} {on} images" if isinstance(count, int) else f"{on} images"


def _table(title: str, rows: Iterator[tuple[str, str]]) -> str:
    """Return a section with a table of two columns; "" without rows."""
    lines = [f"| {words} | {_cell(value)} |" for words, value in rows]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *lines]) if lines else ""


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
