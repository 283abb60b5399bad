"""A plan as tables for people."""

from collections.abc import Collection

from rich.console import Console
from rich.table import Table

from plimsoll.cli.text import counted, money, share
from plimsoll.planning.plan import (
    DeploymentPlan,
    DeploymentState,
    FleetPlan,
    LatencyFigure,
    LimitKind,
    PlannedChain,
)
from plimsoll.planning.snapshot import ObjectRef

_CENT = 0.005
_METRICS = {"ttft": "TTFT", "tpot": "TPOT", "endToEnd": "end to end"}


def print_plan(fleet: FleetPlan, shown: Collection[ObjectRef] = ()) -> None:
    """Print the decision: per deployment placements and classes, then pools and totals. `shown` was printed before."""
    console = wide_console()
    for plan in fleet.deployments:
        if plan.ref not in shown:
            _print_deployment(console, plan)
    console.print(_pools(fleet))
    for line in totals(fleet):
        console.print(line, soft_wrap=True)


def wide_console() -> Console:
    """The terminal, or wide lines for files and pipes."""
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = 160
    return console


def totals(fleet: FleetPlan) -> list[str]:
    """What the plan costs, how far it may be from the best, and what binds."""
    gpus = sum(plan.gpus for plan in fleet.deployments)
    placements = sum(len(plan.placements) for plan in fleet.deployments)
    cost = (
        f"[bold]{money(fleet.cost_per_hour)} per hour[/bold] for {counted(gpus, 'GPU')} in "
        f"{counted(placements, 'placement')} of {counted(len(fleet.deployments), 'LLMDeployment')}"
        f"   plan {fleet.digest[:12]}"
    )
    lines = [cost]
    other = fleet.objective_per_hour - fleet.cost_per_hour
    if abs(other) >= _CENT:
        held = any(plan.state is DeploymentState.HELD for plan in fleet.deployments)
        without = "; placements that are not decided about are not in it" if held else ""
        lines.append(
            f"objective {money(fleet.objective_per_hour)} per hour: with penalties and the cost of changes{without}"
        )
    if fleet.lower_bound_per_hour is None or fleet.gap is None:
        lines.append("lower bound: nothing is proven")
    else:
        lines.append(
            f"lower bound {money(fleet.lower_bound_per_hour)} per hour: a better plan saves {share(fleet.gap)} at most"
        )
    names = {
        LimitKind.POOL: "GPUNodePool {} (full)",
        LimitKind.BUDGET: "budget.perHour of PlacementPolicy {}",
        LimitKind.STORAGE: "storage.limitGiB of PlacementPolicy {}",
        LimitKind.TENANT: "tenant {} of PlacementPolicy default",
        LimitKind.QUOTA: "ResourceQuota or LimitRange {}",
    }
    binds = ", ".join(names[item.kind].format(item.name) for item in fleet.limits)
    lines.append(f"binding limits: {binds or 'none'}")
    return lines


def _print_deployment(console: Console, plan: DeploymentPlan) -> None:
    stored = plan.storage_cost_per_hour
    storage = f", {money(stored)} of it for stored weights" if stored >= _CENT else ""
    state = "" if plan.state is DeploymentState.PLANNED else f"   [red]{plan.state.value}[/red]"
    console.print(
        f"[bold]{plan.ref.namespace}/{plan.ref.name}[/bold]   "
        f"{money(plan.cost_per_hour)} per hour, "
        f"{counted(plan.gpus, 'GPU')}{storage}{state}"
    )
    if plan.placements:
        table = new_table("placement", "model", "pool", "TP×PP", "replicas", "batch", "share", "cost/h", "load")
        for placement in plan.placements:
            option = placement.option
            table.add_row(
                placement.name,
                f"{option.model.rsplit('/', 1)[-1]} {option.precision}",
                option.pool,
                f"{option.parallelism.tensor}×{option.parallelism.pipeline}"
                + (f"\n{option.nodes} nodes" if option.nodes > 1 else ""),
                str(placement.replicas),
                str(option.max_num_seqs),
                "\n".join(f"{part.traffic} {part.value:.0%}" for part in placement.shares) or "-",
                money(placement.price_per_hour),
                f"{placement.utilization:.0%}",
            )
        console.print(table)
        _print_chains(console, plan)
        for placement in plan.placements:
            if placement.speed.startswith("measured"):
                console.print(f"  [dim]{placement.name}: speed {placement.speed}[/dim]", soft_wrap=True)
    if plan.classes:
        table = new_table("class", "requests/min", "unserved", "latency: predicted / target", "next best, and why not")
        for item in plan.classes:
            table.add_row(
                item.name,
                f"{item.requests_per_minute:.0f}",
                f"{item.unserved:.1%}" if item.unserved else "0",
                "\n".join(_latency(figure) for figure in item.latency if figure.target_milliseconds is not None) or "-",
                "\n".join(f"{rejected.option}: {rejected.reason}" for rejected in item.rejected[:3]),
            )
        console.print(table)
    console.print()


def _print_chains(console: Console, plan: DeploymentPlan) -> None:
    if not plan.chains:
        return
    table = new_table("chain", "servers", "places", "carries/min", "TTFT", "TPOT")
    for chain in plan.chains:
        table.add_row(
            chain.name,
            way_of(chain, plan),
            str(chain.places),
            f"{chain.requests_per_minute:.1f}",
            f"{chain.ttft_milliseconds:,.0f} ms",
            f"{chain.tpot_milliseconds:,.0f} ms",
        )
    console.print(table)


def way_of(chain: PlannedChain, plan: DeploymentPlan) -> str:
    """Nodes of a chain with their layers, in order."""
    known = {item.name: item.option.stage for item in plan.placements}
    stages = [stage for name in chain.servers if (stage := known[name]) is not None]
    return " → ".join(f"{stage.node} {stage.first_layer}-{stage.first_layer + stage.layers - 1}" for stage in stages)


def _latency(figure: LatencyFigure) -> str:
    target = figure.target_milliseconds or 0.0
    margin = 1 - figure.predicted_milliseconds / target
    statistic = "mean" if figure.percentile is None else f"p{figure.percentile}"
    figures = f"{figure.predicted_milliseconds:.0f} / {target:.0f} ms"
    return f"{_METRICS[figure.metric]} {statistic} {figures} ({margin:.0%} margin)"


def _pools(fleet: FleetPlan) -> Table:
    table = new_table("pool", "accelerator", "nodes", "GPUs", "used by others", "planned", "free", "price/GPU·h")
    for pool in fleet.pools:
        free = "∞" if pool.unlimited else str(pool.gpus_allocatable - pool.gpus_used_by_others - pool.gpus_planned)
        total = "unlimited" if pool.unlimited else str(pool.gpus)
        table.add_row(
            pool.name,
            pool.accelerator,
            "?" if pool.unlimited else str(pool.nodes),
            total,
            str(pool.gpus_used_by_others),
            str(pool.gpus_planned),
            free,
            str(pool.price_per_gpu_hour),
        )
    return table


def new_table(*columns: str) -> Table:
    """A table without lines."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        right = column in ("replicas", "cost/h", "load", "batch", "requests/min", "nodes", "GPUs", "planned", "free")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table
