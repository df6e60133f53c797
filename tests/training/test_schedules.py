import math

import pytest

from keras_mae.training import scaled_learning_rate, steps_of, warmup_cosine


def test_warmup_is_linear_from_zero_and_cosine_ends_at_final():
    schedule = warmup_cosine(peak=2.0, warmup_steps=4, total_steps=12, final=0.5)
    rates = [float(schedule(step)) for step in range(14)]
    assert rates[:5] == pytest.approx([0, 0.5, 1.0, 1.5, 2.0])
    # Half way down: the mean of peak and final. A quarter: (1 + cos(pi / 4)) / 2 of the way.
    assert rates[8] == pytest.approx(1.25)
    assert rates[6] == pytest.approx(0.5 + 1.5 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[12:] == pytest.approx([0.5, 0.5])


def test_without_warmup_starts_at_the_peak():
    schedule = warmup_cosine(peak=0.1, warmup_steps=0, total_steps=10)
    assert float(schedule(0)) == pytest.approx(0.1)
    assert float(schedule(10)) == pytest.approx(0.0)


def test_warmup_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match="`warmup_steps`"):
        warmup_cosine(peak=1.0, warmup_steps=10, total_steps=10)


def test_epochs_become_steps_in_one_way():
    assert steps_of(2, num_examples=100, batch_size=8) == 25
    assert steps_of(0.5, num_examples=100, batch_size=10) == 5
    assert steps_of(0, num_examples=100, batch_size=10) == 0
    assert steps_of(0.001, num_examples=100, batch_size=10) == 1


def test_learning_rate_is_scaled_by_batch():
    assert scaled_learning_rate(1.5e-4, 4096) == pytest.approx(2.4e-3)
