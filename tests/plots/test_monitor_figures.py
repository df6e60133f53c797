import numpy as np
from PIL import Image

from keras_mae.plots.monitors import animation, monitor_figure, reconstruction_sheet


def test_a_sheet_shows_images_enlarged_row_by_row(tmp_path):
    rows = {"original": np.zeros((2, 4, 4, 1)), "rebuilt": np.ones((2, 4, 4, 1))}
    rows["original"][1, 0, 0] = 1
    path = tmp_path / "sheet.png"
    reconstruction_sheet(rows, path, "step 5")
    sheet = np.asarray(Image.open(path))
    # 24 times as large, with gaps of 4 and a title of 24.
    assert sheet.shape == (24 + 2 * 100 + 4, 2 * 100 + 4, 3)
    tiles = sheet[24:]
    assert np.all(tiles[4:100, 4:100] == 0) and np.all(tiles[104:200, 4:100] == 255)
    second = tiles[4:100, 104:200, 0]
    assert np.all(second[:24, :24] == 255) and second.sum() == 24 * 24 * 255
    assert np.any(sheet[:24] < 255)  # the title


def test_large_colour_images_are_as_they_are(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (1, 100, 120, 3))
    reconstruction_sheet({"original": image / 255}, tmp_path / "sheet.png", "")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    np.testing.assert_array_equal(sheet[28:128, 4:124], image[0])


def test_an_animation_has_all_frames(tmp_path):
    frames = []
    for i in range(3):
        frames.append(tmp_path / f"{i}.png")
        Image.fromarray(np.full((8, 8, 3), 100 * i, "uint8")).save(frames[-1])
    animation(frames, tmp_path / "all.webp")
    with Image.open(tmp_path / "all.webp") as image:
        assert image.n_frames == 3 and image.info["loop"] == 0
        image.seek(2)
        assert abs(int(np.asarray(image.convert("L")).mean()) - 200) < 5


def test_curves_are_drawn_of_any_number_of_monitors(tmp_path):
    for i, curves in enumerate(
        ({0: {"a": 0.5}}, {0: {"a": 0.5, "b": 3}, 5: {"a": 1}, 9: {"b": 4, "c": -1}})
    ):
        path = tmp_path / f"{i}.png"
        monitor_figure(curves, path)
        assert Image.open(path).size[0] == [1, 3][i] * 630
