import json
import time

import pytest
import tensorflow as tf

from keras_mae.training.devices import make_strategy, workers_of
from keras_mae.training.workers import Workers

TWO = ["127.0.0.1:2222", "127.0.0.1:2223"]


def tf_config(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def test_two_logical_cpus_make_two_replicas():
    assert make_strategy("mirrored", logical_devices=2).num_replicas_in_sync == 2
    assert make_strategy("auto", logical_devices=2).num_replicas_in_sync == 2
    assert make_strategy("one_device").num_replicas_in_sync == 1


@pytest.mark.parametrize(
    "name, devices, message",
    [
        ("mirror", None, "`strategy`"),
        ("mirrored", 1, "`logical_devices`"),
        ("mirrored", 3, "`logical_devices`"),
        ("multi_worker", 2, "`logical_devices`"),
        ("multi_worker", None, "TF_CONFIG"),
        ("tpu", None, "`tpu`"),
    ],
)
def test_what_this_machine_cannot_give_is_refused(name, devices, message, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    make_strategy("one_device")
    with pytest.raises(ValueError, match=message):
        make_strategy(name, logical_devices=devices)


def test_a_tpu_that_does_not_answer_is_refused_at_once():
    start = time.monotonic()
    with pytest.raises(ValueError, match="`tpu`.*Connection refused"):
        make_strategy("tpu", tpu="grpc://127.0.0.1:1")
    assert time.monotonic() - start < 15  # left to itself, TensorFlow waits for it for ever
    with pytest.raises(ValueError, match="`tpu`"):
        make_strategy("auto", tpu="mine")


@pytest.mark.parametrize(
    "config, message",
    [
        (None, "not set"),
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        (json.dumps({"cluster": {"worker": TWO}}), "KeyError: 'task'"),
        (tf_config({"worker": TWO[:1]}), "127.0.0.1:2222"),
        (tf_config({"worker": ["host0", "host1:1"]}), "'host0'"),
        (tf_config({"worker": [TWO[0]] * 2}), "127.0.0.1:2222"),
        (tf_config({"worker": TWO}, index=2), "'index': 2"),
        (tf_config({"worker": TWO}, kind="ps"), "'ps'"),
    ],
)
def test_a_tf_config_that_names_no_cluster_says_what_is_missing(config, message):
    with pytest.raises(ValueError, match=f"TF_CONFIG.*{message}"):
        workers_of(config)


def test_workers_are_numbered_the_chief_first():
    assert workers_of(tf_config({"worker": TWO}, index=1)) == (2, 1)
    cluster = {"chief": ["127.0.0.1:1"], "worker": TWO}
    assert workers_of(tf_config(cluster, kind="chief")) == (3, 0)
    assert workers_of(tf_config(cluster, index=1)) == (3, 2)


def test_one_worker_agrees_with_itself():
    workers = Workers(tf.distribute.get_strategy())
    assert (workers.count, workers.index, workers.is_chief) == (1, 0, True)
    assert workers.total(3) == 3 and workers.any(True) and not workers.any(False)
    assert workers.same(7)
    assert workers.own_name("skipped.jsonl") == "skipped.jsonl"
    with pytest.raises(KeyError, match="mine"), workers.agreed():
        raise KeyError("mine")
    assert not workers.is_loss_of_one(tf.errors.UnavailableError(None, None, "gone"))


def test_each_replica_gets_its_rows_of_the_global_batch(replicas):
    asked = []

    def share(num_shards, shard_index):
        asked.append((num_shards, shard_index))
        return tf.data.Dataset.range(12).batch(6, drop_remainder=True)

    (first, second), _ = (
        replicas.experimental_local_results(batch)
        for batch in Workers(replicas).distribute(share, batch_size=6)
    )
    assert asked == [(1, 0)]  # two devices, one host
    assert (first.numpy().tolist(), second.numpy().tolist()) == ([0, 1, 2], [3, 4, 5])
    assert first.shape == second.shape == (3,)
