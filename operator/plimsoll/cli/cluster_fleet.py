"""`kubectl plimsoll status | explain | pause | resume`: the fleet of a cluster."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from plimsoll.cli.cluster import Cluster, ClusterError, Target, asked
from plimsoll.cli.cluster_plans import print_data, print_decision, record_document
from plimsoll.cli.explain import explanation_document, print_deployment
from plimsoll.cli.table import new_table, way_of, wide_console
from plimsoll.cli.text import counted
from plimsoll.controller import records
from plimsoll.controller.kinds import RESOURCES
from plimsoll.controller.records import Record
from plimsoll.planning.explain import Chosen, ClassExplanation, DeploymentExplanation
from plimsoll.planning.pause import PAUSED
from plimsoll.planning.plan import ClassPlan, DeploymentPlan, FleetPlan
from plimsoll.planning.variants import label_of

_LLM, _POOL, _POLICY = (RESOURCES[name] for name in ("LLMDeployment", "GPUNodePool", "PlacementPolicy"))
Manifest = Mapping[str, Any]


def run_cluster_explain(target: Target, deployment: str, plan: str, output: str) -> int:
    """Print why one LLMDeployment is placed as it is in a plan of the cluster."""

    async def work(cluster: Cluster) -> tuple[Record, FleetPlan, str]:
        record = await cluster.plan(plan)
        return record, await cluster.details(record), cluster.namespace

    record, fleet, namespace = asked(target, work)
    wanted = deployment if "/" in deployment else f"{namespace}/{deployment}"
    found = next((item for item in fleet.deployments if f"{item.ref.namespace}/{item.ref.name}" == wanted), None)
    if found is None:
        known = ", ".join(f"{item.ref.namespace}/{item.ref.name}" for item in fleet.deployments[:20])
        raise ClusterError(f"{record.name} has no LLMDeployment {wanted}; it has: {known or 'none'}")
    explanation = DeploymentExplanation(found.ref, tuple(_explained(found, item) for item in found.classes))
    if output == "table":
        console = wide_console()
        console.print(f"{record.name}, {record.status.state or 'new'}", style="dim")
        print_decision(console, record, found.ref.namespace, found.ref.name)
        print_deployment(console, explanation)
        for finding in found.findings:
            console.print(
                f"{finding.severity.value}: {finding.message} [{finding.reason}]", soft_wrap=True, markup=False
            )
    else:
        document = {"plan": record.name, "decision": record_document(record)}
        print_data({**document, **explanation_document([explanation], [])}, output)
    return 0


def _explained(plan: DeploymentPlan, item: ClassPlan) -> ClassExplanation:
    if plan.chains:
        return ClassExplanation(item.name, item.unserved, tuple(_chains(plan, item)), item.rejected, ())
    chosen = [
        Chosen(label_of(placement.option), placement.name, part.value, placement.replicas, placement.price_per_hour)
        for placement in plan.placements
        for part in placement.shares
        if part.traffic == item.name
    ]
    return ClassExplanation(item.name, item.unserved, tuple(chosen), item.rejected, ())


def run_pause(target: Target, deployment: str, *, paused: bool, everything: bool) -> int:
    """Set or take away the annotation that stops the operator's writes for an LLMDeployment, or for all."""
    if everything == bool(deployment):
        raise click.UsageError("name one LLMDeployment, or give --all")
    patch = {"metadata": {"annotations": {PAUSED: "true" if paused else None}}}
    word = "paused" if paused else "resumed"

    async def work(cluster: Cluster) -> str:
        if everything:
            await cluster.patch(_POLICY, "default", patch)
            return f"placementpolicy.plimsoll.dev/default {word}"
        namespace, _, name = deployment.rpartition("/")
        await cluster.patch(_LLM, name, patch, namespace or cluster.namespace)
        return f"llmdeployment.plimsoll.dev/{name} {word}"

    click.echo(asked(target, work))
    return 0


def run_status(target: Target, output: str) -> int:
    """Print the fleet: every LLMDeployment, every pool, and what waits for a person."""

    async def work(cluster: Cluster) -> tuple[list[Manifest], list[Manifest], list[Manifest], list[Record]]:
        return (
            await cluster.all(_LLM, target.namespace or ""),
            await cluster.all(_POOL),
            await cluster.all(_POLICY),
            await cluster.plans(),
        )

    deployments, pools, policies, plans = asked(target, work)
    if output != "table":
        print_data(_status_document(deployments, pools, policies, plans), output)
        return 0
    console = wide_console()
    table = new_table("LLMDeployment", "ready", "plan", "replicas", "GPUs", "cost/h", "SLO")
    for item in deployments:
        status = item.get("status") or {}
        table.add_row(
            f"{item['metadata']['namespace']}/{item['metadata']['name']}",
            _condition(item, "Ready", "status"),
            "Paused" if _paused(item) else _condition(item, "Planned", "reason"),
            str(status.get("replicas", "-")),
            str(status.get("gpus", "-")),
            str(status.get("costPerHour", "-")),
            str(status.get("slo", "-")),
        )
    console.print(table)
    console.print()
    table = new_table("pool", "accelerator", "nodes", "GPUs", "used by Plimsoll", "used by others", "free")
    for item in pools:
        status = item.get("status") or {}
        gpus = status.get("gpus") or {}
        figures = (str(gpus.get(key, "-")) for key in ("total", "usedByPlimsoll", "usedByOthers", "free"))
        accelerator = str(item["spec"].get("accelerator", "custom"))
        table.add_row(item["metadata"]["name"], accelerator, str(status.get("nodes", "-")), *figures)
    console.print(table)
    console.print()
    for line in _sentences(deployments, policies, plans):
        console.print(line, soft_wrap=True)
    return 0


def _sentences(deployments: Sequence[Manifest], policies: Sequence[Manifest], plans: Sequence[Record]) -> list[str]:
    policy = next(iter(policies), None)
    status = (policy or {}).get("status") or {}
    mode = "Automatic" if policy is None else policy["spec"].get("approval", "Automatic")
    followed = records.in_force(plans)
    name = followed.name if followed is not None else "no plan"
    count = counted(len(deployments), "LLMDeployment")
    lines = [f"{count}, {status.get('costPerHour', '?')} per hour; approval {mode}; in force: {name}"]
    if policy is not None and _paused(policy):
        lines.append("paused: the operator writes nothing (kubectl plimsoll resume --all)")
    lines.extend(
        f"{record.name} waits: kubectl plimsoll approve {record.name}"
        for record in plans
        if record.status.state == "AwaitingApproval"
    )
    return lines


def _status_document(
    deployments: Sequence[Manifest], pools: Sequence[Manifest], policies: Sequence[Manifest], plans: Sequence[Record]
) -> dict[str, Any]:
    followed = records.in_force(plans)
    return {
        "planInForce": followed.name if followed is not None else "",
        "waiting": [record.name for record in plans if record.status.state == "AwaitingApproval"],
        "deployments": [_brief(item) for item in deployments],
        "pools": [_brief(item) for item in pools],
        "policies": [_brief(item) for item in policies],
    }


def _brief(item: Manifest) -> dict[str, Any]:
    metadata = {key: item["metadata"][key] for key in ("namespace", "name") if key in item["metadata"]}
    return {**metadata, "paused": _paused(item), "status": item.get("status") or {}}


def _paused(item: Manifest) -> bool:
    return (item["metadata"].get("annotations") or {}).get(PAUSED) == "true"


def _condition(item: Manifest, type_: str, key: str) -> str:
    found = (item.get("status") or {}).get("conditions") or ()
    return next((str(each.get(key, "-")) for each in found if each.get("type") == type_), "-")


def _chains(plan: DeploymentPlan, item: ClassPlan) -> Iterator[Chosen]:
    known = {placement.name: placement for placement in plan.placements}
    for chain in plan.chains:
        first = known[chain.name]
        price = sum(known[name].price_per_hour for name in chain.servers)
        share = sum(part.value for part in first.shares if part.traffic == item.name)
        yield Chosen(f"{label_of(first.option)}: {way_of(chain, plan)}", chain.name, share, 1, price)
