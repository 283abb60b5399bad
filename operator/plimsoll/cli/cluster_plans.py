"""`kubectl plimsoll plan | approve | reject | history`: the plans of a cluster, and what a person says to them."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import click
import yaml
from rich.console import Console

from plimsoll.api.placementplan import PlacementPlanSpec, PlacementPlanStatus, Refusal
from plimsoll.cli.cluster import PLAN, Cluster, ClusterError, Target, asked
from plimsoll.cli.table import new_table, print_plan, wide_console
from plimsoll.cli.text import counted, money, plan_document, share
from plimsoll.controller.client import ApiError
from plimsoll.controller.kinds import RESOURCES
from plimsoll.controller.records import Record
from plimsoll.planning.plan import FleetPlan

_CLOSED = {
    "Refused": "it was refused:",
    "Applying": "it is in force already",
    "Applied": "it is in force already",
}


def run_cluster_plan(target: Target, name: str, output: str) -> int:
    """Print a plan of the cluster: what it changes (`table`), all of it (`wide`), or as data."""

    async def work(cluster: Cluster) -> tuple[Record, FleetPlan | None]:
        record = await cluster.plan(name)
        return record, None if output == "table" else await cluster.details(record)

    record, fleet = asked(target, work)
    if output == "table":
        print_changes(wide_console(), record)
    elif fleet is not None and output == "wide":
        print_plan(fleet)
    elif fleet is not None:
        print_data(_document(record, fleet), output)
    return 0


def run_decide(target: Target, name: str, decision: str, *, yes: bool) -> int:
    """Show a plan, ask, and write the person's decision into it."""
    record, warnings = asked(target, lambda cluster: _looked_at(cluster, name, decision))
    print_changes(wide_console(), record)
    for text in warnings:
        click.echo(f"{click.style('warning', fg='yellow')}: {text}", err=True)
    if not yes:
        click.confirm(f"{'Approve' if decision == 'Approved' else 'Reject'} {record.name}?", abort=True, err=True)
    approval = {"decision": decision, "digest": f"sha256:{record.decision}"}
    # With the uid: another plan that got this name meanwhile is not what was looked at.
    patch = {"metadata": {"uid": record.uid}, "spec": {"approval": approval}}
    asked(target, lambda cluster: cluster.patch(PLAN, record.name, patch))
    click.echo(f"placementplan.plimsoll.dev/{record.name} {decision.lower()}")
    return 0


def run_history(target: Target, output: str) -> int:
    """Print the kept plans, the newest first."""
    found = asked(target, lambda cluster: cluster.plans())[::-1]
    if output in ("json", "yaml"):
        print_data({"plans": [_summary(record) for record in found]}, output)
        return 0
    table = new_table(
        "plan", "state", "reason", "said", "cost/h", "GPUs", "changes", "why", "refused", "steps", "made", "applied"
    )
    for record in found:
        spec, status = _spec(record), record.status
        table.add_row(
            record.name,
            status.state or "-",
            status.reason or "-",
            record.approval.decision if record.approval is not None else "-",
            _cost(spec),
            str(spec.summary.gpus),
            str(spec.summary.changed_deployments),
            ", ".join(_reasons(spec)) or "-",
            str(len(spec.refused)),
            _steps(status),
            _ago(record.manifest["metadata"].get("creationTimestamp")),
            _ago(status.applied_time),
        )
    wide_console().print(table)
    return 0


async def _looked_at(cluster: Cluster, name: str, decision: str) -> tuple[Record, list[str]]:
    """The plan, and what to warn of. What is to be approved must be what was recorded.

    What the person may not see is not checked here; the operator checks it all.
    """
    found = await cluster.plans()
    record = await cluster.plan(name)
    if not record.decision:
        raise ClusterError(f"{record.name} was made by a release that knew no approval")
    status = record.status
    if status.state in _CLOSED:
        why = f"{_CLOSED[status.state]} {status.message or ''}".strip()
        raise ClusterError(f"{name} cannot be {decision.lower()} any more: {why}")
    warnings = []
    mode = await _mode(cluster)
    if mode not in ("Manual", ""):
        warnings.append(f"approval of the PlacementPolicy is {mode}, so nobody waits for this; it counts in Manual")
    if decision == "Approved":
        if found[-1].name != record.name:
            warnings.append(f"{name} has been overtaken by {found[-1].name}: the operator will refuse it")
        try:
            await cluster.details(record)
        except ApiError as error:
            if error.status != 403:
                raise
            warnings.append(f"you may not read the plan's details, so only the operator checks them: {error}")
    return record, warnings


async def _mode(cluster: Cluster) -> str:
    """The policy's approval; empty for a person who may not see it."""
    try:
        policies = await cluster.all(RESOURCES["PlacementPolicy"])
    except ApiError as error:
        if error.status != 403:
            raise
        return ""
    return next((str(item["spec"].get("approval", "Automatic")) for item in policies), "Automatic")


# --- Showing ---------------------------------------------------------------------------------------------------------


def print_changes(console: Console, record: Record) -> None:
    """What a plan changes, and what that costs."""
    spec, status = _spec(record), record.status
    reason = f" ({status.reason})" if status.reason else ""
    made = _ago(record.manifest["metadata"].get("creationTimestamp"))
    console.print(f"[bold]{record.name}[/bold]   {status.state or 'new'}{reason}   made {made} ago", soft_wrap=True)
    if status.message:
        console.print(f"  {status.message}", soft_wrap=True)
    if spec.changes:
        table = new_table("LLMDeployment", "cost/h", "why", "placement", "replicas")
        for change in spec.changes:
            cost = _arrow(str(change.cost_per_hour_before), str(change.cost_per_hour_after))
            rows = [
                (item.placement, _arrow(str(item.replicas_before), str(item.replicas_after)))
                for item in change.placements
            ]
            for number, (placement, replicas) in enumerate(rows or [("", "")]):
                why = f"{change.reason or '-'}{', in place' if change.in_place else ''}"
                first = (f"{change.namespace}/{change.name}", cost, why) if number == 0 else ("", "", "")
                table.add_row(*first, placement, replicas)
        console.print(table)
    left_out = spec.summary.changed_deployments - len(spec.changes)
    if left_out > 0:
        console.print(f"and {counted(left_out, 'LLMDeployment')} more: see -o wide")
    if status.progress is not None and status.progress.current is not None:
        since = _ago(status.progress.since)
        console.print(f"{_steps(status)} steps done; for {since}: {status.progress.current}", soft_wrap=True)
    print_refusals(console, spec.refused)
    after = float(spec.cost_per_hour)
    moved = sum(float(change.cost_per_hour_after - change.cost_per_hour_before) for change in spec.changes)
    cost = f"{money(after)} per hour" if left_out > 0 else f"{money(after - moved)} → {money(after)} per hour"
    gap = "" if spec.gap is None else f"; a better plan saves {share(float(spec.gap))} at most"
    changes = f"{spec.summary.changed_deployments} of {counted(spec.summary.deployments, 'LLMDeployment')}"
    console.print(f"{cost}, {counted(spec.summary.gpus, 'GPU')}; changes {changes}{gap}", soft_wrap=True)


def print_refusals(console: Console, refused: Iterable[Refusal]) -> None:
    """What was wanted and is not in a plan."""
    for item in refused:
        console.print(
            f"refused: {item.namespace}/{item.name}: {item.message} [{item.reason}]", soft_wrap=True, markup=False
        )


def print_decision(console: Console, record: Record, namespace: str, name: str) -> None:
    """What a plan was decided from, and what it does to one LLMDeployment and why."""
    spec = _spec(record)
    console.print(
        f"decided from inputs {spec.inputs_digest}; {_cost(spec)} per hour in all", style="dim", soft_wrap=True
    )
    change = next((item for item in spec.changes if (item.namespace, item.name) == (namespace, name)), None)
    if change is None:
        console.print(f"changes nothing of {namespace}/{name}\n", style="dim")
    else:
        cost = _arrow(str(change.cost_per_hour_before), str(change.cost_per_hour_after))
        where = " in place" if change.in_place else ""
        console.print(f"changes {namespace}/{name}{where}: {change.reason or '-'}; {cost} per hour\n", style="dim")
    print_refusals(console, (item for item in spec.refused if (item.namespace, item.name) == (namespace, name)))


def _reasons(spec: PlacementPlanSpec) -> list[str]:
    """Why LLMDeployments change, each reason once."""
    return sorted({change.reason for change in spec.changes if change.reason is not None})


def _cost(spec: PlacementPlanSpec) -> str:
    after = str(spec.cost_per_hour)
    return after if spec.cost_per_hour_before is None else _arrow(str(spec.cost_per_hour_before), after)


def _steps(status: PlacementPlanStatus) -> str:
    return "-" if status.progress is None else f"{status.progress.steps_done}/{status.progress.steps_total}"


def record_document(record: Record) -> dict[str, Any]:
    """What a plan was decided from, why, at what cost, and what was refused."""
    spec = record.manifest["spec"]
    keys = ("inputsDigest", "costPerHourBefore", "costPerHour", "lowerBoundPerHour", "gap", "changes", "refused")
    return {key: spec[key] for key in keys if key in spec}


def _document(record: Record, fleet: FleetPlan) -> dict[str, Any]:
    return {**_summary(record), "spec": record.manifest["spec"], "plan": plan_document(fleet)}


def _summary(record: Record) -> dict[str, Any]:
    status = record.manifest.get("status") or {}
    return {
        "name": record.name,
        "state": status.get("state", ""),
        "reason": status.get("reason", ""),
        "decisionDigest": f"sha256:{record.decision}",
        "approval": record.approval.decision if record.approval is not None else "",
        "made": record.manifest["metadata"].get("creationTimestamp", ""),
        "progress": status.get("progress") or {},
        **record_document(record),
    }


def print_data(document: Mapping[str, Any], output: str) -> None:
    """As YAML or JSON."""
    if output == "json":
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(yaml.safe_dump(dict(document), sort_keys=False), nl=False)


def _spec(record: Record) -> PlacementPlanSpec:
    return PlacementPlanSpec.model_validate(record.manifest["spec"])


def _arrow(before: str, after: str) -> str:
    return f"{before} → {after}"


def _ago(moment: str | datetime | None) -> str:
    """As kubectl shows ages."""
    if moment is None:
        return "-"
    then = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    seconds = max(0, int((datetime.now(UTC) - then).total_seconds()))
    for size, unit, limit in ((1, "s", 120), (60, "m", 7200), (3600, "h", 172_800)):
        if seconds < limit:
            return f"{seconds // size}{unit}"
    return f"{seconds // 86_400}d"
