"""The step that is safe now for chains: each as one placement that is Ready when all its servers are.

A chain whose node is lost serves nobody, whatever its pods are still said to be: it leaves the routing at once. Where
the node is gone for good, its other servers go at once, too, since new chains may need them.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from plimsoll.planning.plan import DeploymentPlan, DeploymentState, Placement, PlannedChain
from plimsoll.planning.running_chains import chain_of
from plimsoll.planning.snapshot import Workload
from plimsoll.planning.transition import (
    STEADY_SECONDS,
    WEIGHTS,
    ObservedRouting,
    RoutedChain,
    RoutedServer,
    RoutingTable,
    Step,
    largest_remainder,
)
from plimsoll.planning.transition import step_for as step_for_replicas


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
    """As `transition.step_for`, for replicas and chains."""
    if plan.state is DeploymentState.HELD or not (plan.chains or any(map(chain_of, workloads))):
        return step_for_replicas(
            plan,
            workloads,
            observed,
            propagation_seconds,
            guarded=guarded,
            unready_seconds=unready_seconds,
            first_epoch=first_epoch,
            max_shift=max_shift,
            failed=failed,
        )
    members: dict[str, list[Workload]] = {}
    for item in workloads:
        members.setdefault(chain_of(item) or item.name, []).append(item)
    sizes = {chain.name: len(chain.servers) for chain in plan.chains}
    whole = [_as_one(name, own, sizes.get(name), plan) for name, own in sorted(members.items())]
    plain = None if observed is None else replace(observed, table=replace(observed.table, chains=()))
    step = step_for_replicas(
        _as_placements(plan),
        whole,
        plain,
        propagation_seconds,
        guarded=guarded,
        unready_seconds=unready_seconds,
        first_epoch=first_epoch,
        max_shift=max_shift,
        failed=failed,
    )
    gone = () if guarded else plan.given_up
    prune = {item.name for name in (*step.prune, *gone) for item in members.get(name, ())}
    chains = {chain.name: chain for chain in plan.chains}
    replicas: dict[str, int] = {}
    for name, count in step.replicas.items():
        replicas |= dict.fromkeys(chains[name].servers, 1) if name in chains else {name: count}
    return Step(
        replicas=dict(sorted(replicas.items())),
        routing=_with_chains(step.routing, plan, observed),
        prune=tuple(sorted(prune)),
        waiting_for=tuple(_sentence(text, chains, members) for text in step.waiting_for),
        unready=step.unready,
        complete=step.complete,
        settled=step.settled,
    )


def _as_one(name: str, servers: Sequence[Workload], size: int | None, plan: DeploymentPlan) -> Workload:
    """A chain as one workload with one replica; other workloads as they are."""
    first = servers[0]
    if not chain_of(first):
        return first
    wanted = size if size is not None else len(first.option["layers"].split(","))
    ready = len(servers) == wanted and all(item.ready_replicas > 0 for item in servers) and name not in plan.broken
    return Workload(first.namespace, name, first.uid, first.deployment, 1, int(ready))


def _as_placements(plan: DeploymentPlan) -> DeploymentPlan:
    """The plan with each chain as the placement of its first server."""
    known = {item.name: item for item in plan.placements}
    chains = tuple(known[chain.name] for chain in plan.chains)
    servers = {name for chain in plan.chains for name in chain.servers}
    return replace(plan, placements=(*chains, *(item for item in plan.placements if item.name not in servers)))


def _with_chains(
    table: RoutingTable | None, plan: DeploymentPlan, observed: ObservedRouting | None
) -> RoutingTable | None:
    """The table with what it says of chains: as planned, or as before of those that the plan gives up."""
    if table is None:
        return None
    before = {chain.name: chain for chain in observed.table.chains} if observed is not None else {}
    known = {**before, **{chain.name: _routed(chain, plan) for chain in plan.chains}}
    weights = _weights(table)
    names = [name for name in weights if name in known]
    shares = largest_remainder([weights[name] for name in names], WEIGHTS)
    chains = tuple(replace(known[name], weight=weight) for name, weight in zip(names, shares, strict=True))
    if observed is None:
        return replace(table, chains=chains)
    changed = table.classes != observed.table.classes or chains != observed.table.chains
    return replace(table, epoch=observed.table.epoch + changed, chains=chains)


def _weights(table: RoutingTable) -> Mapping[str, float]:
    """By backend: what all classes together send there, by their admitted rates."""
    found: dict[str, float] = {}
    for item in table.classes:
        for backend in item.backends:
            sent = max(1, item.admitted_requests_per_minute) * backend.weight
            found[backend.placement] = found.get(backend.placement, 0.0) + sent
    return dict(sorted(found.items()))


def _routed(chain: PlannedChain, plan: DeploymentPlan) -> RoutedChain:
    known = {item.name: item for item in plan.placements}
    servers = [_server(known[name]) for name in chain.servers]
    return RoutedChain(
        name=chain.name,
        servers=tuple(server for server in servers if server is not None),
        weight=WEIGHTS,
        max_concurrency=chain.places,
        requests_per_minute=int(chain.requests_per_minute),
        ttft_milliseconds=round(chain.ttft_milliseconds),
        tpot_milliseconds=round(chain.tpot_milliseconds),
    )


def _server(placement: Placement) -> RoutedServer | None:
    stage = placement.option.stage
    if stage is None:
        return None
    return RoutedServer(placement.name, stage.node, stage.region, stage.first_layer, stage.layers)


def _sentence(text: str, chains: Mapping[str, PlannedChain], members: Mapping[str, Sequence[Workload]]) -> str:
    """What a chain waits for, by its servers."""
    name = text.partition(":")[0]
    if name not in chains:
        return text
    ready = sum(item.ready_replicas > 0 for item in members.get(name, ()))
    return f"chain {name}: {ready} of {len(chains[name].servers)} servers are Ready"
