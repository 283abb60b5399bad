"""What is replayed: a day of published traffic, the cluster that serves it, and the options that there are.

Rates are the published curves of a day, straight lines between their points, scaled to a fleet of about ten replicas.
Arrivals within them are Poisson, or have Gamma-distributed gaps with a coefficient of variation of 2; both are those of
`plimsoll.simulation.synthetic` with the same seed, so that the queue model and the event simulator see the same ones.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

import numpy as np

from benchmarks.data import data_folder
from plimsoll.allocation import AllocationProblem, Solution
from plimsoll.allocation.decomposition import Memory
from plimsoll.allocation.problem import Floats, Ints
from plimsoll.allocation.reduce import restrict
from plimsoll.api.parse import parse
from plimsoll.performance import LatencyTargets, TokenLengths
from plimsoll.planning import Evaluator
from plimsoll.planning.options import Candidate
from plimsoll.planning.planner import decide_fleet
from plimsoll.planning.search import UNPROVEN, Search, search_for
from plimsoll.planning.snapshot import Snapshot
from plimsoll.simulation import LognormalLength, RateCurve

STEP_SECONDS = 15.0
DAY_SECONDS = 86_400.0
STEPS = round(DAY_SECONDS / STEP_SECONDS)
SEEDS = range(1, 6)
ARRIVALS = {"Poisson": 1.0, "Gamma, CV 2": 2.0}
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
LONGEST = 14_000
"""Tokens of a prompt or an answer, at most."""
Pool = tuple[str, str, int, str]
"""Name, accelerator, GPUs, and price of one for an hour as the catalogue has it."""
POOLS: tuple[Pool, ...] = (
    ("a100", "A100-SXM-80GB", 8, "1.60"),
    ("a40", "A40", 24, "0.50"),
    ("l40s", "L40S", 4, "1.10"),
)
"""By name. The L40S, cheapest for Azure's classes, are too few to serve either day alone. The A100 are enough for both
days, the A40 for ServeGen's."""
MORE_L40S: tuple[Pool, ...] = (*POOLS[:2], ("l40s", "L40S", 16, "1.10"))
"""Every pool but the A40 is enough for both days, so one kind of GPU may be all that a day needs."""


@dataclass(frozen=True, slots=True)
class TrafficOfADay:
    """One traffic class over the day."""

    name: str
    curve: RateCurve
    """Requests per second."""
    inputs: LognormalLength
    outputs: LognormalLength
    lengths: TokenLengths
    slo: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A day on the cluster. Sizes: C classes, N options."""

    name: str
    classes: tuple[TrafficOfADay, ...]
    base: AllocationProblem
    """At one request per second of each class; nothing runs."""
    candidates: tuple[Candidate, ...]
    targets: tuple[LatencyTargets, ...]
    """As promised, by class."""
    search: Search
    headroom: float
    """The policy's, of demand."""
    minimal_rates: Floats
    """(C, N): requests per second that one replica takes of a class alone at the planned targets; 0: not eligible."""
    again: bool
    """A day that is played with another stock already: fewer figures are taken."""

    @property
    def prices(self) -> Floats:
        """(N,) per replica and hour."""
        return self.base.option_price_per_hour

    @property
    def gpus(self) -> Ints:
        """(N,) per replica."""
        return self.base.replica_gpus().astype(np.int64)

    @property
    def start_seconds(self) -> Floats:
        """(N,) from a replica's creation until it serves."""
        return np.array([item.option.load_seconds for item in self.candidates])

    def problem(self, rates: Floats, running: Ints | None = None, only: Ints | None = None) -> AllocationProblem:
        """The allocation problem for rates (C,) per second, headroom included, with replicas (N,) running.

        Args:
            only: options that may be used.
        """
        base = self.base
        rows = np.zeros((0, 3), dtype=np.int64)
        if running is not None:
            used = np.flatnonzero(running)
            rows = np.stack((used, np.full(len(used), -1), running[used]), axis=1).astype(np.int64)
        most = base.option_max_replicas
        if only is not None:
            most = np.where(np.isin(np.arange(base.options), only), most, 0)
        return replace(
            base,
            class_rate_per_hour=rates * 3600.0,
            pair_load=base.pair_load * rates[base.pair_class][:, None],
            option_max_replicas=most,
            running=rows,
        )

    def confined(self, options: tuple[int, ...]) -> Scene:
        """With these options only, in the order of their numbers."""
        mask = np.isin(np.arange(self.base.options), options)
        return replace(
            self,
            base=restrict(self.base, mask).problem,
            candidates=tuple(item for item, kept in zip(self.candidates, mask, strict=True) if kept),
            minimal_rates=self.minimal_rates[:, mask],
        )

    def shares(self, share: Floats) -> Floats:
        """(C, N) from shares of pairs (P,)."""
        found = np.zeros((len(self.classes), self.base.options))
        found[self.base.pair_class, self.base.pair_option] = share
        return found

    def expected(self, window_seconds: float) -> Floats:
        """(windows, C) requests per second: the highest of the curve within each window."""
        seconds = np.arange(0.0, DAY_SECONDS, STEP_SECONDS)
        rates = np.stack([np.interp(seconds, item.curve.seconds, item.curve.rates) for item in self.classes], axis=1)
        size = round(window_seconds / STEP_SECONDS)
        found: Floats = rates.reshape(-1, size, len(self.classes)).max(axis=1)
        return found

    def arrivals(self, burstiness: float, seed: int) -> Floats:
        """(STEPS, C) requests in each step: those of `class_seed`'s streams."""
        columns = []
        for number, item in enumerate(self.classes):
            times = _arrivals(item.curve, burstiness, class_seed(seed, number))
            columns.append(np.histogram(times, bins=STEPS, range=(0.0, DAY_SECONDS))[0])
        return np.stack(columns, axis=1).astype(np.float64)


def class_seed(seed: int, number: int) -> int:
    """Of a class's stream, for `synthetic`."""
    return 10 * seed + number


def _arrivals(curve: RateCurve, burstiness: float, seed: int) -> Floats:
    """The arrival times of `synthetic`, without its requests."""
    t, r = np.array(curve.seconds), np.array(curve.rates)
    cumulative = np.concatenate([[0.0], np.cumsum(np.diff(t) * (r[1:] + r[:-1]) / 2.0)])
    rng, reached, units = np.random.default_rng([seed, 0]), 0.0, []
    while reached < cumulative[-1]:
        shape = 1.0 / burstiness**2
        gaps = rng.standard_exponential(4096) if burstiness == 1.0 else rng.standard_gamma(shape, 4096) / shape
        unit = reached + np.cumsum(gaps)
        reached = float(unit[-1])
        units.append(unit[unit < cumulative[-1]])
    fine = np.linspace(0.0, t[-1], 86_401)
    mass = np.interp(fine, t, r)
    climbed = np.concatenate([[0.0], np.cumsum((mass[1:] + mass[:-1]) / 2.0 * np.diff(fine))])
    return np.asarray(np.interp(np.concatenate(units), climbed * (cumulative[-1] / climbed[-1]), fine))


def scenes() -> list[Scene]:
    """Azure's and ServeGen's day, each with few L40S and with many."""
    return [
        _scene("Azure", _azure(), POOLS),
        _scene("ServeGen", _servegen(), POOLS),
        _scene("Azure, 16 L40S", _azure(), MORE_L40S),
        _scene("ServeGen, 16 L40S", _servegen(), MORE_L40S),
    ]


def _azure() -> tuple[TrafficOfADay, ...]:
    """Tuesday, 14 May 2024: conversation and coding. Lengths are lognormal by the quantiles of the same week."""
    chat, code = (_azure_curve(f"azure2024_{name}") for name in ("conversation", "coding"))
    return (
        _traffic("chat", chat.scaled(rate=0.15), (1620, 4876), (95, 441), {"ttft": 2000, "tpot": 120}),
        _traffic("code", code.scaled(rate=0.15), (2500, 7662), (22, 75), {"ttft": 4000, "endToEnd": 10_000}),
    )


def _azure_curve(series: str) -> RateCurve:
    path = data_folder() / "azure_llm_2024_2025_digitized/azure_llm_2024_requests_per_minute.csv"
    day = datetime.fromisoformat("2024-05-14T00:00:00+00:00")
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["series"] == series]
    times = [(datetime.fromisoformat(row["timestamp_utc"]) - day).total_seconds() for row in rows]
    return _of_a_day(times, [float(row["requests_per_min_mid"]) / 60.0 for row in rows])


def _servegen() -> tuple[TrafficOfADay, ...]:
    """The first day of m-large, a general model, and of deepseek-r1, whose answers are long."""
    chat, reason = (_servegen_curve(name) for name in ("m-large", "deepseek-r1"))
    return (
        _traffic("chat", chat.scaled(rate=1 / 40), (914, 3300), (155, 580), {"ttft": 2000, "tpot": 120}),
        _traffic("reason", reason.scaled(rate=1 / 16), (1268, 4771), (1527, 5200), {"ttft": 5000, "tpot": 100}),
    )


def _servegen_curve(model: str) -> RateCurve:
    path = data_folder() / "servegen/servegen_total_rate_10min.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == model and float(row["t_seconds"]) < DAY_SECONDS]
    times = [float(row["t_seconds"]) + 300.0 for row in rows]
    return _of_a_day(times, [float(row["total_rate_req_per_s"]) for row in rows])


def _of_a_day(times: list[float], rates: list[float]) -> RateCurve:
    inner = [(time, rate) for time, rate in zip(times, rates, strict=True) if 0.0 < time < DAY_SECONDS]
    ends = np.interp([0.0, DAY_SECONDS], times, rates).tolist()
    points = [(0.0, ends[0]), *inner, (DAY_SECONDS, ends[1])]
    return RateCurve(tuple(time for time, _ in points), tuple(rate for _, rate in points))


def _traffic(
    name: str, curve: RateCurve, inputs: tuple[float, float], outputs: tuple[float, float], slo: dict[str, int]
) -> TrafficOfADay:
    """Lengths are mean and 95th percentile; targets are 95th percentiles in milliseconds."""
    return TrafficOfADay(
        name,
        curve,
        LognormalLength.of_p95(*inputs, longest=LONGEST),
        LognormalLength.of_p95(*outputs, longest=LONGEST),
        TokenLengths(inputs[0], outputs[0], inputs[1], outputs[1]),
        {key: {"percentile": 95, "milliseconds": value} for key, value in slo.items()},
    )


def _scene(name: str, classes: tuple[TrafficOfADay, ...], pools: tuple[Pool, ...]) -> Scene:
    snapshot = _snapshot(classes, pools)
    turn = decide_fleet(snapshot, Evaluator())
    fleet, problem = turn.fleet, turn.fleet.problem
    limits = {pool: gpus for pool, _, gpus, _ in pools}
    rates = problem.class_rate_per_hour / 3600.0
    base = replace(
        problem,
        class_rate_per_hour=np.full(problem.classes, 3600.0),
        pair_load=problem.pair_load / rates[problem.pair_class][:, None],
        # GPUs are counted by pool; on which node a replica lies does not matter here.
        pool_unlimited=np.ones(len(fleet.pool_names), dtype=bool),
        pool_gpu_limit=np.array([float(limits[pool]) for pool in fleet.pool_names]),
        node_pool=np.zeros(0, dtype=np.int64),
        node_free=np.zeros((0, 3)),
        running=np.zeros((0, 3), dtype=np.int64),
    )
    minimal = np.zeros((base.classes, base.options))
    minimal[base.pair_class, base.pair_option] = 1.0 / base.pair_load[:, 0]
    search = search_for(turn.policy, 1, Memory())
    answer = _remembering(search.answer)
    return Scene(
        name,
        classes,
        base,
        tuple(fleet.candidates),
        tuple(item.targets for item in turn.choices[0].classes),
        # The same answers, without the proofs of how good they are.
        replace(search, solve=answer, answer=answer, bound=lambda *_: UNPROVEN),
        float(turn.policy.headroom.demand),
        minimal,
        pools is not POOLS,
    )


def _remembering(answer: Callable[[AllocationProblem], Solution]) -> Callable[[AllocationProblem], Solution]:
    """The same answers. What a plan looks ahead to is asked for again once it runs."""
    known: dict[tuple[object, ...], Solution] = {}

    def remembered(problem: AllocationProblem) -> Solution:
        values = (getattr(problem, item.name) for item in fields(problem))
        key = tuple(value.tobytes() if isinstance(value, np.ndarray) else repr(value) for value in values)
        if key not in known:
            known[key] = answer(problem)
        return known[key]

    return remembered


def _snapshot(classes: tuple[TrafficOfADay, ...], pools: tuple[Pool, ...]) -> Snapshot:
    declared = {
        name: {
            "accelerator": kind,
            "gpusPerNode": min(8, gpus),
            "nodes": {"max": -(-gpus // 8)},
            "price": {"perHour": price},
        }
        for name, kind, gpus, price in pools
    }
    traffic = [
        {
            "name": item.name,
            "sloRef": {"name": item.name},
            "requestsPerMinute": 60,
            "tokens": {
                "input": round(item.lengths.input_mean),
                "output": round(item.lengths.output_mean),
                "inputP95": round(item.lengths.input_p95),
                "outputP95": round(item.lengths.output_p95),
            },
            **({"match": {"headers": [{"name": "x-class", "value": item.name}]}} if number else {}),
        }
        for number, item in enumerate(classes)
    ]
    assistant = {
        "models": [{"name": MODEL, "precisions": [{"name": "bf16"}, {"name": "fp8"}]}],
        "traffic": traffic,
        "placement": {"parallelism": {"tensor": [1, 2], "pipeline": [1]}},
    }
    return Snapshot(
        deployments=(_object("LLMDeployment", "assistant", assistant, "chat"),),
        pools=tuple(_object("GPUNodePool", name, spec) for name, spec in declared.items()),
        slos=tuple(
            sorted(
                (_object("InferenceSLO", item.name, item.slo, "chat") for item in classes), key=lambda item: item.name
            )
        ),
        nodes=None,
    )


def _object(kind: str, name: str, spec: dict[str, Any], namespace: str = "") -> Any:  # noqa: ANN401
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return parse({"apiVersion": "plimsoll.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
