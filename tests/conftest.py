"""What all tests share: two logical CPUs, fixed seeds, and a policy that no test leaves behind."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# What XLA compiles here runs once or twice: half the time to compile, the same numbers.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import keras
import pytest
import tensorflow as tf
from forks import Forks

# Two replicas on one machine, for the tests of `tf.distribute`. They can be had only before
# TensorFlow runs its first op, which no import does. Ops go to the first CPU unless told otherwise.
_CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(_CPU, [tf.config.LogicalDeviceConfiguration()] * 2)


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="Run the slow tests, too.")


def pytest_collection_modifyitems(config, items):
    """Skip the slow tests unless they are asked for."""
    if config.getoption("--runslow"):
        return
    skip = pytest.mark.skip(reason="slow: --runslow runs it")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def fresh_state():
    """Start each test from the same seeds, and end it with the policy it began with."""
    keras.utils.set_random_seed(0)
    policy = keras.dtype_policies.get(keras.config.dtype_policy())
    yield
    keras.config.set_dtype_policy(policy)


@pytest.fixture(scope="session")
def replicas():
    """Return a `MirroredStrategy` over two logical CPUs.

    One for all tests: those of a second strategy would get the collective keys of the first's.
    """
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="session")
def forks():
    """Return what runs scripts in processes of their own, TensorFlow imported."""
    with Forks("keras_mae.commands.report", "keras_mae.interop", "keras_mae.export.write") as forks:
        yield forks
