"""A fleet of vLLM-like replicas, simulated request by request: deterministic, seeded, no clock.

A scenario is a set of placements with an engine each; a stream of requests goes through it; the report has attainment,
percentiles with confidence intervals, utilisation, cost and a time series. `Replica` is the engine alone, for use in
real time. Step times and KV capacity are those of `plimsoll.performance`.

>>> from plimsoll.catalog import load_catalog
>>> from plimsoll.performance import LatencyTarget, LatencyTargets, Parallelism, ReplicaShape
>>> catalog = load_catalog()
>>> shape = ReplicaShape(
...     catalog.model("meta-llama/Llama-3.1-8B-Instruct"), catalog.precision("bf16"), catalog.gpu("H100-SXM-80GB"),
...     Parallelism(1, 1), max_model_length=8192,
... )
>>> fleet = Scenario((Placement("h100", engine_of(shape, max_num_seqs=64), replicas=2, shares={"chat": 1.0}),))
>>> chat = synthetic(
...     "chat", constant_rate(8.0, 300.0), LognormalLength.of_p95(1000, 2500, longest=6000),
...     LognormalLength.of_p95(200, 500, longest=2000), seed=1,
... )
>>> report = simulate(fleet, chat, targets={"chat": LatencyTargets(ttft=LatencyTarget(1.0, 95))})
>>> chat = report.classes["chat"]
>>> chat.arrived == chat.completed, chat.attainment > 0.95, chat.ttft.percentile_seconds(95) < 1.0
(True, True, True)
"""

from plimsoll.simulation.engine import EngineSpec, StepTimes, engine_of
from plimsoll.simulation.fleet import (
    FleetChange,
    Placement,
    PlacementChoice,
    ReplicaChoice,
    ReplicaFailure,
    Scenario,
)
from plimsoll.simulation.generation import Counters, Generation
from plimsoll.simulation.latencies import IntervalLatency, LatencyRecorder, LatencySummary
from plimsoll.simulation.lengths import ConstantLength, EmpiricalLength, LengthDistribution, LognormalLength
from plimsoll.simulation.replica import Replica
from plimsoll.simulation.report import (
    ClassInterval,
    ClassReport,
    Interval,
    PlacementInterval,
    PlacementReport,
    SimulationReport,
    TargetResult,
)
from plimsoll.simulation.simulate import ProgressCallback, Simulation, simulate
from plimsoll.simulation.traces import (
    TraceError,
    read_azure,
    read_burstgpt,
    read_mooncake,
    read_servegen,
    read_servegen_lengths,
    read_servegen_rates,
    read_trace,
)
from plimsoll.simulation.traffic import (
    RateCurve,
    Request,
    constant_rate,
    diurnal,
    merged,
    ramp,
    scaled,
    stepwise,
    synthetic,
)

__all__ = [
    "ClassInterval",
    "ClassReport",
    "ConstantLength",
    "Counters",
    "EmpiricalLength",
    "EngineSpec",
    "FleetChange",
    "Generation",
    "Interval",
    "IntervalLatency",
    "LatencyRecorder",
    "LatencySummary",
    "LengthDistribution",
    "LognormalLength",
    "Placement",
    "PlacementChoice",
    "PlacementInterval",
    "PlacementReport",
    "ProgressCallback",
    "RateCurve",
    "Replica",
    "ReplicaChoice",
    "ReplicaFailure",
    "Request",
    "Scenario",
    "Simulation",
    "SimulationReport",
    "StepTimes",
    "TargetResult",
    "TraceError",
    "constant_rate",
    "diurnal",
    "engine_of",
    "merged",
    "ramp",
    "read_azure",
    "read_burstgpt",
    "read_mooncake",
    "read_servegen",
    "read_servegen_lengths",
    "read_servegen_rates",
    "read_trace",
    "scaled",
    "simulate",
    "stepwise",
    "synthetic",
]
