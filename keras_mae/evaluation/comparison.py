"""Did pre-training help, and against what? Tables, spread over seeds, what can be said of it."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np


def logistic_accuracy(
    train_features: np.ndarray, train_labels: np.ndarray, features: np.ndarray, labels: np.ndarray
) -> float:
    """Return the top-1 accuracy of a logistic regression with an L2 penalty, for raw pixels.

    Pixels that are nearly constant mislead the linear probe, which normalises each feature: on
    500 digits it has 74 %, and this 85 %. A fair rival has to be a good one.

    Args:
        train_features, train_labels: float `(n, D)`, of deviation about 1, and int `(n,)`. For some
            thousands of images: all are held in memory, and the time grows with n D classes.
        features, labels: float `(m, D)` and int `(m,)`, held out.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # The penalty suits digits; 200 rounds are enough for a tenth of a point, if not to converge.
    model = LogisticRegression(C=0.01, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train_features, train_labels)
    return float(model.score(features, labels))


def summarise(values: Mapping[int, float]) -> dict[str, Any]:
    """Return the mean and the spread of accuracies over seeds.

    Args:
        values: dict of seed to accuracy in [0, 1], not empty.
    Returns:
        dict: "mean"; "spread", the sample standard deviation (n - 1), None for one seed; and
        "values", as given.
    """
    numbers = list(values.values())
    spread = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
    return {"mean": float(np.mean(numbers)), "spread": spread, "values": dict(values)}


def format_accuracy(summary: Mapping[str, Any]) -> str:
    """Return what `summarise` returned as text in per cent, such as "93.0 ± 0.6 %"."""
    spread = "" if summary["spread"] is None else f" ± {100 * summary['spread']:.1f}"
    return f"{100 * summary['mean']:.1f}{spread} %"


def compare(
    values: Mapping[int, float], baseline: Mapping[int, float], num_examples: int
) -> tuple[str, str] | None:
    """Say whether accuracies are better than others, as far as the numbers can tell.

    Both are measured on the same held-out images, with the same seeds. "better" and "worse" are
    said only of a difference that has one sign in every seed, and whose mean is more than two
    standard errors of what so many images can tell: `2 sqrt(p (1 - p) 2 / num_examples)`, p being
    the mean of both accuracies. That is cautious, as errors on the same images go together.

    Args:
        values, baseline: dicts of seed to accuracy in [0, 1]; seeds of both are compared.
        num_examples: int. Held-out images.
    Returns:
        `(verdict, sentence)`: "better", "worse" or "unclear"; and words such as "4.4 points better
        (3.9 to 4.8 over 3 seeds)". None where no seed has both.
    """
    seeds = [seed for seed in values if seed in baseline]
    if not seeds:
        return None
    differences = [values[seed] - baseline[seed] for seed in seeds]
    mean, least, most = float(np.mean(differences)), min(differences), max(differences)
    share = float(np.mean([values[seed] + baseline[seed] for seed in seeds])) / 2
    noise = 2 * math.sqrt(share * (1 - share) * 2 / num_examples)
    # A difference of nothing is never clear, though all accuracies be 1 and the noise 0.
    clear = abs(mean) > noise and (least > 0 or most < 0)
    over = f"{100 * least:+.1f} to {100 * most:+.1f} over {len(seeds)} seeds"
    over = over if len(seeds) > 1 else "one seed"
    if clear:
        verdict = "better" if mean > 0 else "worse"
        return verdict, f"{100 * abs(mean):.1f} points {verdict} ({over})"
    why = (
        f"less than the {100 * noise:.1f} points that {num_examples:,} images can tell"
        if abs(mean) <= noise
        else "not of one sign in all seeds"
    )
    return "unclear", f"no clear difference: {100 * mean:+.1f} points ({over}), {why}"
