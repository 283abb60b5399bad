"""LLMDeployments in mode Chained: which servers hold which layers, and through which chains requests go.

They are decided about one after the other, before the rest of the fleet, which then has the nodes that they leave. A
server is what one node has free in a pool.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from plimsoll.api.inferenceslo import InferenceSLOSpec
from plimsoll.api.llmdeployment import CandidateModel, LLMDeployment
from plimsoll.api.placementpolicy import PlacementPolicy, PlacementPolicySpec
from plimsoll.catalog import Catalog, ModelArchitecture, Precision, UnknownName, load_catalog
from plimsoll.catalog.precisions import unsupported_reason
from plimsoll.chains import Chain, ChainProblem
from plimsoll.chains.hardware import Server, SessionShape, chain_problem
from plimsoll.chains.routes import prefill_seconds
from plimsoll.chains.sets import ServerSet, server_sets
from plimsoll.performance import LatencyTarget, LatencyTargets
from plimsoll.planning.facts import catalog_of
from plimsoll.planning.objectives import ResolvedClass, deployment_finding, resolve_classes
from plimsoll.planning.plan import Finding, Severity
from plimsoll.planning.pools import REGION_LABEL, Pool, resolve_pools
from plimsoll.planning.snapshot import ObjectRef, Snapshot
from plimsoll.planning.stock import NodeStock, measure_stock

WITHIN_REGION_SECONDS = 0.001
"""Round trip."""
AT_ONCE = (2, 8, 32)
"""Sessions that a server decodes in one step: what is tried."""
PARTS = (1.0, 0.6, 0.3)
"""Of the rate, where the whole of it cannot be carried."""
HERE = "here"
"""Stands for a region that nobody named."""
REASON = "ChainedOnlyOffline"


@dataclass(frozen=True, slots=True)
class ChainServer:
    """A node's free GPUs in a pool."""

    node: str
    pool: str
    accelerator: str
    region: str
    tensor: int
    price_per_hour: float


@dataclass(frozen=True, slots=True, eq=False)
class ChainedPlan:
    """The decision for one LLMDeployment."""

    resource: LLMDeployment
    classes: tuple[ResolvedClass, ...]
    model: str
    precision: str
    at_once: int
    servers: tuple[ChainServer, ...]
    """(S): all that were free, used or not."""
    regions: tuple[str, ...]
    """(C): where requests come from."""
    region_shares: Mapping[str, tuple[float, ...]]
    """By class, (C)."""
    problem: ChainProblem
    """With a client for each region, the expected lengths, and caches for the longest."""
    chosen: ServerSet
    served: float
    """Part of the planned rate that the chains carry within the targets, at most 1."""
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
class ChainedFleet:
    """What was decided about all chained LLMDeployments, and what is left for the others."""

    plans: tuple[ChainedPlan, ...]
    failed: tuple[Finding, ...]
    """Of those without a plan."""
    rest: Snapshot
    """Without chained LLMDeployments and the nodes that they use."""


def is_chained(deployment: LLMDeployment) -> bool:
    """Whether its model is to be split over servers."""
    return deployment.spec.placement.mode == "Chained"


def chained_findings(deployment: LLMDeployment) -> list[Finding]:
    """What keeps it from being planned for a cluster."""
    if not is_chained(deployment):
        return []
    message = (
        "spec.placement.mode: Chained is planned by `plimsoll plan -f` and simulated by `plimsoll simulate -f`; in a "
        "cluster Replicated is accepted"
    )
    return [deployment_finding(deployment, REASON, message, "spec.placement.mode")]


def plan_chained(snapshot: Snapshot) -> ChainedFleet:
    """Decide about the chained LLMDeployments of a snapshot, by name."""
    plans: list[ChainedPlan] = []
    failed: list[Finding] = []
    rest = replace(snapshot, deployments=tuple(one for one in snapshot.deployments if not is_chained(one)))
    for deployment in snapshot.deployments:
        if not is_chained(deployment):
            continue
        found = _Planner(deployment, rest).plan()
        if isinstance(found, ChainedPlan):
            plans.append(found)
            used = {found.servers[server].node for server in found.chosen.servers}
            if rest.nodes is not None:
                rest = replace(rest, nodes=tuple(node for node in rest.nodes if node.name not in used))
        else:
            failed.extend(found)
    return ChainedFleet(tuple(plans), tuple(failed), rest)


@dataclass(frozen=True, slots=True, eq=False)
class _Option:
    model: str
    precision: str
    at_once: int
    problem: ChainProblem
    chosen: ServerSet
    rate_per_second: float


class _Planner:
    def __init__(self, deployment: LLMDeployment, snapshot: Snapshot) -> None:
        self._deployment, self._snapshot = deployment, snapshot
        self._policy: PlacementPolicySpec = (snapshot.policy or PlacementPolicy.implied()).spec
        self._catalog: Catalog = catalog_of(snapshot)
        self._findings: list[Finding] = []

    def plan(self) -> ChainedPlan | list[Finding]:
        """The plan, or why there is none."""
        slos: dict[tuple[str, str], InferenceSLOSpec | None] = {
            (slo.namespace, slo.name): slo.spec for slo in self._snapshot.slos
        }
        for item in self._snapshot.invalid:
            if item.ref.kind == "InferenceSLO":
                slos[item.ref.namespace, item.ref.name] = None
            elif item.ref.kind == "PlacementPolicy":
                self._error("PolicyInvalid", "PlacementPolicy default is invalid; nothing is planned", "")
        classes, findings = resolve_classes(self._deployment, slos, self._policy)
        self._findings += findings
        servers = self._servers()
        regions, shares = self._origins(servers)
        trips = self._round_trips(regions, servers)
        rate = sum(item.planned_rate_per_second for item in classes)
        if not rate > 0 and classes:
            self._error("NoTraffic", "spec.traffic: no class has requestsPerMinute above 0", "spec.traffic")
        if any(finding.severity is Severity.ERROR for finding in self._findings):
            return self._findings
        options: list[_Option] = []
        for part in PARTS:
            options = [
                option
                for candidate in self._deployment.spec.models
                for option in self._options(candidate, servers, trips, classes, part * rate)
            ]
            if options or any(finding.severity is Severity.ERROR for finding in self._findings):
                break
        if not options:
            if not any(finding.severity is Severity.ERROR for finding in self._findings):
                self._error("InsufficientCapacity", self._too_little(servers), "spec.placement")
            return self._findings
        best = min(
            options,
            key=lambda option: (
                -min(option.rate_per_second, rate),
                option.chosen.price_per_hour,
                option.chosen.mean_response_seconds,
            ),
        )
        served = min(1.0, best.chosen.rate_per_second / rate)
        if served < 1.0:
            message = (
                f"the servers carry {best.chosen.rate_per_second * 60:.1f} of {rate * 60:.1f} planned requests per "
                "minute within the targets: add nodes, or relax the InferenceSLO"
            )
            self._error("InsufficientCapacity", message, "spec.traffic")
        return ChainedPlan(
            resource=self._deployment,
            classes=classes,
            model=best.model,
            precision=best.precision,
            at_once=best.at_once,
            servers=tuple(server for server, _ in servers),
            regions=regions,
            region_shares=shares,
            problem=best.problem,
            chosen=best.chosen,
            served=served,
            findings=tuple(self._findings),
        )

    def _too_little(self, servers: Sequence[tuple[ChainServer, Pool]]) -> str:
        gpus = sum(server.tensor for server, _ in servers)
        return (
            f"no chain over the {len(servers)} free nodes ({gpus} GPUs) holds the model and meets the targets: add "
            "nodes, allow a smaller precision, or relax the InferenceSLO"
        )

    def _servers(self) -> list[tuple[ChainServer, Pool]]:
        pools = resolve_pools(self._snapshot.pools, self._snapshot.nodes, load_catalog())
        wanted = self._deployment.spec.placement.pools
        for index, name in enumerate(wanted or ()):
            if name not in pools.usable:
                there = ", ".join(sorted(pools.usable)) or "none"
                field = f"spec.placement.pools[{index}]"
                self._error("PoolNotFound", f"{field}: no usable GPUNodePool {name}; there are: {there}", field)
        usable = [pools.usable[name] for name in sorted(pools.usable) if wanted is None or name in wanted]
        for pool in usable:
            if pool.unlimited:
                message = (
                    f"the nodes of GPUNodePool {pool.name} are not known: give --nodes or Node manifests, or declare "
                    "spec.nodes.max and spec.gpusPerNode"
                )
                self._error("NodesUnknown", message, "spec.placement.pools")
        stock = measure_stock(usable, self._snapshot.pods, self._snapshot.workloads, {})
        by_name = {pool.name: pool for pool in usable}
        regions = self._regions(usable)
        tensor = self._deployment.spec.placement.parallelism.tensor
        found = []
        for node in stock.nodes:
            pool = by_name[node.pool]
            gpus = max((one for one in tensor if one <= _most_tensor(node, pool)), default=0)
            if gpus:
                price = float(pool.price_per_gpu_hour) * gpus
                region = regions.get(node.name) or regions.get(pool.name) or HERE
                found.append((ChainServer(node.name, pool.name, pool.gpu.name, region, gpus, price), pool))
        return found

    def _regions(self, usable: Iterable[Pool]) -> dict[str, str]:
        """Of pools and nodes, by name: what a pool declares, else the label of the node."""
        declared = {
            pool.name: pool.spec.location.region
            for pool in self._snapshot.pools
            if pool.spec.location is not None and pool.spec.location.region
        }
        found: dict[str, str] = {name: region for name, region in declared.items() if region}
        for pool in usable:
            for node in pool.nodes:
                region = found.get(pool.name) or node.labels.get(REGION_LABEL)
                if region:
                    found[node.name] = region
        return found

    def _origins(
        self, servers: Sequence[tuple[ChainServer, Pool]]
    ) -> tuple[tuple[str, ...], dict[str, tuple[float, ...]]]:
        """Regions of all classes, and the parts of each class that come from them."""
        nearest = servers[0][0].region if servers else HERE
        weights: dict[str, dict[str, float]] = {}
        for traffic in self._deployment.spec.traffic:
            own = {origin.region: float(origin.share) for origin in traffic.origins if origin.share > 0}
            weights[traffic.name] = own or {nearest: 1.0}
        regions = tuple(sorted({region for own in weights.values() for region in own}))
        return regions, {
            name: tuple(own.get(region, 0.0) / sum(own.values()) for region in regions) for name, own in weights.items()
        }

    def _round_trips(self, regions: Sequence[str], servers: Sequence[tuple[ChainServer, Pool]]) -> NDArray[np.float64]:
        """(C, S) seconds."""
        known = {
            frozenset((entry.region, entry.peer)): entry.milliseconds / 1000
            for entry in self._policy.network.round_trip_milliseconds
        }
        trips = np.full((len(regions), len(servers)), WITHIN_REGION_SECONDS)
        missing: set[tuple[str, str]] = set()
        for row, origin in enumerate(regions):
            for column, (server, _) in enumerate(servers):
                if server.region == origin:
                    continue
                trip = known.get(frozenset((origin, server.region)))
                if trip is None:
                    missing.add((origin, server.region))
                else:
                    trips[row, column] = trip
        for origin, region in sorted(missing):
            message = (
                f"the round trip between the regions {origin} and {region} is not known: "
                "spec.network.roundTripMilliseconds of PlacementPolicy default"
            )
            self._error("RoundTripUnknown", message, "spec.traffic")
        return trips

    def _options(
        self,
        candidate: CandidateModel,
        servers: Sequence[tuple[ChainServer, Pool]],
        trips: NDArray[np.float64],
        classes: Sequence[ResolvedClass],
        rate: float,
    ) -> Iterable[_Option]:
        try:
            model = self._catalog.model(candidate.name)
        except UnknownName as error:
            self._error("UnknownModel", f"spec.models: {error}", "spec.models")
            return
        for declared in candidate.precisions:
            precision = self._catalog.precision(declared.name)
            known = declared.checkpoint or model.checkpoints.get(declared.name)
            if precision.needs_checkpoint and known is None:
                message = f"spec.models: {model.name} at {declared.name} needs a checkpoint: name one in precisions"
                missing = deployment_finding(
                    self._deployment, "CheckpointMissing", message, "spec.models", Severity.WARNING
                )
                if missing not in self._findings:
                    self._findings.append(missing)
                continue
            able = [
                number for number, (_, pool) in enumerate(servers) if unsupported_reason(precision, pool.gpu) is None
            ]
            if able:
                yield from self._at_once(model, precision, servers, able, trips, classes, rate)

    def _at_once(
        self,
        model: ModelArchitecture,
        precision: Precision,
        servers: Sequence[tuple[ChainServer, Pool]],
        able: Sequence[int],
        trips: NDArray[np.float64],
        classes: Sequence[ResolvedClass],
        rate: float,
    ) -> Iterable[_Option]:
        hardware = [Server(pool.gpu, pool.network.bytes_per_second, server.tensor) for server, pool in servers]
        usable = np.zeros(len(servers), dtype=bool)
        usable[list(able)] = True
        pools = {name: number for number, name in enumerate(sorted({server.pool for server, _ in servers}))}
        numbers = np.array([pools[server.pool] for server, _ in servers])
        prices = np.array([server.price_per_hour for server, _ in servers])
        targets = _tightest(classes)
        for at_once in AT_ONCE:
            problem = _problem(model, precision, hardware, trips, classes, at_once)
            problem = replace(problem, memory_bytes=np.where(usable, problem.memory_bytes, 0.0))
            # Planned for the worst of the regions, so that the targets hold for each.
            worst = replace(
                problem,
                decode_trip_seconds=problem.decode_trip_seconds.max(axis=0, keepdims=True),
                prefill_trip_seconds=problem.prefill_trip_seconds.max(axis=0, keepdims=True),
            )
            for one in server_sets(worst, numbers, prices, targets, [rate]):
                yield _Option(model.name, precision.name, at_once, problem, one, one.rate_per_second)

    def _error(self, reason: str, message: str, field: str) -> None:
        self._findings.append(deployment_finding(self._deployment, reason, message, field))


def _most_tensor(node: NodeStock, pool: Pool) -> int:
    return int(min(node.free[0], pool.gpu.interconnect.max_tensor_parallel))


def _problem(
    model: ModelArchitecture,
    precision: Precision,
    servers: Sequence[Server],
    trips: NDArray[np.float64],
    classes: Sequence[ResolvedClass],
    at_once: int,
) -> ChainProblem:
    """Times for the mean lengths over all classes; caches for the longest 95th percentiles."""
    rates = [item.planned_rate_per_second for item in classes]
    mean_input = float(np.average([item.lengths.input_mean for item in classes], weights=rates))
    mean_output = float(np.average([item.lengths.output_mean for item in classes], weights=rates))
    expected = SessionShape(max(1, round(mean_input)), max(1, round(mean_output)), at_once)
    longest = SessionShape(
        math.ceil(max(item.lengths.input_p95 for item in classes)),
        math.ceil(max(item.lengths.output_p95 for item in classes)),
        at_once,
    )
    caches = chain_problem(model, precision, servers, trips, longest)
    return replace(chain_problem(model, precision, servers, trips, expected), cache_bytes=caches.cache_bytes)


def _tightest(classes: Sequence[ResolvedClass]) -> LatencyTargets:
    """All classes share the chains: of each metric the target with the fewest seconds."""

    def least(targets: Iterable[LatencyTarget | None]) -> LatencyTarget | None:
        return min((one for one in targets if one is not None), key=lambda one: one.seconds, default=None)

    return LatencyTargets(
        ttft=least(item.planned_targets.ttft for item in classes),
        tpot=least(item.planned_targets.tpot for item in classes),
        end_to_end=least(item.planned_targets.end_to_end for item in classes),
    )
