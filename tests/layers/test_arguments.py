"""Errors name the argument, what was expected and what came."""

import pytest

from keras_mae.layers.arguments import check_dtype, grid_size, pair


@pytest.mark.parametrize(
    "value, expected", [(3, (3, 3)), ((2, 5), (2, 5)), ([2, 5], (2, 5)), ((2.0, 5.0), (2, 5))]
)
def test_pair(value, expected):
    assert pair(value, "patch_size") == expected


@pytest.mark.parametrize(
    "value", [0, -1, 1.5, True, None, "16", (1, 2, 3), (4,), (0, 4), (None, 4)]
)
def test_pair_names_the_argument_and_the_value(value):
    with pytest.raises(ValueError, match="`patch_size` must be") as error:
        pair(value, "patch_size")
    assert str(value) in str(error.value)


def test_grid_size():
    assert grid_size((224, 96), 16) == (14, 6)
    assert grid_size((10, 40), (5, 8)) == (2, 5)


@pytest.mark.parametrize("size, side", [((30, 32), "height 30"), ((32, 30), "width 30")])
def test_grid_size_names_the_side_that_does_not_fit(size, side):
    with pytest.raises(ValueError, match=f"`image_size` must be a multiple.*Received: {side}"):
        grid_size(size, 16)


@pytest.mark.parametrize("dtype", ["fp16", "int32", "int8", 16])
def test_check_dtype(dtype):
    with pytest.raises(ValueError, match="`dtype` must be .* Received"):
        check_dtype(dtype)


@pytest.mark.parametrize("dtype", [None, "float32", "mixed_bfloat16", "mixed_float16"])
def test_check_dtype_accepts_policies_of_floats(dtype):
    check_dtype(dtype)
