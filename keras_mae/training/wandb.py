"""Curves and figures for Weights & Biases, by the run API of the package `wandb`."""

import json
import os
import secrets
import shutil

from keras_mae.files import write_json
from keras_mae.training.boards import Board

PROJECT = "keras_mae"


class WandbLog(Board):
    """Sends scalars, figures and the config to one run of wandb, however often ours is cut.

    The run's id is in `wandb.json` of the output directory. A run that goes on is shown again from
    its first step. Online, wandb says which steps it has, and these are left out. Offline, it
    cannot: what an earlier process wrote, and nobody has synced yet, is removed before. A process
    that was killed leaves a part of what it logged only, so that is the one whole record.

    wandb's own variables (`WANDB_MODE`, `WANDB_PROJECT`, `WANDB_ENTITY`, ...) hold.
    """

    def __init__(self, directory, config):
        import wandb

        self._wandb = wandb
        identity = directory / "wandb.json"
        if not identity.exists():
            write_json(identity, {"id": secrets.token_hex(4)})
        run_id = json.loads(identity.read_text())["id"]
        for old in (directory / "wandb").glob(f"offline-run-*-{run_id}"):
            if not [*old.glob("*.synced")]:
                shutil.rmtree(old)
        facts = {key: v for key, v in config.items() if key not in ("settings", "command")}
        self._run = wandb.init(
            id=run_id,
            resume="allow",
            dir=str(directory),
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", directory.resolve().name),
            # As config.json has it: of JSON's types only.
            config=json.loads(json.dumps({**config.get("settings", {}), **facts}, default=str)),
            allow_val_change=True,
        )
        self._first = self._run.step  # what wandb has not
        self._step, self._values = None, {}

    def write(self, step, **values):
        self._add(step, {name: value for name, value in values.items() if name != "epoch"})

    def image(self, step, name, path):
        self._add(step, {name: self._wandb.Image(str(path))})

    def close(self, failed=False):
        self._send()
        self._run.finish(exit_code=int(failed))

    def _add(self, step, values):
        # wandb has one row a step: what comes for a step is sent when the next one begins.
        if step != self._step:
            self._send()
        self._step = step
        self._values.update(values)

    def _send(self):
        if self._values and self._step >= self._first:
            self._run.log(self._values, step=self._step, commit=True)
        self._values = {}
