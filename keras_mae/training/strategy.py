"""Which devices a run is spread over (`tf.distribute`)."""

import tensorflow as tf

STRATEGIES = ("auto", "one_device", "mirrored")


def make_strategy(name="auto", logical_devices=None):
    """Return a `tf.distribute` strategy; build and compile the model in its `scope()`.

    Args:
        name: "one_device": the first GPU, else the CPU. "mirrored": a replica on each GPU, or on
            each of `logical_devices` CPUs. "auto": mirrored if there are several, else one device.
        logical_devices: int. Splits the CPU into so many devices, to try replicas without GPUs;
            only before TensorFlow has started.
    Raises:
        ValueError: if this machine does not have the devices; it says what is missing.
    """
    if name not in STRATEGIES:
        raise ValueError(f"`strategy` must be one of {list(STRATEGIES)}. Received: {name!r}")
    kind = "CPU" if logical_devices else "GPU"
    if logical_devices:
        _split_cpu(logical_devices)
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    if name == "mirrored" and len(devices) < 2:
        raise ValueError(
            "`strategy='mirrored'` needs two or more GPUs, or `logical_devices` of 2 or more to "
            f"split the CPU. Received: {len(devices)} {kind} device(s)"
        )
    if name == "one_device" or len(devices) < 2:
        return tf.distribute.get_strategy()  # the default one: the first GPU, else the CPU
    return tf.distribute.MirroredStrategy(devices)


def _split_cpu(count):
    if count < 2:
        raise ValueError(f"`logical_devices` must be at least 2. Received: {count}")
    cpu = tf.config.list_physical_devices("CPU")[0]
    configuration = tf.config.get_logical_device_configuration(cpu) or []
    if len(configuration) == count:
        return
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    except RuntimeError as error:
        raise ValueError(
            "`logical_devices` must be set before TensorFlow has started. "
            f"Received: {count}, too late"
        ) from error
