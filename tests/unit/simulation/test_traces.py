"""Published trace formats."""

import os
from pathlib import Path

import pytest

from plimsoll.simulation import (
    TraceError,
    read_servegen,
    read_servegen_lengths,
    read_servegen_rates,
    read_trace,
)

ROOT = Path(__file__).parents[3]


def data_path(name: str) -> Path:
    """A file of the shared data; elsewhere the test is skipped, but never in CI."""
    path = Path(os.environ.get("PLIMSOLL_DATA", ROOT.parent / "shared" / "data")) / name
    if not path.exists():
        message = f"measured data are not there: {path} (set PLIMSOLL_DATA)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return path


@pytest.mark.parametrize(
    ("name", "count", "inputs", "outputs", "seconds"),
    [
        ("azure_llm_2023/AzureLLMInferenceTrace_conv.csv", 19_366, 1155, 211, 3500),
        ("azure_llm_2023/AzureLLMInferenceTrace_code.csv", 8_819, 2048, 28, 3430),
        ("mooncake/conversation_trace.jsonl", 12_031, 12_035, 343, 3540),
        ("burstgpt/BurstGPT_1_first30_verified.csv", 29, 650, 354, 2288),
    ],
)
def test_published_traces_are_read(name: str, count: int, inputs: float, outputs: float, seconds: float) -> None:
    """Counts and means are those of the folders' READMEs; one of the 30 BurstGPT rows is a failed call."""
    requests = list(read_trace(data_path(name), "c"))
    arrivals = [request.arrival_seconds for request in requests]
    assert len(requests) == count
    assert arrivals[0] == 0.0
    assert arrivals == sorted(arrivals)
    assert sum(request.input_tokens for request in requests) / count == pytest.approx(
        inputs, rel=0.2 if count < 99 else 0.001
    )
    assert sum(request.output_tokens for request in requests) / count == pytest.approx(
        outputs, rel=0.2 if count < 99 else 0.005
    )
    assert arrivals[-1] == pytest.approx(seconds, rel=0.02)


def test_servegens_rates_and_lengths_make_requests() -> None:
    rates, statistics = (data_path(f"servegen/servegen_{name}.csv") for name in ("total_rate_10min", "token_stats"))
    curve = read_servegen_rates(rates, "language", "m-large")
    assert curve.seconds[-1] == pytest.approx(14 * 86400)
    assert curve.rates[:2] == (212.78, 212.78)
    inputs, outputs = read_servegen_lengths(statistics, "language", "m-large")
    assert (inputs.mean, outputs.mean) == (914.3, 155.1)
    stream = read_servegen(rates, statistics, "language", "m-large", "chat", seed=1)
    first = [next(stream) for _ in range(20_000)]
    assert 20_000 / first[-1].arrival_seconds == pytest.approx(212.78, rel=0.03)
    with pytest.raises(TraceError, match=r"no language/m-huge; it has .*language/m-large"):
        read_servegen_rates(rates, "language", "m-huge")


def test_times_are_read_across_midnight_and_empty_answers_of_failed_calls_are_left_out(tmp_path: Path) -> None:
    azure = tmp_path / "azure.csv"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 23:59:59.5000000,10,0\n2023-11-17 00:00:01.2500000,20,5\n"
    )
    assert [tuple(request) for request in read_trace(azure, "c")] == [(0.0, "c", 10, 1), (1.75, "c", 20, 5)]
    burst = tmp_path / "burst.csv"
    burst.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,10,0,10,API log\n7,ChatGPT,20,5,25,API log\n"
    )
    assert [tuple(request) for request in read_trace(burst, "c")] == [(0.0, "c", 20, 5)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b,c\n1,2,3\n", "line 1 is 'a,b,c.*accepted are Azure"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 10:00:00.0,x,1\n", "line 2.*whole numbers"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 5}\n{"timestamp": 1, "input_length": 5}\n', "line 2"),
    ],
)
def test_malformed_traces_are_named_with_the_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "trace"
    path.write_text(content)
    with pytest.raises(TraceError, match=message):
        list(read_trace(path, "c"))
