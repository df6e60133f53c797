import pytest

from keras_mae.training.strategy import make_strategy


def test_two_logical_cpus_make_two_replicas():
    assert make_strategy("mirrored", logical_devices=2).num_replicas_in_sync == 2
    assert make_strategy("auto", logical_devices=2).num_replicas_in_sync == 2
    assert make_strategy("one_device").num_replicas_in_sync == 1


@pytest.mark.parametrize(
    "name, devices, message",
    [
        ("mirror", None, "`strategy` must be one of"),
        ("mirrored", 1, "`logical_devices` must be at least 2"),
        ("mirrored", 3, "`logical_devices` must be set before TensorFlow has started"),
    ],
)
def test_what_this_machine_cannot_give_is_refused(name, devices, message):
    make_strategy("one_device")
    with pytest.raises(ValueError, match=message):
        make_strategy(name, logical_devices=devices)
