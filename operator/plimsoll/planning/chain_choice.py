"""What chains of one LLMDeployment could be: candidate sets of servers for each model, precision and degree."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.placementpolicy import PlacementPolicy, PlacementPolicySpec
from plimsoll.catalog import ModelArchitecture, Precision, UnknownName
from plimsoll.catalog.precisions import unsupported_reason
from plimsoll.chains import Chain, ChainProblem, Route, session_seconds
from plimsoll.chains.hardware import Server, SessionShape, chain_problem
from plimsoll.chains.pipelines import chain_rate, pipeline_set, seen_from
from plimsoll.chains.sets import ServerSet
from plimsoll.performance import LatencyTarget, LatencyTargets, Parallelism, ReplicaShape, load_seconds
from plimsoll.performance.shapes import parallelism_problem
from plimsoll.planning.chain_options import checkpoint_of, server_host
from plimsoll.planning.chain_servers import ChainServer, Sites, known_distances, origins, round_trips
from plimsoll.planning.chain_turns import AT_ONCE as AT_ONCE_IN_TURNS
from plimsoll.planning.chain_turns import taking_turns
from plimsoll.planning.facts import catalog_of
from plimsoll.planning.images import engine_image
from plimsoll.planning.objectives import ResolvedClass, deployment_finding
from plimsoll.planning.plan import Finding, Severity
from plimsoll.planning.pools import Pool, Pools
from plimsoll.planning.running_chains import RunningChain
from plimsoll.planning.snapshot import Snapshot
from plimsoll.planning.speeds import speeds
from plimsoll.planning.variants import max_model_length

AT_ONCE = (2, 8, 32)
"""Sessions that a chain decodes in one step: what is tried."""


@dataclass(frozen=True, slots=True, eq=False)
class ChainOption:
    """Some chains, and what they are made of."""

    model: ModelArchitecture
    precision: Precision
    at_once: int
    servers: tuple[ChainServer, ...]
    """(S): used or not."""
    pools: tuple[Pool, ...]
    """(S)"""
    problem: ChainProblem
    """With a client for each region that requests come from."""
    chosen: ServerSet
    kept: tuple[RunningChain | None, ...]
    """What each chain is that runs already; None for a new one."""
    rates_per_second: tuple[float, ...]
    """What each chain carries within the targets."""

    def carried(self, rate: float) -> float:
        """The part of a rate that they carry, at most 1."""
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

    def rank(self, rate: float) -> tuple[float, float, float]:
        """The smallest is the best: most of the rate, then the price, then the response."""
        return -round(self.carried(rate), 9), self.chosen.price_per_hour, self.chosen.mean_response_seconds

    @property
    def label(self) -> str:
        """For people."""
        tensor = max(server.tensor for server in self.servers)
        return kind_label(self.model, self.precision, tensor)

    @property
    def load_hours(self) -> float:
        """Until a new chain serves."""
        shapes = (ReplicaShape(self.model, self.precision, pool.gpu, Parallelism(1, 1), 1) for pool in self.pools)
        return max(map(load_seconds, shapes)) / 3600


@dataclass(frozen=True, slots=True)
class ChainTask:
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


def kind_label(model: ModelArchitecture, precision: Precision, tensor: int) -> str:
    """Chains of one kind, for people."""
    gpus = f"{tensor} GPU" if tensor == 1 else f"{tensor} GPUs"
    return f"{model.name.rsplit('/', 1)[-1]} {precision.name}, {gpus} per server"


class ChainChoice:
    """Candidates of one LLMDeployment. What is wrong with its inputs goes to `findings`."""

    def __init__(
        self,
        deployment: LLMDeployment,
        snapshot: Snapshot,
        pools: Pools,
        sites: Sites,
        classes: Sequence[ResolvedClass],
        findings: list[Finding],
    ) -> None:
        self._deployment, self._pools, self._sites, self._findings = deployment, pools, sites, findings
        self._policy: PlacementPolicySpec = (snapshot.policy or PlacementPolicy.implied()).spec
        self._catalog = catalog_of(snapshot)
        self._speeds, _ = speeds(snapshot.profiles, snapshot.corrections, self._catalog)
        self._distances = known_distances(self._policy, snapshot.round_trips)
        rate = sum(item.planned_rate_per_second for item in classes)
        self.task = ChainTask(tuple(classes), rate, *origins(deployment, sites.nearest()))
        self._petals = deployment.spec.engine.type == "petals"
        self._at_once = AT_ONCE_IN_TURNS if self._petals else AT_ONCE
        self.kinds: dict[str, int] = {}
        """Free servers that could be of a kind of chain, by its label."""
        self.models = {model.name: model for model in self._models()}
        self.lengths = {
            name: length
            for name, model in self.models.items()
            if (length := max_model_length(deployment, model, classes, findings)) is not None
        }
        tensor = min(sites.degrees(), default=0)
        if tensor:
            # Distances that are missing are asked for whether or not what is planned needs them.
            round_trips(self._distances, self.task.regions, sites.free(tensor, server_host(tensor)), self._error)

    def fresh(self, rate: float) -> Iterator[ChainOption]:
        """Chains of free servers only."""
        for model in self.models.values():
            if model.name not in self.lengths:
                continue
            for precision in self._precisions(model):
                for tensor in self._sites.degrees():
                    servers = self._able(model, precision, self._sites.free(tensor, server_host(tensor)))
                    self.kinds[kind_label(model, precision, tensor)] = len(servers)
                    for at_once in self._at_once if servers else ():
                        yield from self._sets(model, precision, at_once, servers, (), rate)

    def grown(self, kept: Sequence[RunningChain], rate: float, *, alone: bool = False) -> Iterator[ChainOption]:
        """These running chains and, unless `alone`, such as are needed beside them."""
        model = self._catalog.model(kept[0].model)
        precision = self._catalog.precision(kept[0].precision)
        if model.name not in self.lengths:
            return
        most = max(chain.places for chain in kept)
        at_once = min((one for one in self._at_once if one >= most), default=most)
        running = [
            self._sites.server(item.option["node"], self._pools.usable[item.option["pool"]], int(item.option["tensor"]))
            for chain in kept
            for item in chain.servers
        ]
        for tensor in [0] if alone else self._sites.degrees() or [0]:
            free = self._able(model, precision, self._sites.free(tensor, server_host(tensor))) if tensor else []
            yield from self._sets(model, precision, at_once, (*running, *free), kept, rate)

    def _sets(
        self,
        model: ModelArchitecture,
        precision: Precision,
        at_once: int,
        servers: Sequence[ChainServer],
        kept: Sequence[RunningChain],
        rate: float,
    ) -> Iterator[ChainOption]:
        approach = round_trips(self._distances, self.task.regions, servers, self._error)
        if self._failed or not servers:
            return
        pools = [self._pools.usable[server.pool] for server in servers]
        hardware = [
            self._hardware(model, precision, pool, server.tensor) for server, pool in zip(servers, pools, strict=True)
        ]
        places = sorted({server.region for server in servers})
        entry = _numbers([server.region for server in servers])
        trips = round_trips(self._distances, places, servers)
        if self._petals:
            problem = taking_turns(_problem(model, precision, hardware, trips, self.task, 1), trips, at_once)
        else:
            problem = _problem(model, precision, hardware, trips, self.task, at_once)
        # Planned for the farthest of the regions, so that the targets hold for each.
        farthest = np.array([approach[:, entry == place].max() for place in range(len(places))])
        chains = [chain for chain in self._as_planned(problem, entry, kept) if chain is not None]
        if len(chains) < len(kept):
            return
        given = self._deployment.spec.engine.max_model_length
        found = pipeline_set(
            problem,
            [_numbers([name(server) for server in servers]) for name in (_pool, _region, _anywhere)],
            np.array([server.price_per_hour for server in servers]),
            self.task.targets,
            rate,
            entry=entry,
            approach_seconds=farthest,
            kept=chains,
            least_places=1 if given is None else max(1, math.ceil(given / sum(self.task.longest))),
        )
        if found is None:
            return
        of = {chain.route: known for chain, known in zip(chains, kept, strict=True)}
        firsts = [entry[chain.route.servers[0]] for chain in found.chains]
        yield ChainOption(
            model=model,
            precision=precision,
            at_once=at_once,
            servers=tuple(servers),
            pools=tuple(pools),
            problem=_as_used(problem, found.chains, entry, approach),
            chosen=found,
            kept=tuple(of.get(chain.route) for chain in found.chains),
            rates_per_second=tuple(
                chain_rate(seen_from(problem, first, float(farthest[first])), chain, self.task.targets)
                for chain, first in zip(found.chains, firsts, strict=True)
            ),
        )

    def _hardware(self, model: ModelArchitecture, precision: Precision, pool: Pool, tensor: int) -> Server:
        """GPUs of a pool, with what is known of their speed for the model."""
        shape = self._speeds.of(ReplicaShape(model, precision, pool.gpu, Parallelism(tensor, 1), 1))
        return Server(pool.gpu, pool.network.bytes_per_second, tensor, shape.coefficients, shape.correction)

    def _as_planned(
        self, problem: ChainProblem, entry: NDArray[np.int64], kept: Sequence[RunningChain]
    ) -> Iterator[Chain | None]:
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
            seconds = session_seconds(problem, route, int(entry[servers[0]]))
            yield Chain(route, places, seconds) if places > 0 else None

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
            if checkpoint_of(self._deployment, model, declared) is None:
                field = f"spec.models[{index}].precisions[{number}].checkpoint"
                message = (
                    f"{field}: {declared.name} needs a quantised checkpoint and the catalog knows none for "
                    f"{model.name}; left out until one is named"
                )
                self._note("CheckpointMissing", message, field, Severity.WARNING)
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
                and engine_image(self._deployment.spec.engine, gpu.vendor) is not None
            )

        return [server for server in servers if able(server)]

    @property
    def _failed(self) -> bool:
        return any(finding.severity is Severity.ERROR for finding in self._findings)

    def _error(self, reason: str, message: str, field: str) -> None:
        self._note(reason, message, field, Severity.ERROR)

    def _note(self, reason: str, message: str, field: str, severity: Severity) -> None:
        found = deployment_finding(self._deployment, reason, message, field, severity)
        if found not in self._findings:
            self._findings.append(found)


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
    task: ChainTask,
    at_once: int,
) -> ChainProblem:
    """Times for the mean lengths over all classes; caches for the longest 95th percentiles."""
    rates = [item.planned_rate_per_second for item in task.classes]
    mean_input = float(np.average([item.lengths.input_mean for item in task.classes], weights=rates))
    mean_output = float(np.average([item.lengths.output_mean for item in task.classes], weights=rates))
    expected = SessionShape(max(1, round(mean_input)), max(1, round(mean_output)), at_once)
    caches = chain_problem(model, precision, servers, trips, SessionShape(*task.longest, at_once))
    return replace(chain_problem(model, precision, servers, trips, expected), cache_bytes=caches.cache_bytes)


def _as_used(
    problem: ChainProblem, chains: Sequence[Chain], entry: NDArray[np.int64], approach: NDArray[np.float64]
) -> ChainProblem:
    """The problem with a client for each region that requests come from. Each server is in one chain at most, so its
    trips are those from the chain's first server; to that one prompts come from the region.

    Args:
        entry: (S) clients of the given problem.
        approach: (C, S) seconds from the regions.
    """
    rows = entry.copy()
    firsts = [chain.route.servers[0] for chain in chains]
    for chain, first in zip(chains, firsts, strict=True):
        rows[list(chain.route.servers)] = entry[first]
    columns = np.arange(problem.servers)
    shape = (len(approach), problem.servers)
    prefill = np.broadcast_to(problem.prefill_trip_seconds[rows, columns], shape).copy()
    prefill[:, firsts] += approach[:, firsts]
    decode = np.broadcast_to(problem.decode_trip_seconds[rows, columns], shape).copy()
    return replace(problem, decode_trip_seconds=decode, prefill_trip_seconds=prefill)


def _tightest(classes: Sequence[ResolvedClass]) -> LatencyTargets:
    """All classes share the chains: of each metric the target with the fewest seconds."""

    def least(targets: Iterable[LatencyTarget | None]) -> LatencyTarget | None:
        return min((one for one in targets if one is not None), key=lambda one: one.seconds, default=None)

    return LatencyTargets(
        ttft=least(item.planned_targets.ttft for item in classes),
        tpot=least(item.planned_targets.tpot for item in classes),
        end_to_end=least(item.planned_targets.end_to_end for item in classes),
    )
