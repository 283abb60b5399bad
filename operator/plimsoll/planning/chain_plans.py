"""A chained LLMDeployment's decision as a plan: a placement for each server, the chains, and what classes get."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from plimsoll import __version__
from plimsoll.chains import Chain
from plimsoll.chains.composition import place_rates
from plimsoll.chains.promises import wait_seconds
from plimsoll.performance import LatencyTarget
from plimsoll.planning.chain_names import ChainNames, named
from plimsoll.planning.chain_options import server_options
from plimsoll.planning.chained import ChainedPlan, NotPlanned
from plimsoll.planning.objectives import ResolvedClass
from plimsoll.planning.plan import (
    ClassPlan,
    DeploymentPlan,
    DeploymentState,
    Finding,
    LatencyFigure,
    Option,
    Placement,
    PlannedChain,
    Severity,
    Share,
    Stage,
)
from plimsoll.planning.renewal import RENEW
from plimsoll.planning.running_chains import RunningChain

_STEP_TOKENS = 256
"""Lengths of new chains are multiples of it."""


def deployment_plan(found: ChainedPlan | NotPlanned) -> DeploymentPlan:
    """The plan of one LLMDeployment. Without one, what runs stays."""
    if isinstance(found, NotPlanned):
        state = DeploymentState.SHORT if found.short else DeploymentState.HELD
        classes = tuple(ClassPlan(item.declared.name, item.requests_per_minute, 1.0, (), ()) for item in found.classes)
        return DeploymentPlan(
            found.resource, state, (), classes if found.short else (), found.findings, broken=found.broken
        )
    placements: list[Placement] = []
    chains: list[PlannedChain] = []
    carried = sum(found.rates_per_second)
    for chain, running, rate in zip(found.chosen.chains, found.kept, found.rates_per_second, strict=True):
        own = _placements(found, chain, running, found.served * rate / carried)
        placements += own
        times = [found.chain_seconds(chain, client) for client in range(len(found.regions))]
        chains.append(
            PlannedChain(
                name=own[0].name,
                servers=tuple(item.name for item in own),
                places=own[0].option.max_num_seqs,
                requests_per_minute=round(rate * 60, 3),
                ttft_milliseconds=round(max(first for first, _ in times) * 1000, 1),
                tpot_milliseconds=round(max(later for _, later in times) * 1000, 1),
            )
        )
    short = any(finding.severity is Severity.ERROR for finding in found.findings)
    return DeploymentPlan(
        resource=found.resource,
        state=DeploymentState.SHORT if short else DeploymentState.PLANNED,
        placements=tuple(sorted(placements, key=lambda item: item.name)),
        classes=tuple(_class(found, item) for item in found.classes),
        findings=(*found.findings, *_kept(found, placements)),
        chains=tuple(sorted(chains, key=lambda item: item.name)),
        broken=found.broken,
        given_up=found.given_up,
    )


def _kept(found: ChainedPlan, placements: Sequence[Placement]) -> list[Finding]:
    """What a person should know about chains that another release made."""
    chains = {item.option.stage.chain: item.made_by for item in placements if item.made_by and item.option.stage}
    return [
        Finding(
            found.ref,
            "MadeByOtherRelease",
            f"chain {name} runs as release {release} made it, and is kept; to have it made anew by release "
            f"{__version__}: kubectl annotate llmdeployment {found.ref.name} --namespace {found.ref.namespace} "
            f"--overwrite {RENEW}={__version__}",
            Severity.WARNING,
        )
        for name, release in sorted(chains.items())
    ]


def _placements(found: ChainedPlan, chain: Chain, running: RunningChain | None, share: float) -> tuple[Placement, ...]:
    deployment, route = found.resource, chain.route
    pools = [found.pools[server] for server in route.servers]
    servers = [found.servers[server] for server in route.servers]
    stages = [
        Stage(running.name if running is not None else "", number, server.node, server.region, route.blocks)
        for number, server in enumerate(servers)
    ]
    places = running.places if running is not None else chain.places
    length = running.max_model_length if running is not None else _length(found, chain)
    tokens = running.cache_tokens if running is not None else places * found.longest_tokens
    tensor = servers[0].tensor
    options = server_options(deployment, found.model, found.precision, stages, pools, tensor, places, length, tokens)
    names = ChainNames(deployment)
    asked = names.asked(options, pools)
    if running is not None:
        own = tuple(item.name for item in running.servers)
        options = tuple(_as_made(option, running, number) for number, option in enumerate(options))
    else:
        own = names.of(options, pools)
        options = named(options, own[0])
    load = found.planned_rate_per_second * share / chain.rate_per_second
    return tuple(
        Placement(
            name=own[number],
            option=option,
            replicas=1,
            # Requests come to the first server alone.
            shares=tuple(Share(item.declared.name, share) for item in found.classes) if number == 0 else (),
            price_per_hour=server.price_per_hour,
            utilization=min(1.0, load),
            reason=_reason(option, server.node, len(servers)),
            asked=asked[number],
            made_by=_made_by(running, number),
        )
        for number, (option, server) in enumerate(zip(options, servers, strict=True))
    )


def _length(found: ChainedPlan, chain: Chain) -> int:
    """The longest sequence of a new chain: what people said; else what its caches hold, within the model's limit."""
    given = found.resource.spec.engine.max_model_length
    if given is not None:
        return given
    held = chain.places * found.longest_tokens
    return max(min(found.max_model_length, held // _STEP_TOKENS * _STEP_TOKENS), found.longest_tokens)


def _as_made(option: Option, running: RunningChain, number: int) -> Option:
    """A server as it runs, whichever release made it."""
    made = running.servers[number].made
    if made is None:
        return option
    host = replace(option.host, cpu_cores=made.cpu_cores, memory_bytes=made.memory_bytes)
    return replace(option, image=made.image, checkpoint=made.checkpoint, host=host)


def _made_by(running: RunningChain | None, number: int) -> str:
    made = running.servers[number].made if running is not None else None
    return made.release if made is not None and made.release != __version__ else ""


def _reason(option: Option, node: str, servers: int) -> str:
    stage = option.stage
    if stage is None:
        return ""
    last = stage.first_layer + stage.layers - 1
    return f"layers {stage.first_layer}-{last} on node {node}: server {stage.number + 1} of {servers} of its chain"


def _class(found: ChainedPlan, item: ResolvedClass) -> ClassPlan:
    output = max(1, round(item.lengths.output_mean))
    figures: list[LatencyFigure] = []
    times: tuple[tuple[str, LatencyTarget | None, Callable[[float, float], float]], ...] = (
        ("ttft", item.targets.ttft, lambda first, _: first),
        ("tpot", item.targets.tpot, lambda _, later: later),
        ("endToEnd", item.targets.end_to_end, lambda first, later: first + (output - 1) * later),
    )
    for metric, target, of in times:
        percentile = target.percentile if target is not None else None
        worst = max(
            of(*found.chain_seconds(chain, client)) + (wait if metric != "tpot" else 0.0)
            for chain, wait in zip(found.chosen.chains, _waits(found, percentile), strict=True)
            for client, part in enumerate(found.region_shares[item.declared.name])
            if part > 0
        )
        limit = None if target is None else target.seconds * 1000
        figures.append(LatencyFigure(metric, percentile, limit, round(worst * 1000, 1)))
    return ClassPlan(
        item.declared.name,
        item.requests_per_minute,
        1.0 - found.served,
        tuple(figures),
        found.rejected,
    )


def _waits(found: ChainedPlan, percentile: int | None) -> Sequence[float]:
    """Seconds in the queue of each chain, which gets its part of the planned rate."""
    carried = sum(found.rates_per_second)
    return [
        wait_seconds(
            place_rates([chain], found.problem.setup_seconds),
            found.planned_rate_per_second * found.served * rate / carried,
            percentile,
        )
        for chain, rate in zip(found.chosen.chains, found.rates_per_second, strict=True)
    ]
