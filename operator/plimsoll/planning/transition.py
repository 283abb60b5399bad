"""From the running state to a plan without breaking what serves: which replicas now, which routing now, what may go.

Level-triggered and stateless: each turn looks at the cluster as it is and returns the step that is safe now. New pods
come first; when all planned replicas are Ready the routing changes, in increments; when routers have had time to see
it, old pods go. Where that cannot be had all at once, `stages.py` says what to bring about first.

Routing names placements with a Ready pod only, with two exceptions: a document is never published empty, and when more
than half of its backends stop being Ready the last one stays for a minute. Such a loss is more often a fault of what
reports readiness than of that many engines, and routers have their own health checks. A backend whose workload is gone
leaves at once, whatever is lost with it: its Service goes, too, and nothing will answer there again.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from plimsoll.planning.plan import DeploymentPlan, DeploymentState, Placement
from plimsoll.planning.snapshot import Workload

WEIGHTS = 1000
"""Sum of the weights of a class's backends."""
STEADY_SECONDS = 60.0
"""As long the last document stays when more than half of its backends are not Ready any more."""
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Backend:
    """A placement that requests of a class are sent to."""

    placement: str
    served_model: str
    weight: int
    """1..1000; the weights of a class sum to 1000."""
    max_concurrency: int
    """Requests that all Ready replicas can run at once."""


@dataclass(frozen=True, slots=True)
class RoutedClass:
    """Routing of one traffic class."""

    name: str
    match_headers: tuple[tuple[str, str], ...]
    """Empty for the default class."""
    admitted_requests_per_minute: int
    unserved: str
    """Decimal string, 0..1."""
    backends: tuple[Backend, ...]


@dataclass(frozen=True, slots=True)
class RoutedServer:
    """A server of a chain."""

    placement: str
    node: str
    region: str
    first_layer: int
    layers: int


@dataclass(frozen=True, slots=True)
class RoutedChain:
    """A chain that requests are sent to, as the backend of the same name."""

    name: str
    servers: tuple[RoutedServer, ...]
    weight: int
    """1..1000; those of all chains sum to 1000."""
    max_concurrency: int
    requests_per_minute: int
    """Within the objectives."""
    ttft_milliseconds: int
    """Without waiting."""
    tpot_milliseconds: int


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """What routers of one LLMDeployment should do. `epoch` grows only when the content changes."""

    epoch: int
    classes: tuple[RoutedClass, ...]
    chains: tuple[RoutedChain, ...] = ()


@dataclass(frozen=True, slots=True)
class ObservedRouting:
    """The routing that the cluster has now."""

    table: RoutingTable
    age_seconds: float
    """Since it was last changed."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is safe to do now for one LLMDeployment."""

    replicas: Mapping[str, int]
    """Planned placement name -> replicas to ask for now (shrinking waits)."""
    routing: RoutingTable | None
    """None while there is nothing Ready to route to and nothing was routed before: no document is published empty."""
    prune: tuple[str, ...]
    """Names of workloads that the plan does not want and that no router uses any more."""
    waiting_for: tuple[str, ...]
    """Sentences that say what the transition waits for; empty when it is complete."""
    unready: tuple[str, ...] = ()
    """Backends that stay in the routing although none of their pods is Ready."""
    complete: bool = False
    """Everything planned is Ready."""
    settled: bool = False
    """And routers have had time to see the routing that goes with it."""


def step_for(
    plan: DeploymentPlan,
    workloads: Sequence[Workload],
    observed: ObservedRouting | None,
    propagation_seconds: float,
    *,
    guarded: bool = False,
    unready_seconds: float = STEADY_SECONDS,
    first_epoch: int = 1,
    max_shift: float = 1.0,
    failed: AbstractSet[str] = frozenset(),
) -> Step:
    """The step that is safe now. `workloads` are the running placements of this deployment, planned or not.

    A HELD deployment gets an empty step. A SHORT one grows and loses nothing.

    Args:
        guarded: nothing may be taken away, whatever the plan says.
        unready_seconds: for how long routing has named backends that are not Ready; 0 when it began just now.
        first_epoch: of a document where there is none. Readers ignore smaller epochs than they have seen.
        max_shift: part of a class's requests that one change of routing takes from what is given up, above 0.
        failed: placements with replicas that did not become Ready in their time. These serve nobody: they go at once.
    """
    if plan.state is DeploymentState.HELD:
        return Step({}, None, (), ())
    running = {workload.name: workload for workload in workloads}
    planned = {placement.name: placement for placement in plan.placements}
    waiting = [
        f"{name}: {running[name].ready_replicas if name in running else 0} of {placement.replicas} replicas are Ready"
        for name, placement in sorted(planned.items())
        if name not in running or running[name].ready_replicas < placement.replicas
    ]
    complete = not waiting
    may_lose = plan.state is DeploymentState.PLANNED and not guarded
    shift = _Shift(max_shift, observed is None or observed.age_seconds >= propagation_seconds)
    table = _table(plan, running, observed, shift, may_lose=may_lose, complete=complete, guarded=guarded)
    if observed is None and table is not None:
        table = replace(table, epoch=first_epoch)
    if observed is not None and table is not None and unready_seconds < STEADY_SECONDS:
        table = _steadied(table, observed.table, running)
    seen = observed is not None and observed.table == table and observed.age_seconds >= propagation_seconds
    settled = complete and (seen or not planned)
    obsolete = tuple(sorted(name for name in running if name not in planned))
    surplus = any(name in running and running[name].replicas > item.replicas for name, item in planned.items())
    if complete and not settled and (obsolete or surplus):
        waiting.append("routers have not had time to see the new routing")
    unready = tuple(sorted(name for name in backends_of(table) if name not in running or not _ready(running[name])))
    may_shrink = settled and may_lose and not (unready and planned)
    replicas = {
        name: placement.replicas
        if may_shrink or name not in running
        else max(placement.replicas, _kept_replicas(running[name], name in failed))
        for name, placement in sorted(planned.items())
    }
    gone = tuple(name for name in obsolete if may_shrink or (name in failed and not _ready(running[name])))
    return Step(replicas, table, gone, tuple(waiting), unready, complete, settled)


def _kept_replicas(workload: Workload, failed: bool) -> int:
    """Replicas that stay as long as nothing may be taken away. Of those that are Ready none goes."""
    return min(workload.ready_replicas, workload.replicas) if failed else workload.replicas


@dataclass(frozen=True, slots=True)
class _Shift:
    """How much of a class may move now."""

    most: float
    """Part of its requests that one change of routing takes from what is given up."""
    seen: bool
    """Routers have had time to see the last change."""


def backends_of(table: RoutingTable | None) -> frozenset[str]:
    """Names of the placements that requests are sent to, all servers of chains included."""
    if table is None:
        return frozenset()
    servers = (server.placement for chain in table.chains for server in chain.servers)
    return frozenset((*servers, *(backend.placement for item in table.classes for backend in item.backends)))


def _steadied(table: RoutingTable, last: RoutingTable, running: Mapping[str, Workload]) -> RoutingTable:
    """`table`, or the last one when more than half of that one's backends would go because they are not Ready."""
    before, after = backends_of(last), backends_of(table)
    unready = {name for name in before - after if name in running and not _ready(running[name])}
    if 2 * len(unready) <= len(before) or 2 * len(after) >= len(before):
        return table
    return _without_gone(last, running)


def _without_gone(last: RoutingTable, running: Mapping[str, Workload]) -> RoutingTable:
    """The last document without backends whose workload does not exist any more, as far as others are left."""
    if not backends_of(last) & running.keys():
        return last
    classes = tuple(replace(item, backends=_kept(item.backends, running.keys())) for item in last.classes)
    return last if classes == last.classes else RoutingTable(last.epoch + 1, classes)


def _ready(workload: Workload) -> bool:
    return workload.ready_replicas > 0


def _table(
    plan: DeploymentPlan,
    running: Mapping[str, Workload],
    observed: ObservedRouting | None,
    shift: _Shift,
    *,
    may_lose: bool,
    complete: bool,
    guarded: bool,
) -> RoutingTable | None:
    """Routing for now: the plan's, in proportion to what is Ready, as soon as it takes no Ready backend away.

    A backend that the plan gives up stays until it may leave: when everything planned is Ready and the plan serves all
    demand. All classes then move together, by the same part of their way: where one went ahead, it would meet on a
    placement what has not left yet. While that is guarded, what is new serves beside it.
    """
    ready = {name for name, workload in running.items() if _ready(workload)}
    before = {item.name: item for item in observed.table.classes} if observed is not None else {}
    moves = [
        _Move(
            traffic.name,
            () if traffic.match is None else tuple((item.name, item.value) for item in traffic.match.headers),
            before.get(traffic.name),
            _planned_backends(plan, traffic.name, running, ready, complete=complete),
            _kept(before[traffic.name].backends, ready) if traffic.name in before else (),
        )
        for traffic in plan.resource.spec.traffic
    ]
    part = _part(moves, plan, running, shift, complete=complete) if may_lose else 1.0
    classes: list[RoutedClass] = []
    for move in moves:
        wanted, leaving = move.wanted, move.leaving
        if leaving and guarded and complete:
            wanted = _beside(wanted, leaving, running)
        elif move.last is not None and move.kept and (part == 0.0 or (leaving and not may_lose)):
            classes.append(replace(move.last, match_headers=move.headers, backends=move.kept))
            continue
        elif move.kept and wanted and part < 1.0:
            wanted = move.after(part)
        figures = next(item for item in plan.classes if item.name == move.traffic)
        classes.append(
            RoutedClass(
                name=move.traffic,
                match_headers=move.headers,
                admitted_requests_per_minute=round(figures.admitted_requests_per_minute),
                unserved=format(round(figures.unserved, 3), "g"),
                backends=wanted,
            )
        )
    if not any(item.backends for item in classes):
        # Never published empty: the last document stays, and its Services have no endpoints.
        return _without_gone(observed.table, running) if observed is not None else None
    if observed is not None and observed.table.classes == tuple(classes):
        return observed.table
    return RoutingTable(1 if observed is None else observed.table.epoch + 1, tuple(classes))


@dataclass(frozen=True, slots=True)
class _Move:
    """One traffic class between the last document and what is wanted."""

    traffic: str
    headers: tuple[tuple[str, str], ...]
    last: RoutedClass | None
    wanted: tuple[Backend, ...]
    kept: tuple[Backend, ...]
    """Of the last document, what is Ready."""

    @property
    def leaving(self) -> tuple[Backend, ...]:
        wanted = {backend.placement for backend in self.wanted}
        return tuple(backend for backend in self.kept if backend.placement not in wanted)

    def after(self, part: float) -> tuple[Backend, ...]:
        """Backends after that part of the way."""
        backends = (*self.wanted, *self.leaving)
        now = {backend.placement: (1 - part) * backend.weight for backend in self.kept}
        for backend in self.wanted:
            now[backend.placement] = now.get(backend.placement, 0.0) + part * backend.weight
        weights = largest_remainder([now[backend.placement] for backend in backends], WEIGHTS)
        return tuple(replace(backend, weight=weight) for backend, weight in zip(backends, weights, strict=True))


def _part(
    moves: Sequence[_Move], plan: DeploymentPlan, running: Mapping[str, Workload], shift: _Shift, *, complete: bool
) -> float:
    """How much of the way all classes go now: 0 keeps the last document, as far as it is Ready; 1 is what is wanted."""
    going = [(move, sum(backend.weight for backend in move.leaving) / WEIGHTS) for move in moves if move.leaving]
    if not complete:
        return 0.0 if going or _fuller(moves, plan, running) else 1.0
    # A class that the plan has nothing for leaves at once.
    going = [(move, weight) for move, weight in going if move.wanted]
    if not going:
        return 1.0
    if not shift.seen and any(len(move.leaving) < len(move.kept) for move, _ in going):
        return 0.0
    return min(1.0, shift.most / max(weight for _, weight in going))


def _fuller(moves: Sequence[_Move], plan: DeploymentPlan, running: Mapping[str, Workload]) -> bool:
    """Whether what is Ready would be fuller at the wanted shares than at the last ones; False where that is unknown."""
    rates = {
        (placement.name, rate.traffic): rate.requests_per_minute
        for placement in plan.placements
        for rate in placement.rates
    }
    demand = {item.name: item.admitted_requests_per_minute for item in plan.classes}
    fullest = []
    for wanted in (True, False):
        used: dict[str, float] = {}
        for move in moves:
            for backend in move.wanted if wanted or not move.kept else move.kept:
                rate = rates.get((backend.placement, move.traffic), 0.0)
                if rate <= 0:
                    return False
                takes = demand[move.traffic] * backend.weight / WEIGHTS / rate
                used[backend.placement] = used.get(backend.placement, 0.0) + takes
        fullest.append(max((value / running[name].ready_replicas for name, value in used.items()), default=0.0))
    return fullest[0] > fullest[1] + _TOLERANCE


def _planned_backends(
    plan: DeploymentPlan, traffic: str, running: Mapping[str, Workload], ready: set[str], *, complete: bool
) -> tuple[Backend, ...]:
    """The plan's shares over placements that have a Ready pod, in proportion to how much of them is Ready.

    Replicas beyond the plan count until everything planned is Ready: they stand in for what is missing elsewhere.
    """
    parts: list[tuple[Placement, int, float]] = []
    for placement in plan.placements:
        share = next((item.value for item in placement.shares if item.traffic == traffic), 0.0)
        if share > 0 and placement.name in ready:
            replicas = placement.replicas if complete else running[placement.name].ready_replicas
            parts.append((placement, replicas, share * replicas / placement.replicas))
    weights = largest_remainder([share for *_, share in parts], WEIGHTS)
    return tuple(
        Backend(
            placement=placement.name,
            served_model=placement.option.model,
            weight=weight,
            max_concurrency=placement.option.max_num_seqs * replicas,
        )
        for (placement, replicas, _), weight in zip(parts, weights, strict=True)
    )


def _kept(before: Sequence[Backend], names: AbstractSet[str]) -> tuple[Backend, ...]:
    """Those backends of the last document that are named, their weights filled up to the full sum."""
    backends = [backend for backend in before if backend.placement in names]
    weights = largest_remainder([backend.weight for backend in backends], WEIGHTS)
    return tuple(
        Backend(backend.placement, backend.served_model, weight, backend.max_concurrency)
        for backend, weight in zip(backends, weights, strict=True)
    )


def _beside(
    wanted: Sequence[Backend], leaving: Sequence[Backend], running: Mapping[str, Workload]
) -> tuple[Backend, ...]:
    """Backends that the plan wants and such as it gives up, each with a weight for what it can serve now."""
    able = [float(backend.max_concurrency) for backend in wanted]
    for backend in leaving:
        workload = running[backend.placement]
        able.append(backend.max_concurrency * workload.ready_replicas / max(1, workload.replicas))
    backends = (*wanted, *leaving)
    weights = largest_remainder([max(1.0, value) for value in able], WEIGHTS)
    return tuple(replace(backend, weight=weight) for backend, weight in zip(backends, weights, strict=True))


def largest_remainder(shares: Sequence[float], total: int) -> list[int]:
    """Integers in proportion to positive shares that sum to `total` (Hamilton's method), at least 1 each."""
    if not shares:
        return []
    scale = total / sum(shares)
    exact = [share * scale for share in shares]
    weights = [int(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda index: (weights[index] - exact[index], index))
    for index in by_remainder[: total - sum(weights)]:
        weights[index] += 1
    while 0 in weights:
        weights[weights.index(max(weights))] -= 1
        weights[weights.index(0)] = 1
    return weights
