"""One LLMDeployment in mode Chained: which servers hold which layers, and which chains they make.

A server is what one node has free in a pool, and belongs to one chain. Chains that run stay as long as they carry the
load and nothing saves enough. New ones are made of what is free beside all that runs, so that they can start before
others go; only the servers of a chain that lost a node for good count as free, since they serve nobody.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from plimsoll.api.inferenceslo import InferenceSLOSpec
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.placementpolicy import PlacementPolicy, PlacementPolicySpec
from plimsoll.catalog import ModelArchitecture, Precision
from plimsoll.chains import Chain, ChainProblem
from plimsoll.chains.routes import prefill_seconds
from plimsoll.chains.sets import ServerSet
from plimsoll.planning.chain_choice import ChainChoice, ChainOption, ChainTask
from plimsoll.planning.chain_limits import Room, RoomLimit
from plimsoll.planning.chain_options import obsolete, server_host
from plimsoll.planning.chain_servers import ChainServer, Sites
from plimsoll.planning.objectives import ResolvedClass, deployment_finding, observed_by_class, resolve_classes
from plimsoll.planning.plan import Finding, Rejected, Severity
from plimsoll.planning.pools import Pool, Pools
from plimsoll.planning.running_chains import Health, RunningChain, running_chains, shut_out
from plimsoll.planning.snapshot import ObjectRef, PodFacts, Snapshot
from plimsoll.planning.tenants import Tenants, clamped

PARTS = (1.0, 0.6, 0.3, 0.1, 0.03)
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
    rejected: tuple[Rejected, ...]
    """Other models, precisions and degrees of free servers."""
    findings: tuple[Finding, ...]
    start_cost_per_hour: float
    """Rent of the new servers until they serve, over the policy's horizon."""
    dearest_per_request: float
    """What a request costs with the dearest of the sets of servers that were looked at."""

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef("LLMDeployment", self.resource.namespace, self.resource.name)

    @property
    def pools_of_new(self) -> frozenset[str]:
        """Pools of the servers that do not run yet."""
        return frozenset(
            self.servers[server].pool
            for chain, running in zip(self.chosen.chains, self.kept, strict=True)
            if running is None
            for server in chain.route.servers
        )

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
    classes: tuple[ResolvedClass, ...] = ()
    """As far as they are known."""


def is_chained(deployment: LLMDeployment) -> bool:
    """Whether its model is to be split over servers."""
    return deployment.spec.placement.mode == "Chained"


def decide_chained(
    deployment: LLMDeployment,
    snapshot: Snapshot,
    pools: Pools,
    room: Room,
    tenants: Tenants,
    noted: Sequence[Finding] = (),
    *,
    spared: Collection[str] = (),
    yields: bool = False,
) -> ChainedPlan | NotPlanned:
    """The chains of one LLMDeployment, beside what else runs in the snapshot.

    Args:
        noted: what is known of it already.
        spared: pools of which it takes nothing new.
        yields: something in the snapshot does not run yet, and is to go first.
    """
    return _Planner(deployment, snapshot, pools, room, tenants, noted, spared, yields).decide()


class _Planner:
    def __init__(
        self,
        deployment: LLMDeployment,
        snapshot: Snapshot,
        pools: Pools,
        room: Room,
        tenants: Tenants,
        noted: Sequence[Finding],
        spared: Collection[str],
        yields: bool,
    ) -> None:
        self._deployment, self._snapshot, self._pools, self._room = deployment, snapshot, pools, room
        self._tenants, self._spared, self._yields = tenants, spared, yields or bool(spared)
        self._policy: PlacementPolicySpec = (snapshot.policy or PlacementPolicy.implied()).spec
        self._findings: list[Finding] = list(noted)
        self._refused: RoomLimit | None = None
        self._tried: dict[str, ChainOption] = {}
        self._classes: tuple[ResolvedClass, ...] = ()
        self._rests = ObjectRef("LLMDeployment", deployment.namespace, deployment.name) in snapshot.resting
        mine = (deployment.namespace, deployment.name)
        own = [item for item in snapshot.workloads if (item.namespace, item.deployment) == mine]
        others = {(item.namespace, item.name) for item in snapshot.workloads} - {
            (item.namespace, item.name) for item in own
        }
        resources = {name: pool.resource_name for name, pool in pools.usable.items()}
        closed = shut_out(own, snapshot.pods, snapshot.nodes, resources, others)
        self._running = running_chains(own, snapshot.nodes, closed)
        self._broken = tuple(chain.name for chain in self._running if chain.health is not Health.WHOLE)
        self._given_up = tuple(chain.name for chain in self._running if chain.health is Health.GONE)

    def decide(self) -> ChainedPlan | NotPlanned:
        slos: dict[tuple[str, str], InferenceSLOSpec | None] = {
            (slo.namespace, slo.name): slo.spec for slo in self._snapshot.slos
        }
        for item in self._snapshot.invalid:
            if item.ref.kind == "InferenceSLO":
                slos[item.ref.namespace, item.ref.name] = None
        classes, findings = resolve_classes(self._deployment, slos, self._policy, observed_by_class(self._snapshot))
        classes, cuts = clamped(self._deployment, classes, self._tenants)
        self._classes = classes
        self._findings += [*findings, *cuts]
        rate = sum(item.planned_rate_per_second for item in classes)
        if not rate > 0 and classes:
            self._error("NoTraffic", "spec.traffic: no class has requestsPerMinute above 0", "spec.traffic")
        sites = Sites(self._deployment, self._snapshot, self._pools, self._in_the_way(), self._error, self._spared)
        if self._failed:
            return self._not_planned(short=False)
        choice = ChainChoice(self._deployment, self._snapshot, self._pools, sites, classes, self._findings)
        task = choice.task
        best = None if self._failed else self._best(choice, self._kept(choice))
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
            rates_per_second=best.rates_per_second,
            max_model_length=choice.lengths[best.model.name],
            longest_tokens=sum(task.longest),
            planned_rate_per_second=rate,
            served=served,
            broken=self._broken,
            given_up=self._given_up,
            rejected=self._rejected(choice, best),
            findings=tuple(self._findings),
            start_cost_per_hour=self._start_cost(best),
            dearest_per_request=max(
                option.chosen.price_per_hour / (3600 * min(rate, option.chosen.rate_per_second))
                for option in (best, *self._tried.values())
            ),
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

    def _kept(self, choice: ChainChoice) -> list[RunningChain]:
        """Whole chains that are still what people ask for, of one model and precision: that of most of them."""
        known = choice.models
        usable = [
            chain
            for chain in self._running
            if chain.health is Health.WHOLE
            and chain.model in known
            and sum(chain.partition) == known[chain.model].layers
            and not obsolete(self._deployment, chain, self._pools)
            and chain.max_model_length >= min(choice.lengths.get(chain.model, 0), sum(choice.task.longest))
        ]
        kinds = [(chain.model, chain.precision) for chain in usable]
        most = max(sorted(set(kinds)), key=kinds.count, default=None)
        return [chain for chain, kind in zip(usable, kinds, strict=True) if kind == most]

    # --- What could run ----------------------------------------------------------------------------------------------

    def _best(self, choice: ChainChoice, kept: Sequence[RunningChain]) -> ChainOption | None:
        """What runs, with the least that carries the rate beside it, unless something else saves enough."""
        task, stay = choice.task, None
        if kept:
            stay = self._affordable(task, lambda part: choice.grown(kept, part))
            for chain in sorted(kept, key=self._rent, reverse=True):
                fewer = [one for one in kept if one is not chain]
                other = next(choice.grown(fewer, task.rate_per_second, alone=True), None) if fewer else None
                if stay is not None and other is not None and self._worth(task, stay, other):
                    stay, kept = other, fewer
        fresh = self._affordable(task, lambda part: self._noted(choice.fresh(part), task))
        if stay is None or fresh is None:
            return stay or fresh
        return fresh if self._worth(task, stay, fresh) else stay

    def _noted(self, options: Iterator[ChainOption], task: ChainTask) -> Iterator[ChainOption]:
        """The options; the best of each kind is remembered, to say why it was not taken."""
        for option in options:
            known = self._tried.get(option.label)
            if known is None or option.rank(task.rate_per_second) < known.rank(task.rate_per_second):
                self._tried[option.label] = option
            yield option

    def _worth(self, task: ChainTask, stay: ChainOption, other: ChainOption) -> bool:
        """Whether another answer serves more, or as much and cheaper by the least saving, the move included."""
        more = other.carried(task.rate_per_second) - stay.carried(task.rate_per_second)
        if abs(more) > _BETTER:
            return more > 0
        if self._rests:
            return False
        saved = stay.chosen.price_per_hour - other.chosen.price_per_hour - self._start_cost(other)
        return saved > float(self._policy.rebalance.minimal_saving) * stay.chosen.price_per_hour + 1e-9

    def _start_cost(self, option: ChainOption) -> float:
        return option.new_price_per_hour * option.load_hours / self._policy.rebalance.horizon_hours

    def _affordable(self, task: ChainTask, options: Callable[[float], Iterator[ChainOption]]) -> ChainOption | None:
        """The best option within budget and limits; where the whole rate is too dear, of a part of it."""
        for part in PARTS:
            found = [option for option in options(part * task.rate_per_second) if not self._refuses(option)]
            if found:
                return min(found, key=lambda option: option.rank(task.rate_per_second))
        return None

    def _rejected(self, choice: ChainChoice, best: ChainOption) -> tuple[Rejected, ...]:
        """What was tried of free servers and not taken, the best of each kind."""
        rate = choice.task.rate_per_second
        taken = f"{best.carried(rate) * rate * 60:.1f} at {best.chosen.price_per_hour:.2f}"
        found = []
        for kind, servers in sorted(choice.kinds.items()):
            option = self._tried.get(kind)
            reason = f"{servers} free servers make no chain that holds the model and meets the targets"
            if option is not None:
                reason = (
                    f"chains of free servers carry {option.carried(rate) * rate * 60:.1f} of {rate * 60:.1f} planned "
                    f"requests per minute at {option.chosen.price_per_hour:.2f} per hour, those planned {taken}"
                )
            if option is not best:
                found.append(Rejected(kind, reason))
        return tuple(found)

    # --- Parts -------------------------------------------------------------------------------------------------------

    def _rent(self, chain: RunningChain) -> float:
        return sum(
            float(self._pools.usable[item.option["pool"]].price_per_gpu_hour) * int(item.option["tensor"])
            for item in chain.servers
        )

    def _too_little(self, sites: Sites) -> str:
        remedy = self._remedy("add nodes, allow a smaller precision, or relax the InferenceSLO")
        return (
            f"no chain over the {sites.nodes} free nodes ({sites.gpus} GPUs) holds the model and meets the targets: "
            f"{remedy}"
        )

    def _refuses(self, option: ChainOption) -> bool:
        limit = self._room.short_of(option.new_price_per_hour, option.new_gpus)
        self._refused = self._refused or limit
        return limit is not None

    @property
    def _shortage(self) -> str:
        return "InsufficientCapacity" if self._refused is None else self._refused.reason

    def _remedy(self, otherwise: str) -> str:
        if self._refused is not None:
            return f"{self._refused.text} leaves no room for more"
        return f"other LLMDeployments go first; {otherwise}" if self._yields else otherwise

    @property
    def _failed(self) -> bool:
        return any(finding.severity is Severity.ERROR for finding in self._findings)

    def _not_planned(self, *, short: bool) -> NotPlanned:
        return NotPlanned(self._deployment, tuple(self._findings), short, self._broken, self._classes)

    def _error(self, reason: str, message: str, field: str) -> None:
        found = deployment_finding(self._deployment, reason, message, field)
        if found not in self._findings:
            self._findings.append(found)
