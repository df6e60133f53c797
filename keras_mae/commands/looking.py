"""The commands that show a model's work on pictures of a person's own."""

from pathlib import Path
from typing import Any

import keras

from keras_mae.data.pictures import Pictures, View, read_mask, read_pictures
from keras_mae.files import saved_model_path
from keras_mae.interop import load_encoder, load_pretrained
from keras_mae.models import MaskedAutoencoder
from keras_mae.plots import (
    MaskOf,
    attention_figure,
    components_figure,
    drawn_masks,
    reconstruction_figure,
    reconstructions_figure,
)
from keras_mae.plots.figures import check_bands
from keras_mae.settings.tools import (
    LOOKS,
    MaskSettings,
    PictureSettings,
    ReconstructSettings,
    VisualizeSettings,
)
from keras_mae.types import AnyPath


def reconstruct(settings: ReconstructSettings) -> None:
    """Draw a figure of pictures, masked and rebuilt."""
    model = load_autoencoder(settings.model)
    pictures = _read(settings, model)
    mask = own_mask(settings, model)
    if (settings.mask_ratio, settings.masking) != (None, None):
        mask = model.draw_mask(
            len(pictures.images), settings.mask_ratio, settings.masking, settings.seed
        )
    reconstruction_figure(
        model,
        pictures.images,
        settings.output,
        settings.seed,
        settings.statistics(),
        bands=settings.figure_bands,
        mask=mask,
    )
    print(f"Wrote {settings.output}")


def visualize(settings: VisualizeSettings) -> None:
    """Draw figures of attention, components and reconstructions."""
    model = load_model(settings.model)
    has_decoder = isinstance(model, MaskedAutoencoder)
    encoder = model.encoder if has_decoder else load_encoder(model)
    has_blocks = callable(getattr(encoder, "attention_weights", None))
    there = dict(zip(LOOKS, (has_blocks, True, has_decoder), strict=True))
    parts = settings.parts or tuple(part for part in LOOKS if there[part])
    if "reconstructions" in parts and not has_decoder:
        raise ValueError(
            "`parts` must not name reconstructions for a model that has no decoder. "
            f"{_no_decoder(settings.model, model)}"
        )
    if settings.mask is not None and "reconstructions" not in parts:
        words = f"{settings.model} has no decoder" if not has_decoder else f"parts={list(parts)}"
        raise ValueError(
            f"`mask` must be None where nothing is rebuilt. Received: {settings.mask!r}; {words}"
        )
    check_bands(settings.figure_bands, encoder.channels, "figure_bands")
    mask = own_mask(settings, encoder) if "reconstructions" in parts else None
    pictures = _read(settings, encoder)
    directory, images = Path(settings.output), pictures.images
    shared: dict[str, Any] = {"bands": settings.figure_bands, "names": pictures.names}
    written = []
    if "attention" in parts:
        path = directory / "attention.png"
        attention_figure(encoder, images, path, settings.block, settings.query, **shared)
        whose = {"token": "the class token looks at", "patches": "patches look at, their mean"}
        block = settings.block or encoder.num_layers
        written.append((path, f"what {whose[settings.query]}, block {block}"))
    elif not has_blocks:
        print("Attention cannot be had of a SavedModel: it gives tokens only.")
    if "components" in parts:
        path = directory / "components.png"
        components_figure(encoder, images, path, **shared)
        written.append((path, "principal components of patch tokens as colours"))
    if "reconstructions" in parts:
        path = directory / "reconstructions.png"
        masks = drawn_masks(
            model, len(images), settings.mask_ratio, settings.masking or (), settings.seed
        )
        masks = masks if mask is None else [MaskOf("your mask", mask), *masks]
        reconstructions_figure(model, images, path, masks, settings.statistics(), **shared)
        written.append((path, "pictures as seen and rebuilt under each mask"))
    elif not has_decoder:
        print("Nothing is rebuilt: there is no decoder in the model.")
    width = max(len(str(path)) for path, _ in written)
    for path, what in written:
        print(f"Wrote {path!s:<{width}}  {what}")


def load_model(path: AnyPath | None) -> keras.Model:
    """Return what a path holds: a model with a decoder where there is one, else an encoder.

    Args:
        path: what `keras_mae.load_pretrained` or `keras_mae.load_encoder` opens.
    Raises:
        ValueError: naming `model`, if no model is there.
    """
    if path is None:
        raise ValueError("`model` must be given. Received: None")
    try:
        if saved_model_path(path) is not None:
            return load_encoder(path)
        return load_pretrained(path)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(str(error).replace("`path`", "`model`")) from error


def load_autoencoder(path: AnyPath | None) -> MaskedAutoencoder:
    """Return the `MaskedAutoencoder` of a path; see `load_model`."""
    model = load_model(path)
    if not isinstance(model, MaskedAutoencoder):
        raise ValueError(
            "`model` must have a decoder, as a pre-training's mae.keras has. "
            f"{_no_decoder(path, model)}"
        )
    return model


def _no_decoder(path: Any, model: Any) -> str:
    return f"Received: {path}, a {type(model).__name__} without a decoder, which rebuilds nothing"


def own_mask(settings: MaskSettings, model: Any) -> Any:
    """Return the mask that a person has given, bool `(N,)`, or None."""
    if settings.mask is None:
        return None
    encoder = getattr(model, "encoder", model)
    view = View.of(encoder, resize=settings.resize)
    return read_mask(settings.mask, view, encoder.patch_size)


def _read(settings: PictureSettings, model: Any) -> Pictures:
    """Return the pictures as a model sees them, and print what is to be known of them."""
    encoder = getattr(model, "encoder", model)
    view = View.of(encoder, settings.bands, settings.resize)
    pictures = read_pictures(settings.image, view, settings.num_images)
    for note in pictures.notes:
        print(f"Note: {note}")
    return pictures
