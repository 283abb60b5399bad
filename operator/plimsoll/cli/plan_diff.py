"""`plimsoll plan --diff BASE`: what a change of the manifests changes in the plan, as Markdown for a pull request.

The new plan starts from the old one as if that ran, so it moves what the operator would move and nothing else.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from plimsoll.allocation.milp import SolverError
from plimsoll.cli.manifests import FileError, Inputs, is_empty_folder, read_inputs
from plimsoll.cli.markdown import heading, row, table
from plimsoll.cli.plan import exit_status, print_problems
from plimsoll.cli.text import counted, money, share
from plimsoll.planning import PlanRejectedError, plan_fleet
from plimsoll.planning.digest import inputs_digest
from plimsoll.planning.plan import ClassPlan, DeploymentPlan, Finding, FleetPlan, Placement, PoolPlan
from plimsoll.planning.snapshot import ObjectRef, Snapshot, Workload
from plimsoll.planning.variants import label_of
from plimsoll.rendering import labels

UNCHANGED, FAILED, CHANGED = 0, 1, 2
_METRICS = {"ttft": "TTFT", "tpot": "TPOT", "endToEnd": "end to end"}
_SHOWN = 40
"""LLMDeployments in full: a comment on a pull request holds 65,536 characters."""
_NONE = "-"
Pair = tuple[DeploymentPlan | None, DeploymentPlan | None]


def run_plan_diff(base: Path, paths: Sequence[Path], cluster: Sequence[Path]) -> int:
    """Print what differs between the plans of two sets of files; `cluster` files describe both. Returns the exit
    status: 0 no change, 2 changes, 1 a new input is wrong or some demand cannot be served."""
    before_files = [] if is_empty_folder(base) else [base]
    old, new = read_inputs([*before_files, *cluster]), read_inputs([*paths, *cluster])
    if not new.resources and not new.invalid:
        raise FileError(f"{', '.join(map(str, paths))}: no object of plimsoll.dev in there")
    before = _planned(old.snapshot())
    after = _planned(_following(new, before))
    print_problems(new, after)
    body = _body(before, after)
    text = "\n".join(body) if body else "The plan does not change."
    click.echo(f"### Plimsoll plan\n\n{text}\n\n{_digests(old, new)}")
    if exit_status(new, after):
        return FAILED
    return CHANGED if body else UNCHANGED


def _planned(snapshot: Snapshot) -> FleetPlan:
    try:
        return plan_fleet(snapshot, clock=time.monotonic)
    except PlanRejectedError as error:
        raise click.ClickException(f"the plan broke a limit and was rejected (please report this): {error}") from error
    except SolverError as error:
        raise click.ClickException(f"the solver broke down (please report this): {error}") from error


def _following(inputs: Inputs, before: FleetPlan) -> Snapshot:
    """The new files, with the old plan running where the files do not say what runs."""
    snapshot = inputs.snapshot()
    if snapshot.workloads:
        return snapshot
    there = {(item.namespace, item.name) for item in snapshot.deployments}
    running = tuple(
        Workload(
            namespace=plan.ref.namespace,
            name=item.name,
            uid="",
            deployment=plan.ref.name,
            replicas=item.replicas,
            ready_replicas=item.replicas,
            option=labels.option_from_annotations(labels.option_annotations(item.option)),
        )
        for plan in before.deployments
        if (plan.ref.namespace, plan.ref.name) in there
        for item in plan.placements
    )
    return replace(snapshot, workloads=running)


def _body(before: FleetPlan, after: FleetPlan) -> list[str]:
    """Everything that differs; nothing when the decision is the same."""
    old, new = ({plan.ref: plan for plan in fleet.deployments} for fleet in (before, after))
    changed: dict[ObjectRef, list[str]] = {}
    for ref in sorted({*old, *new}):
        lines = _deployment((old.get(ref), new.get(ref)))
        if lines:
            changed[ref] = lines
    notes, pools = _notes(before, after), _pools(before, after)
    if not (changed or notes or pools or _figures(before) != _figures(after)):
        return []
    body = [f"{len(changed)} of {counted(len({*old, *new}), 'LLMDeployment')} {_verb(len(changed))}.", ""]
    body += table(("", "before", "after", "change"), _totals(before, after))
    for ref in list(changed)[:_SHOWN]:
        body += ["", heading(f"{ref.namespace}/{ref.name}"), "", *changed[ref]]
    if len(changed) > _SHOWN:
        body += ["", f"… and {len(changed) - _SHOWN} more."]
    return [*body, *pools, *notes]


def _verb(number: int) -> str:
    return "changes" if number == 1 else "change"


def _figures(fleet: FleetPlan) -> tuple[str, int, int]:
    return (
        money(fleet.cost_per_hour),
        sum(plan.gpus for plan in fleet.deployments),
        sum(item.replicas for plan in fleet.deployments for item in plan.placements),
    )


def _totals(before: FleetPlan, after: FleetPlan) -> list[str]:
    old, new = _figures(before), _figures(after)
    difference = after.cost_per_hour - before.cost_per_hour
    return [
        row("cost per hour", old[0], new[0], f"{difference:+.2f}"),
        row("GPUs", old[1], new[1], f"{new[1] - old[1]:+d}"),
        row("replicas", old[2], new[2], f"{new[2] - old[2]:+d}"),
    ]


# --- One LLMDeployment ------------------------------------------------------------------------------------------------


def _deployment(pair: Pair) -> list[str]:
    old, new = pair
    if old is None or new is None:
        lines = ["New." if old is None else "Removed, with everything that it runs."]
    elif old.state is not new.state:
        lines = [f"State: {old.state.value} → **{new.state.value}**."]
    else:
        lines = []
    placements, traffic = _placements(pair), _traffic(pair)
    if not (lines or placements or traffic):
        return []
    costs = [money(plan.cost_per_hour) if plan is not None else _NONE for plan in pair]
    if costs[0] != costs[1]:
        lines.append(f"Cost per hour: {costs[0]} → **{costs[1]}**.")
    if placements:
        lines += ["", *table(("placement", "runs", "before", "after", "serves"), placements)]
    if traffic:
        lines += ["", *table(("class", "figure", "target", "before", "after"), traffic)]
    return lines


def _placements(pair: Pair) -> list[str]:
    old, new = ({item.name: item for item in plan.placements} if plan is not None else {} for plan in pair)
    rows = []
    for name in sorted({*old, *new}):
        was, now = old.get(name), new.get(name)
        if was is not None and now is not None and (was.replicas, was.shares) == (now.replicas, now.shares):
            continue
        counts = [str(item.replicas) if item is not None else _NONE for item in (was, now)]
        rows.append(row(f"`{name}`", _runs(now or was), *counts, _shares(now)))
    return rows


def _runs(placement: Placement | None) -> str:
    return _NONE if placement is None else label_of(placement.option)


def _shares(placement: Placement | None) -> str:
    if placement is None:
        return _NONE
    return ", ".join(f"{item.traffic} {share(item.value)}" for item in placement.shares) or "nothing"


def _traffic(pair: Pair) -> list[str]:
    old, new = ({item.name: item for item in plan.classes} if plan is not None else {} for plan in pair)
    return [line for name in sorted({*old, *new}) for line in _class(name, old.get(name), new.get(name))]


def _class(name: str, old: ClassPlan | None, new: ClassPlan | None) -> list[str]:
    rows = []
    rates = [f"{item.requests_per_minute:g}" if item is not None else _NONE for item in (old, new)]
    unserved = [share(item.unserved) if item is not None else _NONE for item in (old, new)]
    if rates[0] != rates[1]:
        rows.append(row(name, "requests per minute", "", *rates))
    if unserved[0] != unserved[1] and {*unserved} != {_NONE, share(0.0)}:
        rows.append(row(name, "not served", "", *unserved))
    figures = [{item.metric: item for item in plan.latency} if plan is not None else {} for plan in (old, new)]
    for metric, label in _METRICS.items():
        was, now = (found.get(metric) for found in figures)
        shown = now or was
        if shown is None or (was == now) or (now is not None and now.target_milliseconds is None and was is None):
            continue
        kind = "mean" if shown.percentile is None else f"p{shown.percentile}"
        target = "" if shown.target_milliseconds is None else f"{shown.target_milliseconds:g} ms"
        values = [f"{item.predicted_milliseconds:g} ms" if item is not None else _NONE for item in (was, now)]
        rows.append(row(name, f"{label} {kind}", target, *values))
    return rows


# --- Pools and findings -----------------------------------------------------------------------------------------------


def _pools(before: FleetPlan, after: FleetPlan) -> list[str]:
    old, new = ({pool.name: pool for pool in fleet.pools} for fleet in (before, after))
    rows = []
    for name in sorted({*old, *new}):
        was, now = old.get(name), new.get(name)
        accelerators = [item.accelerator for item in (now, was) if item is not None]
        if _used(was) != _used(now):
            rows.append(row(name, accelerators[0], *(_used(item) for item in (was, now))))
    return ["", heading("Pools"), "", *table(("pool", "GPU", "GPUs before", "GPUs after"), rows)] if rows else []


def _used(pool: PoolPlan | None) -> str:
    if pool is None:
        return _NONE
    return str(pool.gpus_planned) if pool.unlimited else f"{pool.gpus_planned} of {pool.gpus_allocatable}"


def _notes(before: FleetPlan, after: FleetPlan) -> list[str]:
    old, new = (_told(fleet) for fleet in (before, after))
    lines = []
    for title, found in (("New warnings and errors", new.keys() - old.keys()), ("Gone", old.keys() - new.keys())):
        if found:
            lines += ["", heading(title), ""]
            told = {**old, **new}
            lines += [f"- {told[key]}" for key in sorted(found)]
    return lines


def _told(fleet: FleetPlan) -> Mapping[tuple[str, str, str], str]:
    return {(str(item.object), item.reason, item.message): _finding(item) for item in fleet.all_findings()}


def _finding(item: Finding) -> str:
    return row(f"**{item.severity.value}** {item.object}: {item.message} ({item.reason})").strip("| ")


def _digests(old: Inputs, new: Inputs) -> str:
    digests = [inputs_digest(item.snapshot())[:12] for item in (old, new)]
    return f"Inputs: `{digests[0]}` → `{digests[1]}`"
