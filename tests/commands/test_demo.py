"""The demo: what it shows, by numbers; and the page, in a browser."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_mae import MaskedAutoencoder
from keras_mae.commands.demo import HOST, Looker, build_app, demo, import_gradio, serve
from keras_mae.export import export_encoder
from keras_mae.settings.tools import DemoSettings

SIZES = {"image_size": 8, "patch_size": 4, "hidden_dim": 16, "num_layers": 2, "num_heads": 2}
SIZES |= {"decoder_hidden_dim": 8, "decoder_num_layers": 1, "decoder_num_heads": 2}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory with models, and pictures of four colours, a quarter each."""
    root = tmp_path_factory.mktemp("demo")
    model = MaskedAutoencoder(**SIZES)
    model.save(root / "mae.keras")
    model.encoder.save(root / "encoder.keras")
    quarters = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], "uint8")
    quarters = quarters.repeat(4, axis=0).repeat(4, axis=1)
    Image.fromarray(quarters).save(root / "a.png")
    Image.fromarray(quarters[::-1].copy()).save(root / "b.png")
    Image.fromarray(np.full((30, 20), 99, "uint8")).save(root / "grey.png")
    return root


def settings_of(files, model="mae.keras", **changes):
    images = tuple(str(files / name) for name in ("a.png", "b.png"))
    return DemoSettings(model=str(files / model), **{"image": images, **changes})


@pytest.fixture(scope="module")
def looker(files):
    return Looker(settings_of(files))


def test_a_click_hides_a_patch_and_another_shows_it(looker):
    assert looker.scale == 40 and looker.grid == (2, 2)
    mask = np.array([True, False, False, False])
    # A patch is 160 pixels on the page: the second one of the first row, its last pixel.
    hidden = looker.toggle(mask, 319, 159)
    assert hidden.tolist() == [True, True, False, False]
    assert looker.toggle(hidden, 160, 0).tolist() == mask.tolist()
    assert looker.toggle(mask, 0, 160).tolist() == [True, False, True, False]
    for clicked, before in (((0, 0), mask), ((0, 0), ~mask)):
        with pytest.raises(ValueError, match="At least one patch"):
            looker.toggle(before, *clicked)


def test_pictures_are_those_of_the_model(looker):
    image, mask = looker.examples.images[:1], np.array([False, True, False, False])
    found = looker.rebuild(image, mask)
    original = looker.original(image)
    assert original.shape == (320, 320, 3) and original[0, 0].tolist() == [255, 0, 0]
    for name in ("visible", "composed"):
        np.testing.assert_array_equal(found[name][160:], original[160:])
    assert (found["visible"][:160, 160:] == 128).all()
    assert (found["predicted"][160:] == 128).all()
    # What is predicted of the hidden patch is what is put in its place.
    own, put = (found[name][:160, 160:] for name in ("predicted", "composed"))
    np.testing.assert_array_equal(own, put)
    result = looker.model.reconstruct(image, mask=mask)
    assert f"1 hidden patches: {float(result['loss']):.3f}" in found["text"]
    assert "3 of 4 patches are visible" in found["text"]


@pytest.mark.parametrize("ratio, hidden", [(0.01, 1), (0.5, 2), (0.75, 3), (0.99, 3)])
@pytest.mark.parametrize("masking", ["random", "block", "grid"])
def test_any_ratio_hides_something_and_not_all(looker, ratio, hidden, masking):
    assert looker.draw(ratio, masking, 3).sum() == hidden


def test_the_strategy_shown_first_is_the_models(files, looker):
    assert looker.own_masking() == "random"
    MaskedAutoencoder(**SIZES, masking="grid").save(files / "grid.keras")
    assert Looker(settings_of(files, "grid.keras")).own_masking() == "grid"


def test_attention_and_components_are_pictures(looker):
    image = looker.examples.images[1:]
    pictures = [looker.attention(image, 1, what, "token") for what in ("mean of heads", "head 2")]
    pictures += [looker.attention(image, 2, "rollout", "patches"), looker.components(image)]
    for picture in pictures:
        assert picture.shape == (320, 320, 3) and picture.dtype == np.uint8 and picture.std() > 1


def test_uploads_are_limited(files, looker):
    assert looker.read(files / "grey.png").images.shape == (1, 8, 8, 3)
    small = Looker(settings_of(files, upload_megapixels=0.0005))
    with pytest.raises(ValueError, match="`image` must have at most 500 pixels"):
        small.read(files / "grey.png")
    (files / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="`image`"):
        looker.read(files / "broken.png")


@pytest.mark.slow
def test_models_without_a_decoder_and_without_blocks(files):
    looker = Looker(settings_of(files, "encoder.keras"))
    assert looker.model is None and looker.num_blocks == 2
    digits = MaskedAutoencoder(**SIZES, channels=1)
    digits.save(files / "grey.keras")
    # Without pictures, the embedded ones.
    assert Looker(settings_of(files, "grey.keras", image=(), num_images=2)).examples.names
    MaskedAutoencoder(**SIZES, channels=5).save(files / "five.keras")
    with pytest.raises(ValueError, match="`image`"):
        Looker(settings_of(files, "five.keras", image=()))
    with pytest.raises(ValueError, match="`model`"):
        Looker(settings_of(files, "nowhere.keras"))


@pytest.mark.slow
@pytest.mark.export
def test_a_saved_model_shows_components(files):
    model = MaskedAutoencoder(**SIZES)
    path = export_encoder(model.encoder, files / "saved", fresh_process=False, warmup=False)
    looker = Looker(settings_of(files, path.parent.name))
    assert looker.model is None and looker.num_blocks == 0
    assert looker.components(looker.examples.images[:1]).shape == (320, 320, 3)


def test_without_gradio_the_extra_is_named(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"keras_mae\[demo\]"):
        demo(settings_of(files))


def free_port():
    with socket.socket() as opened:
        opened.bind((HOST, 0))
        return opened.getsockname()[1]


@pytest.fixture
def page(files, looker):
    """Serve the page, and return (settings, address, the app)."""
    pytest.importorskip("gradio", reason='needs `pip install -e ".[demo]"`')
    gradio = import_gradio()
    settings = settings_of(files, port=free_port(), upload_mb=0.01)
    app = build_app(looker, gradio)
    serve(app, settings, gradio)
    yield settings, f"http://{HOST}:{settings.port}", app
    app.close()


@pytest.mark.slow
def test_only_this_machine_is_served_and_a_port_that_is_taken_is_said(page, looker):
    settings, _, app = page
    assert app.share is False and app.analytics_enabled is False
    if Path("/proc/net/tcp").exists():
        listening = [line.split()[1:4:2] for line in Path("/proc/net/tcp").read_text().splitlines()]
        own = [a for a, state in listening[1:] if state == "0A"]
        own = [a for a in own if int(a.split(":")[1], 16) == settings.port]
        assert [a.split(":")[0] for a in own] == ["0100007F"]  # 127.0.0.1
    gradio = import_gradio()
    with pytest.raises(ValueError, match="`port`"):
        serve(build_app(looker, gradio), settings, gradio)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_in_a_browser_patches_are_hidden_by_clicks(page, files):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
    _, address, _ = page
    asked, said = [], []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1200, "height": 1000})
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(address)
        loss = tab.locator("#loss")
        playwright.expect(loss).to_contain_text("3 hidden patches", timeout=60_000)

        def click(x, y):
            box = tab.locator("#visible img").bounding_box()
            # The picture is square, and lies in the middle of its box.
            side = min(box["width"], box["height"])
            left = box["x"] + (box["width"] - side) / 2
            top = box["y"] + (box["height"] - side) / 2
            tab.mouse.click(left + x * side, top + y * side)

        # Which patches are hidden, as the page shows them: all clicks at their middles.
        seen = {"before": loss.inner_text()}
        hidden, places = 3, [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)]
        shown = next(i for i, _ in enumerate(places) if not looked(tab, places[i]))
        other = (shown + 1) % 4
        for place, wanted in ((other, hidden - 1), (other, hidden)):
            click(*places[place])
            playwright.expect(loss).to_contain_text(f"{wanted} hidden patches", timeout=30_000)
            assert looked(tab, places[place]) == (wanted == hidden)
        seen["after"] = loss.inner_text()
        assert seen["before"] == seen["after"]
        # The last visible patch stays: the page says why.
        click(*places[shown])
        playwright.expect(tab.get_by_text("At least one patch")).to_be_visible(timeout=30_000)
        # A strategy, an example, and a picture of one's own.
        tab.get_by_role("radio", name="block").check()
        tab.locator("#examples img").nth(1).click()
        with tab.expect_file_chooser() as chooser:
            tab.locator("#upload").click()
        chooser.value.set_files(files / "grey.png")
        playwright.expect(tab.locator("#note")).to_contain_text("grey.png", timeout=30_000)
        assert "/" not in tab.locator("#note").inner_text().split("grey.png")[0]
        for name in ("#attention img", "#components img", "#composed img", "#predicted img"):
            playwright.expect(tab.locator(name)).to_be_visible(timeout=30_000)
        # Too large a file is refused.
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), "uint8")).save(
            files / "large.png"
        )
        with tab.expect_file_chooser() as chooser:
            tab.locator("#upload").click()
        chooser.value.set_files(files / "large.png")
        playwright.expect(tab.get_by_text("maximum")).to_be_visible(timeout=30_000)
        tab.set_viewport_size({"width": 390, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        browser.close()
    # Nobody else is asked for anything.
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {address[7:]}
    assert said == []


def looked(tab, place):
    """Return whether the first picture is grey at a place (x, y), in shares of its sides."""
    script = """([x, y]) => {
        const image = document.querySelector("#visible img");
        const canvas = document.createElement("canvas");
        canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
        const context = canvas.getContext("2d");
        context.drawImage(image, 0, 0);
        return Array.from(context.getImageData(
            Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data);
    }"""
    return tab.evaluate(script, list(place))[:3] == [128, 128, 128]


@pytest.mark.slow
def test_the_command_says_what_to_install(files):
    code = "import sys; sys.modules['gradio'] = None\nfrom keras_mae.commands import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, "demo", f"--model={files}/mae.keras"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "keras_mae[demo]" in done.stderr
    assert "Traceback" not in done.stderr
