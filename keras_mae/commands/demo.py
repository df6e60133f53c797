"""A page in the browser: hide patches of pictures by clicks, and look inside a model."""

import contextlib
import os
from typing import Any

import matplotlib
import numpy as np

from keras_mae.commands.looking import load_model
from keras_mae.data.listing.names import IMAGE_SUFFIXES
from keras_mae.data.pictures import Pictures, View, check_pixels, read_pictures
from keras_mae.interop import load_encoder
from keras_mae.layers.masking import MASKINGS, get_masking
from keras_mae.models import MaskedAutoencoder
from keras_mae.plots import attention_maps, patch_components
from keras_mae.plots.figures import Shown, check_bands
from keras_mae.registry import names
from keras_mae.settings.tools import DemoSettings
from keras_mae.types import AnyPath

HOST = "127.0.0.1"  # of no use to any other machine
LEAST_SIDE = 320  # pixels, of pictures on the page
MEAN, ROLLOUT = "mean of heads", "rollout"
QUERIES = {"the class token": "token", "all patches, the mean": "patches"}
_STYLE = "#visible img { cursor: pointer; } .picture img { image-rendering: pixelated; }"


def demo(settings: DemoSettings) -> None:
    """Serve the page until the process is stopped."""
    gradio = import_gradio()
    looker = Looker(settings)
    app = build_app(looker, gradio)
    serve(app, settings, gradio)
    address = f"http://{HOST}:{settings.port}"
    print(f"Open {address} in a browser of this machine. Ctrl-C ends it.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        app.block_thread()
    print("The demo has ended.")


def import_gradio() -> Any:
    """Return the package, told to send nothing to anybody.

    Raises:
        ImportError: if it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise ImportError('The demo needs gradio: pip install "keras_mae[demo]"') from error
    return gradio


class Looker:
    """What the page shows, computed of pictures and masks; it knows nothing of the page.

    Args:
        settings: a `DemoSettings`.
    Attributes:
        model: the `MaskedAutoencoder`, or None where there is no decoder.
        encoder: what `keras_mae.load_encoder` returns.
        examples: `Pictures`.
        num_heads, num_blocks: ints; 0 where attention cannot be had.
    Raises:
        ValueError: for a model or examples that cannot be opened.
    """

    def __init__(self, settings: DemoSettings) -> None:
        self.settings = settings
        model = load_model(settings.model)
        self.model: Any = model if isinstance(model, MaskedAutoencoder) else None
        self.encoder: Any = load_encoder(model)
        if self.encoder.patch_size is None:
            raise ValueError(
                "`model` must tell the size of its patches, as the card.json beside a SavedModel "
                f"does. Received: {settings.model} without"
            )
        check_bands(settings.figure_bands, self.encoder.channels, "figure_bands")
        self.view = View.of(self.encoder, settings.bands, settings.resize)
        self.examples = read_pictures(self._specs(), self.view, settings.num_images)
        self.shown = Shown(self.encoder, self.examples.images, settings.figure_bands)
        self.grid = tuple(
            side // p
            for side, p in zip(self.encoder.image_size, self.encoder.patch_size, strict=True)
        )
        has_blocks = callable(getattr(self.encoder, "attention_weights", None))
        self.num_blocks = len(self.encoder.blocks) if has_blocks else 0
        self.num_heads: int = self.encoder.num_heads if has_blocks else 0
        self.scale = max(1, -(-LEAST_SIDE // min(self.encoder.image_size)))

    def _specs(self) -> tuple[str, ...]:
        if self.settings.image:
            return self.settings.image
        embedded = {1: ("mnist5k",), 3: ("photos",)}.get(self.encoder.channels)
        if embedded is None:
            raise ValueError(
                "`image` must be given: no embedded picture has the model's "
                f"{self.encoder.channels} channels. Received: none"
            )
        return embedded

    def read(self, path: AnyPath) -> Pictures:
        """Return an uploaded picture, as the model sees it.

        Raises:
            ValueError: if it is none, too large, or cannot be seen.
        """
        check_pixels(path, int(1e6 * self.settings.upload_megapixels))
        return read_pictures([path], self.view)

    def draw(self, mask_ratio: float, masking: str, seed: int) -> np.ndarray:
        """Return bool `(N,)`, patches hidden by a strategy; at least one is, and one is not."""
        count = self.grid[0] * self.grid[1]
        # The slider's ends are what can be.
        ratio = min(max(mask_ratio, 1 / count), 1 - 1 / count - 1e-6)
        return np.asarray(self.model.draw_mask(1, ratio, masking, int(seed)))[0] > 0

    def own_masking(self) -> str:
        """Return the name of the model's own strategy, where it has one."""
        own: Any = None if self.model is None else type(self.model.masking.masking)
        known = {type(get_masking(name)): name for name in names(MASKINGS)}
        return known.get(own, "random")

    def toggle(self, mask: np.ndarray, x: float, y: float) -> np.ndarray:
        """Return a mask in which the patch at a place of a picture is hidden, or shown again.

        Args:
            mask: bool `(N,)`.
            x, y: pixels of a picture on the page, from the left and from the top.
        Raises:
            ValueError: if no patch would be hidden, or none visible.
        """
        (rows, columns), (p, q) = self.grid, self.encoder.patch_size
        row, column = int(y // (p * self.scale)), int(x // (q * self.scale))
        row, column = min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)
        changed = np.array(mask, bool)
        changed[row * columns + column] ^= True
        if changed.all() or not changed.any():
            raise ValueError("At least one patch must be hidden, and one visible.")
        return changed

    def rebuild(self, image: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """Return what a picture looks like to the model, and what it makes of it.

        Args:
            image: float32 `(1, H, W, C)`, normalised.
            mask: bool `(N,)`.
        Returns:
            dict: "visible", "predicted" and "composed", uint8 pictures, and "text".
        """
        result = self.model.reconstruct(image, mask=mask)
        composed = self.shown(result["reconstruction"])[0]
        hidden = self.shown.hidden(mask[None])[0]
        loss, count = float(result["loss"]), int(mask.sum())
        text = f"### Loss of the {count} hidden patches: {loss:.3f}\n{mask.size - count} of "
        text += f"{mask.size} patches are visible. "
        if self.model.norm_pix_loss:
            text += (
                "Each patch is normalised by its own mean and deviation: about 1 is no better than "
                "its mean. The pictures have the mean and deviation of visible patches nearby."
            )
        else:
            text += "It is the mean square of normalised pixels' errors."
        return {
            "visible": self._page(self.shown.masked(image, mask[None])[0]),
            "predicted": self._page(np.where(hidden, composed, 0.5)),
            "composed": self._page(composed),
            "text": text,
        }

    def attention(self, image: np.ndarray, block: int, what: str, query: str) -> np.ndarray:
        """Return a picture of what a block looks at, bright on the picture in grey.

        Args:
            image: as of `rebuild`.
            block: int from 1 on.
            what: `MEAN`, `ROLLOUT`, or "head N".
            query: see `keras_mae.plots.attention_maps`.
        """
        maps = attention_maps(self.encoder, image, int(block), query)
        heads = maps["heads"][0]
        if what == ROLLOUT:
            found = maps["rollout"][0]
        else:
            found = heads.mean(axis=0) if what == MEAN else heads[int(what.split()[1]) - 1]
        heat = matplotlib.colormaps["magma"](found / max(found.max(), 1e-12))[..., :3]
        p, q = self.encoder.patch_size
        heat = heat.repeat(p, axis=0).repeat(q, axis=1)
        grey = self.shown(image)[0].mean(axis=-1, keepdims=True)
        return self._page(0.25 * grey + 0.75 * heat)

    def components(self, image: np.ndarray) -> np.ndarray:
        """Return a picture of the patches' principal components, in one basis with the examples."""
        colours, _ = patch_components(self.encoder, np.concatenate([self.examples.images, image]))
        p, q = self.encoder.patch_size
        return self._page(colours[-1].repeat(p, axis=0).repeat(q, axis=1))

    def original(self, image: np.ndarray) -> np.ndarray:
        """Return a picture as the model sees it."""
        return self._page(self.shown(image)[0])

    def _page(self, picture: np.ndarray) -> np.ndarray:
        """Return uint8 `(H, W, 3)` of a picture in [0, 1], large enough for the page."""
        picture = np.rint(255 * np.clip(picture, 0, 1)).astype("uint8")
        picture = np.broadcast_to(picture, (*picture.shape[:2], 3))
        return picture.repeat(self.scale, axis=0).repeat(self.scale, axis=1)


def build_app(looker: Looker, gradio: Any) -> Any:
    """Return the page, a `gradio.Blocks`."""
    encoder, has_decoder = looker.encoder, looker.model is not None
    has_blocks = bool(looker.num_blocks)
    height, width = encoder.image_size
    about = (
        f"`{looker.settings.model}` sees pictures of {height} x {width} pixels as "
        f"{looker.grid[0]} x {looker.grid[1]} patches."
    )
    ratio = looker.model._mask_ratios()[-1] if has_decoder else 0.75

    def picture(label: str, name: str, visible: bool = True) -> Any:
        # A label of its own: Gradio's lies on the picture, where patches could not be clicked.
        with gradio.Column(visible=visible, min_width=220):
            gradio.Markdown(f"**{label}**")
            return gradio.Image(
                label=label,
                show_label=False,
                elem_id=name,
                elem_classes="picture",
                interactive=False,
                format="png",
                buttons=[],
            )

    with gradio.Blocks(
        title="Masked autoencoder", analytics_enabled=False, delete_cache=(3600, 3600)
    ) as app:
        image = gradio.State(looker.examples.images[:1])
        mask = gradio.State()
        gradio.Markdown(f"# What a masked autoencoder sees\n{about}")
        with gradio.Row():
            gallery = gradio.Gallery(
                [
                    looker.original(looker.examples.images[i : i + 1])
                    for i in range(len(looker.examples.images))
                ],
                label="Examples",
                columns=8,
                height=120,
                allow_preview=False,
                buttons=[],
                elem_id="examples",
                scale=4,
            )
            with gradio.Column(scale=1, min_width=180):
                upload = gradio.UploadButton(
                    "Your picture", file_types=sorted(IMAGE_SUFFIXES), elem_id="upload"
                )
                note = gradio.Markdown(elem_id="note")
        with gradio.Column(visible=has_decoder):
            with gradio.Row():
                share = gradio.Slider(0.01, 0.99, ratio, step=0.01, label="Mask ratio")
                strategy = gradio.Radio(
                    names(MASKINGS), value=looker.own_masking(), label="Strategy"
                )
                seed = gradio.Slider(0, 99, 0, step=1, label="Seed")
            gradio.Markdown("Click a patch of the first picture to hide it, or to show it.")
            with gradio.Row():
                visible = picture("Visible", "visible")
                predicted = picture("Predicted", "predicted")
                composed = picture("Composed", "composed")
            text = gradio.Markdown(elem_id="loss")
        if not has_decoder:
            gradio.Markdown("The model has no decoder: nothing is hidden or rebuilt.")
        with gradio.Row(visible=has_blocks):
            block = gradio.Slider(
                1, max(looker.num_blocks, 2), max(looker.num_blocks, 1), step=1, label="Block"
            )
            heads = [f"head {i + 1}" for i in range(looker.num_heads)]
            what = gradio.Dropdown([MEAN, ROLLOUT, *heads], value=MEAN, label="Attention")
            query = gradio.Radio(list(QUERIES), value=next(iter(QUERIES)), label="of")
        with gradio.Row():
            original = picture("Picture", "original")
            attention = picture("Attention", "attention", visible=has_blocks)
            components = picture("Principal components", "components")

        def rebuilt(image: Any, mask: Any) -> tuple[Any, ...]:
            found = looker.rebuild(image, mask)
            return mask, *(found[n] for n in ("visible", "predicted", "composed", "text"))

        def redrawn(image: Any, ratio: float, strategy: str, seed: int) -> tuple[Any, ...]:
            return rebuilt(image, looker.draw(ratio, strategy, seed))

        def clicked(image: Any, mask: Any, event: gradio.SelectData) -> tuple[Any, ...]:
            try:
                return rebuilt(image, looker.toggle(mask, *event.index))
            except ValueError as error:
                raise gradio.Error(str(error), duration=5, print_exception=False) from error

        def looked(image: Any, block: int, what: str, query: str) -> Any:
            block = min(int(block), looker.num_blocks)
            return looker.attention(image, block, what, QUERIES[query])

        def seen(image: Any) -> tuple[Any, Any]:
            return looker.original(image), looker.components(image)

        def chosen(event: gradio.SelectData) -> tuple[Any, str]:
            return looker.examples.images[event.index : event.index + 1], ""

        def uploaded(path: str) -> tuple[Any, str]:
            try:
                pictures = looker.read(path)
            except ValueError as error:
                raise gradio.Error(str(error), duration=10, print_exception=False) from error
            return pictures.images, " ".join(_without_folder(n, path) for n in pictures.notes)

        masked = [mask, visible, predicted, composed, text]
        drawn_by, looked_by = [image, share, strategy, seed], [image, block, what, query]
        quiet: dict[str, Any] = {
            "show_progress": "hidden",
            "api_visibility": "private",
            "trigger_mode": "always_last",
        }
        gallery.select(chosen, None, [image, note], **quiet)
        upload.upload(uploaded, upload, [image, note], **quiet)
        changes = [app.load, image.change]
        for change in changes:
            change(seen, image, [original, components], **quiet)
        if has_decoder:
            for change in [*changes, share.input, strategy.input, seed.input]:
                change(redrawn, drawn_by, masked, **quiet)
            visible.select(clicked, [image, mask], masked, **quiet)
        if has_blocks:
            for change in [*changes, block.input, what.input, query.input]:
                change(looked, looked_by, attention, **quiet)
    return app


def serve(app: Any, settings: DemoSettings, gradio: Any) -> None:
    """Serve a page in threads of this process, to this machine only.

    Raises:
        ValueError: if the port is taken.
    """
    try:
        app.launch(
            server_name=HOST,
            server_port=settings.port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            max_file_size=int(1e6 * settings.upload_mb),
            theme=gradio.themes.Default(
                font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
            ),
            css=_STYLE,
        )
    except OSError as error:
        raise ValueError(
            f"`port` must be free on {HOST}. Received: {settings.port} ({error})"
        ) from error


def _without_folder(text: str, path: str) -> str:
    """Return a note with a file's name in place of its path, which is a temporary one."""
    return text.replace(str(path), os.path.basename(path))
