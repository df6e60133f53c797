"""Contestants that take turns: what the benchmarks of speed have in common.

Each contestant has a process of its own, all are live at once, and a round is some steps of each in
turn. Ratios are medians over rounds of the ratios within a round, so that a machine that slows down
meanwhile slows all of them.
"""

import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time


def serve(run, memory=None):
    """Be a contestant: answer lines of standard input until it ends.

    Args:
        run: function of a number of steps, which does them.
        memory: function that returns the memory to report, in MB; `resident` if not given.
    """
    for line in sys.stdin:
        steps = int(line)
        if steps:
            start = time.perf_counter()
            run(steps)
            answer = (time.perf_counter() - start) / steps
        else:
            answer = (memory or resident)()
        print(json.dumps({"answer": answer}), flush=True)


def resident():
    """Return the largest memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def take_turns(commands, rounds, steps):
    """Start a process a contestant, and let them take turns.

    Args:
        commands: dict of a contestant's name to the command that starts it, which calls `serve`.
        rounds: int. Rounds that count, after one that does not: it compiles, and fills caches.
        steps: int. Steps in a round; or a dict of name to int.
    Returns:
        `(seconds, memory)`: a list of dicts of name to the seconds of a step, one a round; and a
        dict of name to MB.
    """
    with contextlib.ExitStack() as stack:
        children = {n: stack.enter_context(_start(n, c)) for n, c in commands.items()}
        counts = steps if isinstance(steps, dict) else dict.fromkeys(children, steps)
        seconds = [
            {name: _ask(child, counts[name]) for name, child in children.items()}
            for _ in range(rounds + 1)
        ]
        return seconds[1:], {name: _ask(child, 0) for name, child in children.items()}


def median(seconds, name, over=None):
    """Return the median over rounds of a contestant's seconds, or of their ratio to another's."""
    return statistics.median(r[name] / (r[over] if over else 1) for r in seconds)


def matrix_rate(dtype):
    """Return the GFLOP/s of TensorFlow's matrix product on CPUs, in a process of its own."""
    return _matrix_rate(
        2048,
        "import tensorflow as tf\n"
        f"a = tf.cast(tf.random.normal((2048, 2048)), '{dtype}')\n"
        "product = tf.function(lambda: a @ a)\n"
        "def run():\n"
        "    for _ in range(5): product()\n",
    )


def gpu_matrix_rate(dtype):
    """Return the GFLOP/s of PyTorch's matrix product on a GPU, float32 as TF32, likewise."""
    return _matrix_rate(
        8192,
        "import torch\n"
        "torch.set_float32_matmul_precision('high')\n"
        f"a = torch.randn(8192, 8192, device='cuda', dtype=torch.{dtype})\n"
        "def run():\n"
        "    for _ in range(5): a @ a\n"
        "    torch.cuda.synchronize()\n",
    )


def _matrix_rate(size, code, rounds=5):
    """Return the GFLOP/s of code whose function `run` does five products of `size` x `size`."""
    code += (
        "import time\n"
        "def seconds():\n"
        "    start = time.perf_counter()\n"
        "    run()\n"
        "    return time.perf_counter() - start\n"
        "seconds()\n"
        f"print(min(seconds() for _ in range({rounds})))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if out.returncode:
        sys.exit(f"error: the matrix product could not be timed:\n{out.stderr[-2000:]}")
    return 5 * 2 * size**3 / float(out.stdout.split()[-1]) / 1e9


@contextlib.contextmanager
def _start(name, command):
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield name, process
    finally:
        process.stdin.close()
        process.wait()


def _ask(child, steps):
    """Return the seconds a step of so many steps took; for 0, the memory in MB."""
    name, process = child
    process.stdin.write(f"{steps}\n")
    for line in process.stdout:  # libraries may print, too
        with contextlib.suppress(ValueError, TypeError):
            return json.loads(line)["answer"]
    raise RuntimeError(f"{name} ended with status {process.wait()}: see its output above")
