"""Damaged archives, tables and records: refused, or read as far as they are whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COUNT = 250
# Those whose images lie one after the other, each behind its header.
IN_ORDER = ("tar", "tfrecord")
NEEDS = {"arrow": "datasets", "parquet": "pyarrow"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["tar", "zip", "csv", "jsonl", "parquet", "arrow", "tfrecord", "indexed", "index"]
)
def test_damaged_files_neither_crash_nor_hang(kind):
    pytest.importorskip(NEEDS.get(kind, "re"))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "damage_run.py"), kind, str(COUNT)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == COUNT + 1, (lines[-1:], done.stderr[-2000:])
    assert not [line for line in lines if "hangs" in line]
    assert int(lines.pop().split()[1]) < 500  # MiB; the whole file is of some KiB
    opened = [line.split() for line in lines if " opened " in line]
    refused = [line for line in lines if " refused " in line]
    assert opened and len(opened) + len(refused) == COUNT
    if kind in IN_ORDER:
        lost = [line for line in opened if int(line[3]) < int(line[6])]
        assert lost == [], "whole images before the damage were lost"
