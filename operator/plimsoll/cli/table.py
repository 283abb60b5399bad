"""A plan as tables for people."""

from rich.console import Console
from rich.table import Table

from plimsoll.cli.text import counted, money
from plimsoll.planning.plan import DeploymentPlan, DeploymentState, FleetPlan, LatencyFigure

_METRICS = {"ttft": "TTFT", "tpot": "TPOT", "endToEnd": "end to end"}


def print_plan(fleet: FleetPlan) -> None:
    """Print the decision: per deployment placements and classes, then pools and totals."""
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = 160
    for plan in fleet.deployments:
        _print_deployment(console, plan)
    console.print(_pools(fleet))
    gpus = sum(plan.gpus for plan in fleet.deployments)
    placements = sum(len(plan.placements) for plan in fleet.deployments)
    console.print(
        f"[bold]{money(fleet.cost_per_hour)} per hour[/bold] for {counted(gpus, 'GPU')} in "
        f"{counted(placements, 'placement')} of {counted(len(fleet.deployments), 'LLMDeployment')}"
        f"   plan {fleet.digest[:12]}"
    )


def _print_deployment(console: Console, plan: DeploymentPlan) -> None:
    state = "" if plan.state is DeploymentState.PLANNED else f"   [red]{plan.state.value}[/red]"
    console.print(
        f"[bold]{plan.ref.namespace}/{plan.ref.name}[/bold]   "
        f"{money(plan.cost_per_hour)} per hour, "
        f"{counted(plan.gpus, 'GPU')}{state}"
    )
    if plan.placements:
        table = _table("placement", "model", "pool", "TP×PP", "replicas", "batch", "share", "cost/h", "load")
        for placement in plan.placements:
            option = placement.option
            table.add_row(
                placement.name,
                f"{option.model.rsplit('/', 1)[-1]} {option.precision}",
                option.pool,
                f"{option.parallelism.tensor}×{option.parallelism.pipeline}",
                str(placement.replicas),
                str(option.max_num_seqs),
                "\n".join(f"{share.traffic} {share.value:.0%}" for share in placement.shares) or "-",
                money(placement.price_per_hour),
                f"{placement.utilization:.0%}",
            )
        console.print(table)
        for placement in plan.placements:
            console.print(f"  [dim]{placement.name}: {placement.reason}[/dim]", soft_wrap=True)
    if plan.classes:
        table = _table("class", "requests/min", "unserved", "latency: predicted / target", "next best, and why not")
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


def _latency(figure: LatencyFigure) -> str:
    target = figure.target_milliseconds or 0.0
    margin = 1 - figure.predicted_milliseconds / target
    statistic = "mean" if figure.percentile is None else f"p{figure.percentile}"
    figures = f"{figure.predicted_milliseconds:.0f} / {target:.0f} ms"
    return f"{_METRICS[figure.metric]} {statistic} {figures} ({margin:.0%} margin)"


def _pools(fleet: FleetPlan) -> Table:
    table = _table("pool", "accelerator", "nodes", "GPUs", "used by others", "planned", "free", "price/GPU·h")
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


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        right = column in ("replicas", "cost/h", "load", "batch", "requests/min", "nodes", "GPUs", "planned", "free")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table
