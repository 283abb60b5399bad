"""The rules that Plimsoll is compared with look back exactly as far as they say."""

import numpy as np

from benchmarks.closed_loop.rivals import MINUTE_STEPS, Highest


def test_the_highest_of_a_window_is_that_of_its_last_steps():
    values = np.random.default_rng(1).integers(0, 10, 60).tolist()
    minutes = (1, 2, 4)
    highest = Highest(np.array(minutes, dtype=float))
    for step, value in enumerate(values):
        found = highest.after(np.full((len(minutes), 1), value))
        expected = [max(values[max(0, step - minute * MINUTE_STEPS + 1) : step + 1]) for minute in minutes]
        assert found[:, 0].tolist() == expected
