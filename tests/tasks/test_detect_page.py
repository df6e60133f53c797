import numpy as np

from keras_mae.tasks.detect import best_alone


def test_of_boxes_on_each_other_a_page_shows_the_best_and_none_that_is_not_sure():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 5], [10, 10, 14, 14], [20, 20, 24, 24]], "float32")
    assert best_alone(boxes, np.array([0.4, 0.9, 0.5, 0.29], "float32")) == [1, 2]
    # 16 of 20 pixels are shared; of boxes with half or less, both are shown.
    apart = boxes[[0, 2]]
    assert best_alone(apart, np.array([0.4, 0.9], "float32")) == [1, 0]
    assert best_alone(boxes[:0], np.zeros(0, "float32")) == []
