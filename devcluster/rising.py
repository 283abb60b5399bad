"""The demo's last act: traffic that rises and falls, as a real Prometheus shows it, and replicas that follow it.

KWOK's pods have emulated engines behind them that answer requests as fast as the planned GPUs would.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import isnan
from typing import Any

from devcluster.cluster import Cluster
from devcluster.endpoints import Endpoints
from devcluster.installation import Installation
from devcluster.nodes import gpu_node
from devcluster.prometheus import Prometheus
from devcluster.traffic import Traffic
from plimsoll.rendering import labels

Manifest = dict[str, Any]

NAMESPACE, NAME, POOL = "live", "helpdesk", "l40"
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
GPU, PRODUCT, MEMORY_MIB, PRICE = "L40", "NVIDIA-L40", 46068, "0.90"
GPUS = 16
INPUT, OUTPUT = 500, 40
LOW, HIGH = 900.0, 1440.0
"""Requests per minute."""
TTFT_SECONDS, TPOT_SECONDS = 1.0, 0.075
"""Targets for 95 % of the requests: bounds of vLLM's buckets."""
STEPS: tuple[tuple[float, float, str], ...] = (
    (4, LOW, "steady"),
    (50, HIGH, "rising"),
    (4, HIGH, "steady"),
    (3, LOW, "falling"),
    (26, LOW, "steady"),
)
"""Seconds, the rate at their end, and what that is."""
LOOK_SECONDS, COOL_DOWN_SECONDS, LOAD_SECONDS = 2, 10, 4
TELL_SECONDS = 4.0
_WINDOW = "10s"


class Rising:
    """The act; what it starts runs on until the stack is closed."""

    def __init__(self, cluster: Cluster, operator: Installation, stack: ExitStack) -> None:
        self._cluster, self._operator, self._stack = cluster, operator, stack

    def prepare(self) -> None:
        """A Prometheus in the chart's values, nodes, and the LLMDeployment."""
        self._prometheus = self._stack.enter_context(Prometheus(self._cluster.directory / "prometheus"))
        self._operator.stop()
        settings = {"demandIntervalSeconds": LOOK_SECONDS, "sloIntervalSeconds": 10}
        self._operator.install(prometheus={"url": self._prometheus.url}, settings=settings)
        self._operator.start()
        self._operator.wait_ready()
        self._cluster.kubectl("create", "namespace", NAMESPACE)
        self._cluster.apply(_manifests())
        policy = {"spec": {"rebalance": {"coolDownSeconds": COOL_DOWN_SECONDS}}}
        self._cluster.kubectl("patch", "placementpolicy", "default", "--type=merge", "--patch", json.dumps(policy))

    def start(self) -> None:
        """Engines behind the pods, once there are any: as their command line says."""
        selector = f"{labels.LLM_DEPLOYMENT}={NAME}"
        (workload,) = self._objects("deployments", f"--selector={selector}")
        container = workload["spec"]["template"]["spec"]["containers"][0]
        words = [*container.get("command", []), *container.get("args", [])]
        limit = words[words.index("--max-num-seqs") + 1]
        options = (f"--model={MODEL}", f"--gpu={GPU}", f"--max-num-seqs={limit}", f"--max-model-len={2 * INPUT}")
        directory = self._cluster.directory / "endpoints"
        self._endpoints = self._stack.enter_context(
            Endpoints(self._cluster, directory, 2 * GPUS, *options, selector=selector)
        )
        self._endpoints.follow(self._prometheus)
        self._stack.enter_context(_repeated(lambda: self._endpoints.follow(self._prometheus)))

    def play(self) -> str:
        """Lets traffic rise and fall, a line every few seconds. Returns what came of it."""
        body = {"model": MODEL, "prompt": list(range(INPUT)), "max_tokens": OUTPUT, "ignore_eos": True}
        began, told = time.monotonic(), 0.0
        end = sum(seconds for seconds, _, _ in STEPS)
        print("             requests/min    replicas      p95 of first tokens, ms   p95 per token, ms")
        print("             sent  planned   Ready/wanted  predicted  seen (limit)   predicted  seen (limit)  cost/h")
        most = 0
        with Traffic(self._cluster, self._endpoints, (NAMESPACE, f"{NAME}-routing"), body) as traffic:
            traffic.per_minute = lambda: rate_at(time.monotonic() - began)
            while (now := time.monotonic() - began) < end:
                if now >= told:
                    told += TELL_SECONDS
                    line, replicas = self._line(now)
                    most = max(most, replicas)
                    print(line, flush=True)
                time.sleep(0.2)
        return self._outcome(traffic, time.monotonic() - began, most)

    def _line(self, now: float) -> tuple[str, int]:
        status = self._status()
        (traffic,), placements = status["traffic"], status["placements"]
        ready = sum(item["replicas"]["ready"] for item in placements)
        wanted = sum(item["replicas"]["desired"] for item in placements)
        figures = []
        for name, metric, target in (
            ("ttft", "time_to_first_token_seconds", TTFT_SECONDS),
            ("tpot", "request_time_per_output_token_seconds", TPOT_SECONDS),
        ):
            buckets = f'sum by (le) (rate(vllm:{metric}_bucket{{namespace="{NAMESPACE}"}}[{_WINDOW}]))'
            seen = self._prometheus.value(f"histogram_quantile(0.95, {buckets})")
            shown = "-" if isnan(seen) else f"{1000 * seen:.0f}"
            predicted = traffic[name].get("predictedMilliseconds", "-")
            figures.append(f"{predicted:>9}  {shown:>5} ({1000 * target:.0f})")
        planned = float(traffic["requestsPerMinute"])
        line = (
            f"  {now:5.0f} s  {rate_at(now):7.0f}  {planned:7.0f}   {ready:>5}/{wanted:<6}  {figures[0]:<25}"
            f"{figures[1]:<23}  {float(status['costPerHour']):6.2f}  {what_at(now)}"
        )
        return line, wanted

    def _outcome(self, traffic: Traffic, seconds: float, most: int) -> str:
        window = f"[{seconds:.0f}s]"
        parts = []
        for name, metric, target in (
            ("first tokens", "time_to_first_token_seconds", TTFT_SECONDS),
            ("tokens", "request_time_per_output_token_seconds", TPOT_SECONDS),
        ):
            own = f'namespace="{NAMESPACE}"'
            within = f'sum(increase(vllm:{metric}_bucket{{{own},le="{target}"}}{window}))'
            part = self._prometheus.value(f"{within} / sum(increase(vllm:{metric}_count{{{own}}}{window}))")
            parts.append(f"{100 * part:.1f} % of {name} in time")
        return (
            f"{traffic.sent} requests, {traffic.failed} failed; {', '.join(parts)} (95 % are asked for); "
            f"up to {most} replicas"
        )

    def _status(self) -> Manifest:
        (found,) = self._objects("llmdeployments")
        return dict(found["status"])

    def _objects(self, kind: str, *options: str) -> list[Manifest]:
        text = self._cluster.kubectl("get", kind, f"--namespace={NAMESPACE}", "--output=json", *options)
        items: list[Manifest] = json.loads(text)["items"]
        return items


def rate_at(seconds: float) -> float:
    """Requests per minute that are sent so long after the beginning."""
    before = LOW
    for length, after, _ in STEPS:
        if seconds < length:
            return before + (after - before) * seconds / length
        seconds, before = seconds - length, after
    return before


def what_at(seconds: float) -> str:
    """Whether the rate rises or falls then."""
    for length, _, what in STEPS:
        if seconds < length:
            return what
        seconds -= length
    return STEPS[-1][2]


@contextmanager
def _repeated(work: Callable[[], None], seconds: float = 1.0) -> Iterator[None]:
    over = threading.Event()

    def run() -> None:
        while not over.wait(seconds):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _manifests() -> list[Manifest]:
    nodes = [gpu_node(f"{POOL}-{number}", PRODUCT, 4, MEMORY_MIB) for number in range(GPUS // 4)]
    version = "plimsoll.dev/v1alpha1"
    tokens = {"input": INPUT, "output": OUTPUT, "inputP95": INPUT + 1, "outputP95": OUTPUT + 1}
    targets = {"ttft": TTFT_SECONDS, "tpot": TPOT_SECONDS}
    return [
        *nodes,
        {
            "apiVersion": version,
            "kind": "GPUNodePool",
            "metadata": {"name": POOL},
            "spec": {"accelerator": GPU, "price": {"perHour": PRICE}},
        },
        {
            "apiVersion": version,
            "kind": "InferenceSLO",
            "metadata": {"name": "prompt", "namespace": NAMESPACE},
            "spec": {
                name: {"percentile": 95, "milliseconds": round(1000 * seconds)} for name, seconds in targets.items()
            },
        },
        {
            "apiVersion": version,
            "kind": "LLMDeployment",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {
                "models": [{"name": MODEL, "precisions": [{"name": "bf16"}]}],
                "traffic": [
                    {
                        "name": "default",
                        "sloRef": {"name": "prompt"},
                        "requestsPerMinute": round(LOW),
                        "tokens": tokens,
                    }
                ],
                "engine": {
                    "maxModelLength": 2 * INPUT,
                    "podTemplate": {"annotations": {"devcluster.test/ready-delay": f"{LOAD_SECONDS}s"}},
                },
                "placement": {"pools": [POOL], "parallelism": {"tensor": [1], "pipeline": [1]}},
            },
        },
    ]
