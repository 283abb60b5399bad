"""The simulator against the logs of a real vLLM server (data/burstgpt); what comes from the logs stands in
benchmarks/replay.py. The figures here guard the code; `python -m benchmarks.simulator` reports them."""

import csv
import os

import numpy as np
import pytest

from benchmarks import replay
from benchmarks.data import data_folder


@pytest.fixture(autouse=True)
def data() -> None:
    """Elsewhere the tests are skipped, but never in CI."""
    path = data_folder() / "burstgpt"
    if not path.exists():
        message = f"measured data are not there: {path} (set PLIMSOLL_DATA)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)


def test_arrivals_taken_from_the_log_are_those_of_the_trace() -> None:
    with (data_folder() / "burstgpt/BurstGPT_1_first30_verified.csv").open(newline="", encoding="utf-8") as file:
        known = [float(row["Timestamp"]) for row in csv.DictReader(file)]
    found = [request.arrival_seconds for request in replay.requests(500)[: len(known)]]
    assert found == pytest.approx([(seconds - known[0]) / 500 for seconds in known], abs=0.002)


def test_answer_lengths_add_up_to_what_the_server_logged() -> None:
    lengths = replay.answer_lengths()
    assert lengths.sum() == pytest.approx(replay.logged_total(), rel=0.005)
    assert lengths.max() == replay.MOST_TOKENS


@pytest.mark.parametrize(("scale", "end", "running"), [(300, 0.06, 0.12), (500, 0.09, 0.16), (1000, 0.16, 0.25)])
def test_a_step_time_fitted_under_little_load_predicts_the_queue_under_more(
    scale: int, end: float, running: float
) -> None:
    logged, stream = replay.log(scale), replay.requests(scale)
    predicted, seen = replay.predict(replay.fitted_engine("RTX-3090"), stream, logged.seconds)
    last = max(request.arrival_seconds + took for request, took in zip(stream, seen.end_to_end, strict=True))
    assert last == pytest.approx(logged.seconds[-1], rel=end)
    assert np.mean(np.abs(predicted.running - logged.running)) < running * np.mean(logged.running)
    assert predicted.running.max() == logged.running.max() == replay.MOST_SEQUENCES
