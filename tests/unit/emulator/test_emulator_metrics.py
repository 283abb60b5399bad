"""What Prometheus reads: vLLM's names and buckets, equal to what clients were sent, in the engine's own seconds."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from plimsoll.emulator.metrics import TTFT_BUCKETS, EngineInfo, EngineMetrics, FinishedRequest, length_buckets
from plimsoll.performance import step_timer
from plimsoll.rendering.engine import vllm
from plimsoll.simulation import Counters
from tests.unit.emulator.running import MODEL, config, running, until_running

COUNTERS = Counters(3, 2, 0.25, 100, 40, 1, 1.0, 1.0, 1.0, 1.0, 10)


async def test_metrics_equal_what_was_sent() -> None:
    async with running() as [client]:
        answers = await asyncio.gather(*(client.complete("abcd" * n, max_tokens=n) for n in range(1, 9)))
        await client.stream(prompt="abcd", max_tokens=30)
        found = await client.metrics()
    prompts = [answer["usage"]["prompt_tokens"] for answer in answers] + [1]
    tokens = [answer["usage"]["completion_tokens"] for answer in answers] + [30]
    assert found["prompt_tokens_total"] == sum(prompts) == found["request_prompt_tokens_sum"]
    assert found["generation_tokens_total"] == sum(tokens) == found["request_generation_tokens_sum"]
    assert found["request_params_max_tokens_sum"] == sum(tokens)
    assert found["request_success_total{length}"] == 9
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time", "request_time_per_output_token"):
        assert found[f"{name}_seconds_count"] == 9
    assert found["inter_token_latency_seconds_count"] == sum(tokens) - 9
    # The parts of the latencies add up.
    assert found["inter_token_latency_seconds_sum"] == pytest.approx(found["request_decode_time_seconds_sum"])
    parts = found["request_queue_time_seconds_sum"] + found["request_inference_time_seconds_sum"]
    assert found["e2e_request_latency_seconds_sum"] == pytest.approx(parts)
    assert found["iteration_tokens_total_sum"] == sum(prompts) + sum(tokens)
    assert found["num_requests_running"] == found["num_requests_waiting"] == found["kv_cache_usage_perc"] == 0


async def test_latencies_are_the_performance_models_whatever_the_speed() -> None:
    for speed in (20.0, 1000.0):
        async with running(speed=speed) as [client]:
            await client.complete([1] * 2048, max_tokens=1)
            found = await client.metrics()
            timer = step_timer(client.endpoint.shape)
        assert found["time_to_first_token_seconds_sum"] == pytest.approx(timer.mixed(0, 0, 2048, 2048 * 1024))
        assert found["request_time_per_output_token_seconds_sum"] == 0


async def test_gauges_show_running_waiting_and_the_cache() -> None:
    async with running(config(max_num_seqs=2), speed=1.0) as [client]:
        calls = [asyncio.create_task(client.complete([1] * 1000, max_tokens=5000)) for _ in range(5)]
        found = await until_running(client, 2, waiting=3)
        assert found["num_requests_waiting_by_reason{capacity}"] == 3
        assert found["kv_cache_usage_perc"] >= 2000 / client.endpoint.spec.kv_tokens
        for call in calls:
            call.cancel()


def test_what_the_operator_reads_is_there() -> None:
    text = EngineMetrics(EngineInfo("a", 1000, 10, 0.9), 0.0).text(COUNTERS).decode()
    names = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    for name in (vllm.TTFT_METRIC, vllm.TPOT_METRIC, vllm.END_TO_END_METRIC):
        assert {f"{name}_bucket", f"{name}_sum", f"{name}_count"} <= names
    for name in (
        vllm.RUNNING_REQUESTS_METRIC,
        vllm.WAITING_REQUESTS_METRIC,
        vllm.KV_CACHE_USAGE_METRIC,
        vllm.FINISHED_REQUESTS_METRIC,
    ):
        assert name in names


def test_types_labels_and_buckets_are_vllms() -> None:
    metrics = EngineMetrics(EngineInfo("team/assistant", 1000, 10, 0.9), 1.5)
    metrics.first_token(100, 0.02)
    metrics.finish(FinishedRequest("length", 100, 11, 11, 3.0, 1.0, 0.5, 1.5))
    families = {family.name: family for family in text_string_to_metric_families(metrics.text(COUNTERS).decode())}
    ttft = families["vllm:time_to_first_token_seconds"]
    assert ttft.type == "histogram"
    buckets = {float(s.labels["le"]): s.value for s in ttft.samples if s.name.endswith("_bucket")}
    assert tuple(buckets) == (*TTFT_BUCKETS, float("inf"))
    assert (buckets[0.01], buckets[0.02]) == (0, 1)  # a bound is within its bucket
    lengths = [float(s.labels["le"]) for s in families["vllm:request_prompt_tokens"].samples if "le" in s.labels]
    assert lengths == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, float("inf")]
    assert families["vllm:request_success"].type == "counter"
    assert families["vllm:num_requests_running"].samples[0].labels == {"engine": "0", "model_name": "team/assistant"}
    assert families["vllm:request_time_per_output_token_seconds"].samples[-1].value == pytest.approx(0.15)
    [info] = families["vllm:cache_config_info"].samples
    assert (info.labels["num_gpu_blocks"], info.labels["block_size"]) == ("10", "16")


@pytest.mark.parametrize(("longest", "last"), [(1, 1), (4, 2), (8192, 5000), (10_000, 10_000), (32_768, 20_000)])
def test_length_buckets_end_at_the_longest(longest: int, last: int) -> None:
    assert length_buckets(longest)[-1] == last


async def test_names_in_labels_are_the_first_served_name() -> None:
    async with running(config(served_model_names=("chat", MODEL))) as [client]:
        _, text = await client.get("/metrics")
    assert 'model_name="chat"' in text
    assert MODEL not in text
