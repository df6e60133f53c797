"""Which devices a run is spread over: `tf.distribute`, or `keras.distribution` on JAX."""

import contextlib
import json
import os
import re
import socket

import keras

from keras_mae.settings.run import STRATEGIES

CONNECT_SECONDS = 10

_TF_CONFIG_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
    '"task": {"type": "worker", "index": 0}}, with an index of its own on each worker'
)


def is_distributed(strategy):
    """Return whether a strategy is one of `tf.distribute`."""
    return not isinstance(strategy, _KerasDistribution)


def make_strategy(name="auto", logical_devices=None, tpu=None):
    """Return a `tf.distribute` strategy; build and compile the model in its `scope()`.

    Args:
        name: "one_device": the first GPU, else the CPU. "mirrored": a replica on each GPU, or on
            each of `logical_devices` CPUs. "multi_worker": all GPUs (or the CPU) of each process
            that the environment variable TF_CONFIG names; it waits until all have started. "tpu":
            all cores of a TPU. "auto": mirrored if there are several GPUs, else one device.
        logical_devices: int. Splits the CPU into so many devices, to try replicas without GPUs;
            only before TensorFlow has started.
        tpu: string, for "tpu": the TPU's name, its address (grpc://...), or "local" on a TPU VM.
    Returns:
        the strategy. On the JAX backend, an object with the same `scope()` and
        `num_replicas_in_sync`: "auto" sets `keras.distribution.DataParallel` for the process if
        there are several devices.
    Raises:
        ValueError: if this machine does not have the devices; it says what is missing.
    """
    if name not in STRATEGIES:
        raise ValueError(f"`strategy` must be one of {list(STRATEGIES)}. Received: {name!r}")
    if tpu is not None and name != "tpu":
        raise ValueError(f"`tpu` needs strategy='tpu'. Received: tpu={tpu!r}, strategy={name!r}")
    if keras.backend.backend() != "tensorflow":
        return _keras_distribution(name, logical_devices)
    import tensorflow as tf

    if name == "multi_worker":
        return _multi_worker(logical_devices)
    if name == "tpu":
        return _tpu(tpu)
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
    import tensorflow as tf

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


def _multi_worker(logical_devices):
    import tensorflow as tf

    if logical_devices:
        raise ValueError(
            "`logical_devices` must not be given for strategy='multi_worker', where a worker "
            f"without GPUs is one replica. Received: {logical_devices}"
        )
    count, index = workers_of(os.environ.get("TF_CONFIG"))
    print(f"Worker {index} of {count}: waiting for the others.", flush=True)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, tf.errors.OpError) as error:
        raise ValueError(
            "`strategy='multi_worker'` could not start this worker: it must be the first that "
            "TensorFlow does in the process, and the port that TF_CONFIG gives it must be free. "
            f"Received: {_first_line(error)}"
        ) from error


def workers_of(tf_config):
    """Return (how many workers a TF_CONFIG names, the number among them of this process).

    Args:
        tf_config: string, JSON; or None, where the environment has none. The cluster may hold one
            "chief" beside the "worker" list: it is then the first, as it is for TensorFlow.
    Raises:
        ValueError: if it is missing, or not that of a worker among two or more.
    """

    def refuse(fault):
        raise ValueError(
            "`strategy='multi_worker'` needs the environment variable TF_CONFIG, such as "
            f"{_TF_CONFIG_EXAMPLE}. {fault}"
        )

    if not tf_config:
        refuse("It is not set.")
    try:
        config = json.loads(tf_config)
        cluster, task = config["cluster"], config["task"]
        chiefs, workers = list(cluster.get("chief", [])), list(cluster.get("worker", []))
        kind, index = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        refuse(f"{type(error).__name__}: {error}. Received: {tf_config}")
    addresses = chiefs + workers
    if len(addresses) < 2:
        refuse(f"Its cluster must have two or more workers. Received: {cluster}")
    for address in addresses:
        port = str(address).rpartition(":")[2]
        if not str(address).rpartition(":")[0] or not port.isdigit():
            refuse(f"Its addresses must be HOST:PORT. Received: {address!r}")
    if len(set(addresses)) < len(addresses):
        refuse(f"Its addresses must differ. Received: {addresses}")
    own = {"chief": chiefs, "worker": workers}.get(kind)
    if own is None or not 0 <= index < len(own):
        refuse(f"Its task must be one of the cluster's workers. Received: {task}")
    return len(addresses), index + (len(chiefs) if kind == "worker" else 0)


def _tpu(name):
    import tensorflow as tf

    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name or "")
        _check_reachable(resolver.master())
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    # A machine without a TPU fails in many ways: no name, no metadata server, no connection.
    except Exception as error:
        raise ValueError(
            "`strategy='tpu'` needs a TPU: `tpu` must be its name, its address (grpc://...), or "
            f"'local' on a TPU VM. Received: tpu={name!r} ({_first_line(error)})"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def _check_reachable(address):
    """Raise an OSError unless grpc://HOST:PORT answers: TensorFlow would wait for it for ever."""
    match = re.fullmatch(r"grpc://(.+):(\d+)", address or "")
    if match:
        socket.create_connection((match[1], int(match[2])), timeout=CONNECT_SECONDS).close()


class _KerasDistribution:
    """What a run asks of a strategy, for the backends that Keras distributes by itself."""

    def __init__(self, num_replicas):
        self.num_replicas_in_sync = num_replicas

    def scope(self):
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def one_device(self):
        """Turn the distribution off inside."""
        distribution = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(distribution)


def _keras_distribution(name, logical_devices):
    backend = keras.backend.backend()
    if name not in ("auto", "one_device"):
        raise ValueError(
            f"`strategy` must be 'auto' or 'one_device' on the {backend} backend; 'auto' uses all "
            f"devices of the machine. Received: {name!r}"
        )
    if logical_devices:
        raise ValueError(
            "`logical_devices` is for TensorFlow. On JAX, set the environment variable "
            f"XLA_FLAGS=--xla_force_host_platform_device_count=N. Received: {logical_devices}"
        )
    if backend != "jax" or name == "one_device":
        return _KerasDistribution(1)
    devices = keras.distribution.list_devices()
    if len(devices) > 1:
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
        )
    return _KerasDistribution(len(devices))


def _first_line(error):
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
