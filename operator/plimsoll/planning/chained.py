"""One LLMDeployment in mode Chained: which servers hold which layers, and which chains they make.

A server is what one node has free in a pool, and belongs to one chain. Chains that run stay as long as they carry the
load and nothing saves enough. New ones are made of what is free beside all that runs, so that they can start before
others go; only the servers of a chain that lost a node for good count as free, since they serve nobody.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from plimsoll.api.inferenceslo import InferenceSLOSpec
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.placementpolicy import PlacementPolicy, PlacementPolicySpec
from plimsoll.catalog import Catalog, ModelArchitecture, Precision, UnknownName
from plimsoll.catalog.precisions import unsupported_reason
from plimsoll.chains import Chain, ChainProblem, Route, session_seconds
from plimsoll.chains.hardware import Server, SessionShape, chain_problem
from plimsoll.chains.pipelines import chain_rate, pipeline_set
from plimsoll.chains.routes import prefill_seconds
from plimsoll.chains.sets import ServerSet
from plimsoll.performance import LatencyTarget, LatencyTargets, Parallelism, ReplicaShape, load_seconds
from plimsoll.performance.shapes import parallelism_problem
from plimsoll.planning.chain_limits import Room, RoomLimit
from plimsoll.planning.chain_options import obsolete, server_host
from plimsoll.planning.chain_servers import ChainServer, Sites, origins, round_trips
from plimsoll.planning.facts import catalog_of
from plimsoll.planning.images import engine_image
from plimsoll.planning.objectives import ResolvedClass, deployment_finding, resolve_classes
from plimsoll.planning.plan import Finding, Severity
from plimsoll.planning.pools import Pool, Pools
from plimsoll.planning.running_chains import Health, RunningChain, running_chains
from plimsoll.planning.snapshot import ObjectRef, PodFacts, Snapshot
from plimsoll.planning.variants import max_model_length

AT_ONCE = (2, 8, 32)
"""Sessions that a chain decodes in one step: what is tried."""
PARTS = (1.0, 0.6, 0.3)
"""Of the rate, where budget or limits leave no room for the whole of it."""
_BETTER = 0.01
"""More of the rate than that makes up for a move."""


@dataclass(frozen=True, slots=True, eq=False)
class ChainedPlan:
    """The decision for one LLMDeployment."""

    resource: LLMDeployment
    classes: tuple[ResolvedClass, ...]
    model: ModelArchitecture
    precision: Precision
    at_once: int
    servers: tuple[ChainServer, ...]
    """(S): all that could be used, used or not."""
    pools: tuple[Pool, ...]
    """(S)"""
    regions: tuple[str, ...]
    """(C): where requests come from."""
    region_shares: Mapping[str, tuple[float, ...]]
    """By class, (C)."""
    problem: ChainProblem
    """With a client for each region, the expected lengths, and caches for the longest."""
    chosen: ServerSet
    kept: tuple[RunningChain | None, ...]
    """What each chain is that runs already; None for a new one."""
    rates_per_second: tuple[float, ...]
    """What each chain carries within the targets."""
    max_model_length: int
    """That new chains may accept, if their memory allows it."""
    longest_tokens: int
    """Of a session that the caches are planned for."""
    planned_rate_per_second: float
    served: float
    """Part of the planned rate that the chains carry within the targets, at most 1."""
    broken: tuple[str, ...]
    given_up: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef("LLMDeployment", self.resource.namespace, self.resource.name)

    @property
    def gpus(self) -> int:
        return sum(self.servers[server].tensor for server in self.chosen.servers)

    def chain_seconds(self, chain: Chain, client: int) -> tuple[float, float]:
        """Time to first token and time per token after it on a chain, from a region, without waiting."""
        problem, route = self.problem, chain.route
        servers = list(route.servers)
        per_token = problem.decode_trip_seconds[client, servers].sum()
        per_token += (problem.decode_block_seconds[servers] * route.blocks).sum()
        return problem.setup_seconds + prefill_seconds(problem, route, client), float(per_token)


@dataclass(frozen=True, slots=True, eq=False)
class NotPlanned:
    """Why there is no plan for an LLMDeployment."""

    resource: LLMDeployment
    findings: tuple[Finding, ...]
    short: bool
    """There is no room for a chain; otherwise something is wrong with what people wrote."""
    broken: tuple[str, ...] = ()


def is_chained(deployment: LLMDeployment) -> bool:
    """Whether its model is to be split over servers."""
    return deployment.spec.placement.mode == "Chained"


def decide_chained(
    deployment: LLMDeployment, snapshot: Snapshot, pools: Pools, room: Room, noted: Sequence[Finding] = ()
) -> ChainedPlan | NotPlanned:
    """The chains of one LLMDeployment, beside what else runs in the snapshot.

    Args:
        noted: what is known of it already.
    """
    return _Planner(deployment, snapshot, pools, room, noted).decide()


@dataclass(frozen=True, slots=True, eq=False)
class _Option:
    model: ModelArchitecture
    precision: Precision
    at_once: int
    servers: tuple[ChainServer, ...]
    pools: tuple[Pool, ...]
    problem: ChainProblem
    chosen: ServerSet
    kept: tuple[RunningChain | None, ...]

    def carried(self, rate: float) -> float:
        return min(1.0, self.chosen.rate_per_second / rate)

    @property
    def _new(self) -> list[ChainServer]:
        """Servers of chains that do not run yet."""
        return [
            self.servers[server]
            for chain, known in zip(self.chosen.chains, self.kept, strict=True)
            if known is None
            for server in chain.route.servers
        ]

    @property
    def new_gpus(self) -> int:
        return sum(server.tensor for server in self._new)

    @property
    def new_price_per_hour(self) -> float:
        return sum(server.price_per_hour for server in self._new)


_Options = Callable[[float], Iterator[_Option]]


@dataclass(frozen=True, slots=True)
class _Task:
    """What the chains are for."""

    classes: tuple[ResolvedClass, ...]
    rate_per_second: float
    regions: tuple[str, ...]
    shares: Mapping[str, tuple[float, ...]]

    @property
    def targets(self) -> LatencyTargets:
        return _tightest(self.classes)

    @property
    def longest(self) -> tuple[int, int]:
        """Prompt and answer at their longest 95th percentiles."""
        return (
            math.ceil(max(item.lengths.input_p95 for item in self.classes)),
            math.ceil(max(item.lengths.output_p95 for item in self.classes)),
        )


class _Planner:
    def __init__(
        self, deployment: LLMDeployment, snapshot: Snapshot, pools: Pools, room: Room, noted: Sequence[Finding]
    ) -> None:
        self._deployment, self._snapshot, self._pools, self._room = deployment, snapshot, pools, room
        self._policy: PlacementPolicySpec = (snapshot.policy or PlacementPolicy.implied()).spec
        self._catalog: Catalog = catalog_of(snapshot)
        self._findings: list[Finding] = list(noted)
        self._refused: RoomLimit | None = None
        own = [
            item
            for item in snapshot.workloads
            if (item.namespace, item.deployment) == (deployment.namespace, deployment.name)
        ]
        self._running = running_chains(own, snapshot.nodes)
        self._broken = tuple(chain.name for chain in self._running if chain.health is not Health.WHOLE)
        self._given_up = tuple(chain.name for chain in self._running if chain.health is Health.GONE)

    def decide(self) -> ChainedPlan | NotPlanned:
        slos: dict[tuple[str, str], InferenceSLOSpec | None] = {
            (slo.namespace, slo.name): slo.spec for slo in self._snapshot.slos
        }
        for item in self._snapshot.invalid:
            if item.ref.kind == "InferenceSLO":
                slos[item.ref.namespace, item.ref.name] = None
        classes, findings = resolve_classes(self._deployment, slos, self._policy)
        self._findings += findings
        rate = sum(item.planned_rate_per_second for item in classes)
        if not rate > 0 and classes:
            self._error("NoTraffic", "spec.traffic: no class has requestsPerMinute above 0", "spec.traffic")
        sites = Sites(self._deployment, self._snapshot, self._pools, self._in_the_way(), self._error)
        if self._failed:
            return self._not_planned(short=False)
        task = _Task(tuple(classes), rate, *origins(self._deployment, sites.nearest()))
        self._ask_distances(task, sites)
        lengths = {
            model.name: length
            for model in self._models()
            if (length := max_model_length(self._deployment, model, classes, self._findings)) is not None
        }
        kept = self._kept(task, lengths)
        best = None if self._failed else self._best(task, sites, kept, lengths)
        if best is None:
            if not self._failed:
                self._error(self._shortage, self._too_little(sites), "spec.placement")
                return self._not_planned(short=True)
            return self._not_planned(short=False)
        served = best.carried(rate)
        if served < 1.0 - min(float(item.slo.unserved.max) for item in classes) - 1e-9:
            message = (
                f"the chains carry {best.chosen.rate_per_second * 60:.1f} of {rate * 60:.1f} planned requests per "
                f"minute within the targets: {self._remedy('add nodes, or relax the InferenceSLO')}"
            )
            self._error(self._shortage, message, "spec.traffic")
        return ChainedPlan(
            resource=self._deployment,
            classes=tuple(classes),
            model=best.model,
            precision=best.precision,
            at_once=best.at_once,
            servers=best.servers,
            pools=best.pools,
            regions=task.regions,
            region_shares=task.shares,
            problem=best.problem,
            chosen=best.chosen,
            kept=best.kept,
            rates_per_second=tuple(
                chain_rate(_worst(best.problem), chain, task.targets) for chain in best.chosen.chains
            ),
            max_model_length=lengths[best.model.name],
            longest_tokens=sum(task.longest),
            planned_rate_per_second=rate,
            served=served,
            broken=self._broken,
            given_up=self._given_up,
            findings=tuple(self._findings),
        )

    # --- What runs ---------------------------------------------------------------------------------------------------

    def _in_the_way(self) -> list[PodFacts]:
        """Pods that hold what new chains could have: all but those of chains that were given up."""
        lost = {item.name for chain in self._running if chain.health is Health.GONE for item in chain.servers}
        pods = [
            pod
            for pod in self._snapshot.pods
            if pod.namespace != self._deployment.namespace or pod.placement not in lost
        ]
        bound = {pod.placement for pod in pods if pod.namespace == self._deployment.namespace and pod.node}
        for chain in self._running:
            if chain.health is Health.GONE:
                continue
            for item in chain.servers:
                pool = self._pools.usable.get(item.option.get("pool", ""))
                if item.name not in bound and pool is not None:
                    tensor = int(item.option["tensor"])
                    host = server_host(tensor)
                    requests = {
                        pool.resource_name: float(tensor),
                        "cpu": host.cpu_cores,
                        "memory": float(host.memory_bytes),
                    }
                    node = item.option["node"]
                    pods.append(PodFacts("", item.namespace, f"{item.name}-0", node, requests, item.name))
        return pods

    def _kept(self, task: _Task, lengths: Mapping[str, int]) -> list[RunningChain]:
        """Whole chains that are still what people ask for, of one model and precision: that of most of them."""
        known = {model.name: model for model in self._models()}
        usable = [
            chain
            for chain in self._running
            if chain.health is Health.WHOLE
            and chain.model in known
            and sum(chain.partition) == known[chain.model].layers
            and not obsolete(self._deployment, chain, self._pools)
            and chain.max_model_length >= min(lengths.get(chain.model, 0), sum(task.longest))
        ]
        kinds = [(chain.model, chain.precision) for chain in usable]
        most = max(sorted(set(kinds)), key=kinds.count, default=None)
        return [chain for chain, kind in zip(usable, kinds, strict=True) if kind == most]

    # --- What could run ----------------------------------------------------------------------------------------------

    def _best(
        self, task: _Task, sites: Sites, kept: Sequence[RunningChain], lengths: Mapping[str, int]
    ) -> _Option | None:
        """What runs, with the least that carries the rate beside it, unless something else saves enough."""
        stay = None
        if kept:
            stay = self._affordable(task, lambda part: self._grown(task, sites, kept, part, lengths))
            for chain in sorted(kept, key=self._rent, reverse=True):
                fewer = [one for one in kept if one is not chain]
                options = self._grown(task, sites, fewer, task.rate_per_second, lengths, alone=True)
                other = next(options, None) if fewer else None
                if stay is not None and other is not None and self._worth(task, stay, other):
                    stay, kept = other, fewer
        fresh = self._affordable(task, lambda part: self._fresh(task, sites, part, lengths))
        if stay is None or fresh is None:
            return stay or fresh
        return fresh if self._worth(task, stay, fresh) else stay

    def _worth(self, task: _Task, stay: _Option, other: _Option) -> bool:
        """Whether another answer serves more, or as much and cheaper by the least saving, the move included."""
        more = other.carried(task.rate_per_second) - stay.carried(task.rate_per_second)
        if abs(more) > _BETTER:
            return more > 0
        rebalance = self._policy.rebalance
        move = other.new_price_per_hour * _load_hours(other) / rebalance.horizon_hours
        saved = stay.chosen.price_per_hour - other.chosen.price_per_hour - move
        return saved > float(rebalance.minimal_saving) * stay.chosen.price_per_hour + 1e-9

    def _affordable(self, task: _Task, options: _Options) -> _Option | None:
        """The best option within budget and limits; where the whole rate is too dear, of a part of it."""
        for part in PARTS:
            found = [option for option in options(part * task.rate_per_second) if not self._refuses(option)]
            if found:
                return min(
                    found,
                    key=lambda option: (
                        -round(option.carried(task.rate_per_second), 9),
                        option.chosen.price_per_hour,
                        option.chosen.mean_response_seconds,
                    ),
                )
        return None

    def _fresh(self, task: _Task, sites: Sites, rate: float, lengths: Mapping[str, int]) -> Iterator[_Option]:
        """Chains of free servers only."""
        for model in self._models():
            if model.name not in lengths:
                continue
            for precision in self._precisions(model):
                for tensor in sites.degrees():
                    servers = self._able(model, precision, sites.free(tensor, server_host(tensor)))
                    for at_once in AT_ONCE if servers else ():
                        yield from self._sets(task, model, precision, at_once, servers, (), rate)

    def _grown(
        self,
        task: _Task,
        sites: Sites,
        kept: Sequence[RunningChain],
        rate: float,
        lengths: Mapping[str, int],
        *,
        alone: bool = False,
    ) -> Iterator[_Option]:
        """These running chains and, unless `alone`, such as are needed beside them."""
        model = self._catalog.model(kept[0].model)
        precision = self._catalog.precision(kept[0].precision)
        if model.name not in lengths:
            return
        most = max(chain.places for chain in kept)
        at_once = min((one for one in AT_ONCE if one >= most), default=most)
        running = [
            sites.server(item.option["node"], self._pools.usable[item.option["pool"]], int(item.option["tensor"]))
            for chain in kept
            for item in chain.servers
        ]
        for tensor in [0] if alone else sites.degrees() or [0]:
            free = self._able(model, precision, sites.free(tensor, server_host(tensor))) if tensor else []
            yield from self._sets(task, model, precision, at_once, (*running, *free), kept, rate)

    def _sets(
        self,
        task: _Task,
        model: ModelArchitecture,
        precision: Precision,
        at_once: int,
        servers: Sequence[ChainServer],
        kept: Sequence[RunningChain],
        rate: float,
    ) -> Iterator[_Option]:
        trips = round_trips(self._policy, task.regions, servers, self._error)
        if self._failed:
            return
        pools = [self._pools.usable[server.pool] for server in servers]
        hardware = [
            Server(pool.gpu, pool.network.bytes_per_second, server.tensor)
            for server, pool in zip(servers, pools, strict=True)
        ]
        problem = _problem(model, precision, hardware, trips, task, at_once)
        worst = _worst(problem)
        chains = [chain for chain in self._as_planned(worst, kept) if chain is not None]
        if len(chains) < len(kept):
            return
        given = self._deployment.spec.engine.max_model_length
        found = pipeline_set(
            worst,
            [_numbers([name(server) for server in servers]) for name in (_pool, _region, _anywhere)],
            np.array([server.price_per_hour for server in servers]),
            task.targets,
            rate,
            kept=chains,
            least_places=1 if given is None else max(1, math.ceil(given / sum(task.longest))),
        )
        if found is not None:
            of = {chain.route: known for chain, known in zip(chains, kept, strict=True)}
            known = tuple(of.get(chain.route) for chain in found.chains)
            yield _Option(model, precision, at_once, tuple(servers), tuple(pools), problem, found, known)

    def _as_planned(self, problem: ChainProblem, kept: Sequence[RunningChain]) -> Iterator[Chain | None]:
        """Running chains with the times of this problem, whose first servers are theirs; None where memory for the
        sessions of today is missing."""
        number = 0
        for chain in kept:
            servers = np.arange(number, number + len(chain.partition))
            number += len(chain.partition)
            layers = np.array(chain.partition)
            slots = problem.slots(problem.memory_bytes[servers], layers)
            places = min(chain.places, int((slots // layers).min()))
            route = Route(tuple(servers.tolist()), chain.partition)
            yield Chain(route, places, session_seconds(problem, route, 0)) if places > 0 else None

    # --- Parts -------------------------------------------------------------------------------------------------------

    def _models(self) -> list[ModelArchitecture]:
        found = []
        for index, declared in enumerate(self._deployment.spec.models):
            try:
                found.append(self._catalog.model(declared.name))
            except UnknownName as error:
                field = f"spec.models[{index}].name"
                message = f"{field}: {error}; or describe it in a ModelProfile"
                self._error("UnknownModel", message, field)
        return found

    def _precisions(self, model: ModelArchitecture) -> Iterator[Precision]:
        index, candidate = next(
            (index, one)
            for index, one in enumerate(self._deployment.spec.models)
            if self._catalog.model(one.name).name == model.name
        )
        for number, declared in enumerate(candidate.precisions):
            precision = self._catalog.precision(declared.name)
            if (declared.checkpoint or model.checkpoint(declared.name)) is None:
                field = f"spec.models[{index}].precisions[{number}].checkpoint"
                message = (
                    f"{field}: {declared.name} needs a quantised checkpoint and the catalog knows none for "
                    f"{model.name}; left out until one is named"
                )
                missing = deployment_finding(self._deployment, "CheckpointMissing", message, field, Severity.WARNING)
                if missing not in self._findings:
                    self._findings.append(missing)
                continue
            yield precision

    def _able(
        self, model: ModelArchitecture, precision: Precision, servers: Iterable[ChainServer]
    ) -> list[ChainServer]:
        """Those whose GPU runs the precision, with an engine image, and whose degree divides the model."""

        def able(server: ChainServer) -> bool:
            gpu = self._pools.usable[server.pool].gpu
            return (
                unsupported_reason(precision, gpu) is None
                and parallelism_problem(model, gpu, Parallelism(server.tensor, 1)) is None
                and engine_image(self._deployment.spec.engine.images, gpu.vendor) is not None
            )

        return [server for server in servers if able(server)]

    def _rent(self, chain: RunningChain) -> float:
        return sum(
            float(self._pools.usable[item.option["pool"]].price_per_gpu_hour) * int(item.option["tensor"])
            for item in chain.servers
        )

    def _ask_distances(self, task: _Task, sites: Sites) -> None:
        """Say now which distances are missing, whether or not what is planned needs them."""
        tensor = min(sites.degrees(), default=0)
        if tensor:
            round_trips(self._policy, task.regions, sites.free(tensor, server_host(tensor)), self._error)

    def _too_little(self, sites: Sites) -> str:
        remedy = self._remedy("add nodes, allow a smaller precision, or relax the InferenceSLO")
        return (
            f"no chain over the {sites.nodes} free nodes ({sites.gpus} GPUs) holds the model and meets the targets: "
            f"{remedy}"
        )

    def _refuses(self, option: _Option) -> bool:
        limit = self._room.short_of(option.new_price_per_hour, option.new_gpus)
        self._refused = self._refused or limit
        return limit is not None

    @property
    def _shortage(self) -> str:
        return "InsufficientCapacity" if self._refused is None else self._refused.reason

    def _remedy(self, otherwise: str) -> str:
        return otherwise if self._refused is None else f"{self._refused.text} leaves no room for more"

    @property
    def _failed(self) -> bool:
        return any(finding.severity is Severity.ERROR for finding in self._findings)

    def _not_planned(self, *, short: bool) -> NotPlanned:
        return NotPlanned(self._deployment, tuple(self._findings), short, self._broken)

    def _error(self, reason: str, message: str, field: str) -> None:
        found = deployment_finding(self._deployment, reason, message, field)
        if found not in self._findings:
            self._findings.append(found)


def _load_hours(option: _Option) -> float:
    shapes = (ReplicaShape(option.model, option.precision, pool.gpu, Parallelism(1, 1), 1) for pool in option.pools)
    return max(map(load_seconds, shapes)) / 3600


def _pool(server: ChainServer) -> str:
    return server.pool


def _region(server: ChainServer) -> str:
    return server.region


def _anywhere(_: ChainServer) -> str:
    return ""


def _numbers(names: Sequence[str]) -> NDArray[np.int64]:
    """Equal names as equal numbers, in order of name."""
    order = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([order[name] for name in names], dtype=np.int64)


def _problem(
    model: ModelArchitecture,
    precision: Precision,
    servers: Sequence[Server],
    trips: NDArray[np.float64],
    task: _Task,
    at_once: int,
) -> ChainProblem:
    """Times for the mean lengths over all classes; caches for the longest 95th percentiles."""
    rates = [item.planned_rate_per_second for item in task.classes]
    mean_input = float(np.average([item.lengths.input_mean for item in task.classes], weights=rates))
    mean_output = float(np.average([item.lengths.output_mean for item in task.classes], weights=rates))
    expected = SessionShape(max(1, round(mean_input)), max(1, round(mean_output)), at_once)
    caches = chain_problem(model, precision, servers, trips, SessionShape(*task.longest, at_once))
    return replace(chain_problem(model, precision, servers, trips, expected), cache_bytes=caches.cache_bytes)


def _worst(problem: ChainProblem) -> ChainProblem:
    """For the worst of the regions, so that the targets hold for each."""
    return replace(
        problem,
        decode_trip_seconds=problem.decode_trip_seconds.max(axis=0, keepdims=True),
        prefill_trip_seconds=problem.prefill_trip_seconds.max(axis=0, keepdims=True),
    )


def _tightest(classes: Sequence[ResolvedClass]) -> LatencyTargets:
    """All classes share the chains: of each metric the target with the fewest seconds."""

    def least(targets: Iterable[LatencyTarget | None]) -> LatencyTarget | None:
        return min((one for one in targets if one is not None), key=lambda one: one.seconds, default=None)

    return LatencyTargets(
        ttft=least(item.planned_targets.ttft for item in classes),
        tpot=least(item.planned_targets.tpot for item in classes),
        end_to_end=least(item.planned_targets.end_to_end for item in classes),
    )
