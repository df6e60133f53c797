import numpy as np
import pytest

from keras_mae.plots import dense

MEAN, STD = (0.0,) * 3, (1.0,) * 3


@pytest.mark.parametrize("count", [1, 2, 10, 11, 20, 21, 80])
def test_every_class_has_a_colour_of_its_own(count):
    colours = dense._colours(count)
    assert colours.shape == (count, 3) and len(np.unique(colours, axis=0)) == count
    assert not np.any(np.all(colours == dense.BACKGROUND, axis=1))


def test_boxes_lie_on_the_pixels_that_they_name_and_say_their_class(monkeypatch, tmp_path):
    """A box of the pixels 2 to 5 and 1 to 3: its corners are half a pixel before and after them."""
    drawn = {}
    save = dense.save_figure
    monkeypatch.setattr(dense, "save_figure", lambda f, path: (drawn.update(f=f), save(f, path)))
    box = np.array([[2, 1, 6, 4]], "float32")
    found = (box, np.array([1.0]), np.array([0.876]))
    scene = dense.Scene(np.zeros((8, 8, 3), "float32"), 7, found)

    def truth_of(record):
        assert record == 7
        return box, np.array([0])

    path = tmp_path / "page.png"
    dense.boxes_figure([scene], path, MEAN, STD, ["cat", "dog"], truth_of)
    image, labelled, predicted = drawn["f"].axes
    assert not image.patches and path.stat().st_size > 1000
    for axis, word, label in ((labelled, "cat", 0), (predicted, "dog 88", 1)):
        (patch,) = axis.patches
        np.testing.assert_allclose(patch.get_bbox().extents, [1.5, 0.5, 5.5, 3.5])
        np.testing.assert_allclose(patch.get_edgecolor()[:3], dense._colours(2)[label])
        assert word in [text.get_text() for text in axis.texts]


def test_label_maps_are_painted_and_what_does_not_count_is_white(monkeypatch, tmp_path):
    drawn = {}
    monkeypatch.setattr(dense, "save_figure", lambda f, path: drawn.update(f=f))
    truth, found = np.array([[0, 255], [2, 1]]), np.array([[0, 1], [2, 2]])
    scene = dense.Scene(np.zeros((2, 2, 3), "float32"), truth, found)
    dense.label_map_figure([scene], tmp_path / "page.png", MEAN, STD, ["ground", "a", "b"])
    first, second = dense._colours(2)
    ground, white = dense.BACKGROUND[0], np.ones(3)
    painted = [axis.images[0].get_array() for axis in drawn["f"].axes[1:3]]
    np.testing.assert_allclose(painted[0], [[ground, white], [second, first]])
    np.testing.assert_allclose(painted[1], [[ground, first], [second, second]])
