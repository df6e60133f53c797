"""What TensorBoard and wandb hold of a run, read from their files."""

import json
import struct


def scalars(directory):
    """Return a dict of name to [(step, value), ...] as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(directory)).Reload()
    found = {
        name: [(e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors(name)]
        for name in events.Tags()["tensors"]
    }
    return {
        # Of an image: width, height, and the file.
        name: [(step, float(v) if v.ndim == 0 else [int(side) for side in v[:2]]) for step, v in e]
        for name, e in found.items()
    }


def records(path):
    """Yield the records of a `.wandb` file: a log in LevelDB's form, of protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def written(directory):
    """Return (rows of all steps, config, id) that wandb holds of a run, from its files."""
    (path,) = (directory / "wandb").glob("offline-run-*/*.wandb")
    rows, config, identity = [], {}, None
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            identity = record.run.run_id
            config.update({u.key: json.loads(u.value_json) for u in record.run.config.update})
        elif kind == "history":
            row = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            rows.append({k: v for k, v in row.items() if k not in ("_timestamp", "_runtime")})
    return rows, config, identity
