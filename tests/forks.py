"""Scripts in processes of their own that have TensorFlow imported before they begin.

Importing it takes longer than most of what the tests ask of a script. So a server imports it once,
with all that scripts import and nothing done yet - no op, no model, no device - and each script
runs in a fork of it: with arguments, environment and output of its own, to be killed like any
process. That a script starts from nothing is for a test or two of each that use `subprocess`.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


class Forked:
    """A running script: as much of `subprocess.Popen` as tests need, output in files."""

    def __init__(self, pid, directory):
        self.pid = pid
        self.directory = directory

    @property
    def returncode(self):
        path = self.directory / "status"
        return int(path.read_text()) if path.exists() else None

    def poll(self):
        return self.returncode

    def output(self):
        """Return what it has said so far, as (stdout, stderr)."""
        return tuple((self.directory / name).read_text() for name in ("stdout", "stderr"))

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout=300):
        """Wait for its end; return (stdout, stderr)."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"{timeout} seconds were too few: {self.output()}")
            time.sleep(0.01)
        return self.output()


class Forks:
    """The server, and a directory for what its scripts say.

    Args:
        *modules: names, imported once.
        **environment: variables, of those too that an import reads.
    """

    def __init__(self, *modules, **environment):
        self.environment = environment
        self.directory = tempfile.TemporaryDirectory(prefix="forks-")
        self.server = subprocess.Popen(
            [sys.executable, __file__, *modules],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, script, *arguments, before=(), **environment):
        """Start a script.

        Args:
            script: path.
            *arguments: what follows it on the command line.
            before: list of "module:function", of modules beside this one, to call first.
            **environment: variables, of those that are not read by an import.
        Returns:
            a `Forked`.
        """
        directory = Path(tempfile.mkdtemp(dir=self.directory.name))
        request = {
            "directory": str(directory),
            "argv": [str(script), *map(str, arguments)],
            "before": before,
            "environment": {**os.environ, **self.environment, **environment},
            "cwd": os.getcwd(),
        }
        print(json.dumps(request), file=self.server.stdin, flush=True)
        return Forked(int(self.server.stdout.readline()), directory)

    def run(self, script, *arguments, timeout=300, **others):
        """Run a script to its end, as `subprocess.run` does with text captured."""
        process = self.start(script, *arguments, **others)
        output = process.communicate(timeout)
        return subprocess.CompletedProcess(arguments, process.returncode, *output)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stdin.close()
        self.server.wait()
        self.directory.cleanup()


def _serve():
    """Fork at each request: return it in the fork, and None in the server when all is over."""
    directories = {}
    while True:
        if select.select([sys.stdin], [], [], 0.01)[0]:
            line = sys.stdin.readline()
            if not line:
                return None
            request = json.loads(line)
            directory = Path(request["directory"])
            for name in ("stdout", "stderr"):
                (directory / name).touch()  # there when the caller looks, however slow the fork is
            pid = os.fork()
            if pid == 0:
                return request
            directories[pid] = directory
            print(pid, flush=True)
        while directories:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            directory = directories.pop(pid)
            (directory / "whole").write_text(str(os.waitstatus_to_exitcode(status)))
            (directory / "whole").rename(directory / "status")


def _become(request):
    """Be the script, from here to the end of the process."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(os.path.join(request["directory"], name), os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    for name in request["before"]:
        module, _, function = name.partition(":")
        getattr(importlib.import_module(module), function)()
    sys.argv = request["argv"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()  # a collection in a fork would copy the memory of all that was imported
    job = _serve()
    if job is not None:
        _become(job)
