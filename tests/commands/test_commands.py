"""`keras-mae COMMAND`, in this process with stand-ins, and in one of its own without TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_mae import commands
from keras_mae.errors import CheckpointError, Interrupted
from keras_mae.settings.fields import SettingsError

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    "pretrain": "pretrain",
    "finetune": "finetune",
    "report": "report",
    "embed": "embed",
    "predict": "predict",
    "export": "export",
    "convert": "convert",
    "push": "push",
    "reconstruct": "reconstruct",
    "visualize": "visualize",
    "demo": "demo",
    "records": "make_tfrecords",
    "serve-check": "serve_check",
}
HEAVY = ("tensorflow", "keras", "jax", "torch", "matplotlib", "sklearn", "PIL")


def fresh(code, *arguments, **environment):
    """Run Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def test_every_command_has_a_script_of_its_own():
    assert set(SCRIPTS) == set(commands.COMMANDS)
    assert {path.stem for path in (ROOT / "scripts").glob("*.py")} == set(SCRIPTS.values())
    for name, script in SCRIPTS.items():
        assert f'run("{name}")' in (ROOT / "scripts" / f"{script}.py").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_help_and_faults_are_told_before_anything_heavy_is_imported(name):
    code = f"""
import runpy, sys
sys.argv = ["scripts/{SCRIPTS[name]}.py", *sys.argv[1:]]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("imported:", [module for module in {HEAVY} if module in sys.modules])
"""
    done = fresh(code, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Usage: python scripts/{SCRIPTS[name]}.py " in done.stdout
    assert done.stdout.endswith("imported: []\n")
    done = fresh(code, "--no_such_flag", "stray")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    errors = done.stderr.splitlines()
    assert len(errors) >= (1 if name == "reconstruct" else 2)  # its arguments are pictures
    assert all(line.startswith("error: ") for line in errors)
    assert done.stdout == "imported: []\n"


def test_without_a_command_all_are_listed(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        commands.main(arguments)
        out = capsys.readouterr().out
        for name, command in commands.COMMANDS.items():
            assert f"  {name} " in out and command.about.splitlines()[0] in out


def test_a_command_that_is_not_there_is_named():
    with pytest.raises(SystemExit, match="'pretrian'"):
        commands.main(["pretrian"])


def test_help_shows_the_command_as_it_was_called(capsys):
    commands.main(["pretrain", "--help"])
    out = capsys.readouterr().out
    assert "Usage: keras-mae pretrain " in out and "    keras-mae pretrain\n" in out


@pytest.fixture
def asked(monkeypatch):
    """Put a stand-in in the place of `pretrain`; return what it is to do, and what it was asked."""

    class Asked:
        settings = None
        error = None
        status = None

        def __call__(self, settings):
            self.settings = settings
            if self.error is not None:
                raise self.error
            return self.status

    stand_in = Asked()
    real = commands._import
    name = commands.COMMANDS["pretrain"].function
    monkeypatch.setattr(commands, "_import", lambda n: stand_in if n == name else real(n))
    return stand_in


def test_a_function_gets_the_settings(asked):
    commands.main(["pretrain", "--seed=3"])
    assert asked.settings.seed == 3


@pytest.mark.parametrize(
    "error, said",
    [
        (ValueError("`seed` must be even. Received: 3"), "error: --seed must be even. Received: 3"),
        (SettingsError(["`seed` a", "`jit` b"]), "error: --seed a\nerror: --jit b"),
        (CheckpointError("full"), "error: full"),
        (ImportError("install it"), "error: install it"),
        (FileNotFoundError("gone"), "error: gone"),
    ],
)
def test_what_goes_wrong_is_told_without_a_traceback(asked, error, said):
    asked.error = error
    with pytest.raises(SystemExit) as raised:
        commands.main(["pretrain"])
    assert raised.value.code == said


def test_a_fault_of_the_program_has_its_traceback(asked):
    asked.error = KeyError("bug")
    with pytest.raises(KeyError):
        commands.main(["pretrain"])


def test_what_a_command_returns_is_its_status(asked):
    asked.status = {"heldout_loss": 1.0}
    commands.main(["pretrain"])
    asked.status = "one job failed"
    with pytest.raises(SystemExit) as raised:
        commands.main(["pretrain"])
    assert raised.value.code == "error: one job failed"


def test_a_signal_ends_with_how_to_go_on(asked, capsys):
    asked.error = Interrupted("SIGTERM: stopped after step 3, which is saved.")
    commands.main(["pretrain"])
    assert "after step 3" in capsys.readouterr().out
    asked.error = KeyboardInterrupt()
    with pytest.raises(SystemExit) as raised:
        commands.main(["pretrain"])
    assert "goes on" in str(raised.value.code)
