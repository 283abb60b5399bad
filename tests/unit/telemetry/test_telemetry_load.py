"""Load and latencies from Prometheus' answers: joined by pod and placement, whatever is missing or absurd."""

from collections.abc import Mapping, Sequence
from math import inf

import pytest

from plimsoll.planning.arrivals import PodLoad
from plimsoll.planning.attainment import Histogram
from plimsoll.telemetry.histograms import LATENCIES, read_histograms
from plimsoll.telemetry.load import read_load
from plimsoll.telemetry.prometheus import PrometheusError, Sample

NOW = 1_700_000_000.0


class Answers:
    """Answers a query by the first key that occurs in it; remembers what was asked."""

    def __init__(self, answers: Mapping[str, Sequence[tuple[Mapping[str, str], float]]]) -> None:
        self.answers, self.asked = answers, list[str]()

    async def ask(self, expression: str) -> list[Sample]:
        self.asked.append(expression)
        found = next((value for key, value in self.answers.items() if key in expression), ())
        return [Sample(frozenset(labels.items()), NOW, value) for labels, value in found]


def pods(**values: float) -> list[tuple[Mapping[str, str], float]]:
    return [({"namespace": "chat", "pod": name}, value) for name, value in values.items()]


def place(name: str, value: float, **more: str) -> tuple[Mapping[str, str], float]:
    return {"namespace": "chat", "placement": name, **more}, value


ALL = {
    "timestamp(": pods(a=NOW - 4, b=NOW - 9, gone=NOW - 4),
    "num_requests_running{pod!=\"\"} offset": pods(a=6.0),
    "num_requests_waiting{pod!=\"\"} offset": pods(a=1.0),
    "num_requests_running": pods(a=8.0, b=3.0),
    "num_requests_waiting": pods(a=2.0),
    "request_success_total": pods(a=1.5, b=-1.0),
    "e2e_request_latency_seconds_sum": pods(a=9.0),
    "e2e_request_latency_seconds_count": pods(a=1.5),
    "kv_cache_usage_perc": pods(a=0.4),
    "num_preemptions_total": pods(a=0.0),
}  # fmt: skip


async def test_pods_are_joined_and_absurd_values_left_out() -> None:
    load = await read_load(Answers(ALL).ask, 77.0, 60.0)
    assert (load.seconds, load.window_seconds, load.routed) == (77.0, 60.0, {})
    assert load.pods == (
        PodLoad("chat", "a", 4.0, 8.0, 2.0, 7.0, 1.5, 9.0, 1.5, 0.4, 0.0),
        PodLoad("chat", "b", 9.0, 3.0, 0.0),
    )


async def test_one_query_per_metric_whatever_the_number_of_pods() -> None:
    answers = Answers(ALL)
    await read_load(answers.ask, 77.0, 60.0)
    assert len(answers.asked) == 10
    assert all("max by (namespace, pod, model_name, engine" in text for text in answers.asked if "rate(" in text)
    empty = Answers({})
    assert (await read_load(empty.ask, 77.0, 60.0)).pods == ()


async def test_a_gateway_says_which_class_its_requests_are_of() -> None:
    labels = {"namespace": "chat", "deployment": "assistant", "traffic": "default"}
    answers = Answers(
        {"gateway_requests": [(labels, 4.5), ({**labels, "traffic": ""}, 1.0), ({"namespace": "x"}, 1.0)]}
    )
    load = await read_load(answers.ask, 77.0, 60.0, "sum(gateway_requests)")
    assert load.routed == {("chat", "assistant", "default"): 4.5}


async def test_latencies_are_of_placements() -> None:
    buckets = [place("p", 90.0, bound="0.5"), place("p", 100.0, bound="+Inf"), place("q", 0.0, bound="+Inf")]
    answers = Answers(
        {
            "time_to_first_token_seconds_bucket": buckets,
            "time_to_first_token_seconds_sum": [place("p", 33.0)],
            "inter_token_latency_seconds_bucket": buckets,
        }
    )
    found = await read_histograms(answers.ask, 300.0, LATENCIES)
    histogram = Histogram((0.5, inf), (90.0, 100.0), 33.0)
    assert found == {("chat", "p"): {"ttft": histogram, "tpot": Histogram((0.5, inf), (90.0, 100.0))}}
    assert any("request_time_per_output_token_seconds" in text for text in answers.asked), "the newest name is first"


async def test_what_is_not_answered_is_an_error() -> None:
    async def ask(_: str) -> list[Sample]:
        raise PrometheusError("away")

    with pytest.raises(PrometheusError, match="away"):
        await read_load(ask, 77.0, 60.0)
    with pytest.raises(PrometheusError, match="away"):
        await read_histograms(ask, 300.0, LATENCIES)
