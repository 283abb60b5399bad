"""The rules that Plimsoll is compared with look back exactly as far as they say."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.closed_loop.rivals import MINUTE_STEPS, Highest


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=60),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_the_highest_of_a_window_is_that_of_its_last_steps(values, minutes):
    highest = Highest(np.array(minutes, dtype=float))
    for step in range(len(values)):
        found = highest.after(np.full((len(minutes), 1), values[step]))
        for lane, minute in enumerate(minutes):
            size = minute * MINUTE_STEPS
            assert found[lane, 0] == max(values[max(0, step - size + 1) : step + 1])
