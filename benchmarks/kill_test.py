"""Kill a pre-training run again and again, and show that its end is the same to the bit.

    python benchmarks/kill_test.py --times=20

Runs `python -m keras_mae pretrain` once undisturbed, and once killed (SIGKILL) at random moments,
within saves too, and started again each time. Compares final weights and logged losses.
"""

import random
import sys
import tempfile

from absl import app, flags

from keras_mae.testing.kills import differences, finish, kill_once

TIMES = flags.DEFINE_integer("times", 20, "How often to kill.")
SEED = flags.DEFINE_integer("seed", 0, "Fixes the moments, as far as a clock can be fixed.")
STEPS = flags.DEFINE_integer("steps", 200, "Length of the run.")


def main(_):
    rng = random.Random(SEED.value)
    with tempfile.TemporaryDirectory() as scratch:
        whole, killed = f"{scratch}/whole", f"{scratch}/killed"
        finish(whole, STEPS.value)
        kills = []
        while len(kills) < TIMES.value:
            kill = kill_once(killed, STEPS.value, rng, in_save=len(kills) % 2 == 1)
            if kill is None:
                print(f"the run ended after {len(kills)} kills; --steps gives a longer one")
                break
            kills.append(kill)
            print(
                f"kill {len(kills)}: newest checkpoint {kill[0]}, in a save: {kill[1]}", flush=True
            )
        finish(killed, STEPS.value)
        found = differences(whole, killed)
        print(f"{len(kills)} kills, {sum(cut for _, cut in kills)} of them in a save")
        print("different: " + "; ".join(found) if found else "weights and losses bit-identical")
        if found:
            sys.exit(1)


if __name__ == "__main__":
    app.run(main)
