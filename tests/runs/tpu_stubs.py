"""What TensorFlow asks of a TPU, for a machine that has none."""

import tensorflow as tf


def tpu_stubs(monkeypatch, strategy):
    """Put stubs in place of finding, connecting to and initialising a TPU.

    Args:
        monkeypatch: pytest's.
        strategy: what `tf.distribute.TPUStrategy` is to give.
    Returns:
        list to which each stub appends its name when called.
    """
    calls = []

    class Resolver:
        def __init__(self, tpu):
            calls.append(f"resolve {tpu}")

        def master(self):
            return ""

    class TPUStrategy:
        def __new__(cls, resolver):
            assert isinstance(resolver, Resolver)
            return strategy

    def connect(resolver):
        assert isinstance(resolver, Resolver)
        calls.append("connect")

    def initialize(resolver):
        calls.append("initialize")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", Resolver)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", connect)
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", initialize)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", TPUStrategy)
    return calls
