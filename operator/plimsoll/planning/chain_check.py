"""Whether a chained plan keeps the rules, decided from what will be rendered and from the nodes."""

from collections import Counter
from collections.abc import Iterator

from plimsoll.chains import check
from plimsoll.planning.chained import ChainedPlan
from plimsoll.planning.plan import DeploymentPlan, Placement, PlannedChain
from plimsoll.planning.snapshot import Snapshot

_SLACK = 1e-6


def broken_rules(plan: DeploymentPlan, found: ChainedPlan, snapshot: Snapshot) -> list[str]:
    """What is wrong, as sentences. The snapshot has the servers of other chained LLMDeployments as running."""
    placements = {item.name: item for item in plan.placements}
    named = Counter(name for chain in plan.chains for name in chain.servers)
    wrong = [f"{name} is in {count} chains" for name, count in named.items() if count > 1]
    wrong += [f"{name} is in no chain" for name in placements if name not in named]
    wrong += [f"chain server {name} is no placement" for name in named if name not in placements]
    if wrong:
        return wrong
    for chain in plan.chains:
        wrong += _of_chain(chain, [placements[name] for name in chain.servers], found.model.layers)
    sessions = [chain.route for chain in found.chosen.chains for _ in range(chain.places)]
    wrong += check(found.problem, found.chosen.placement, sessions)
    wrong += _of_nodes(plan, snapshot)
    for item in plan.classes:
        total = sum(
            share.value for placement in plan.placements for share in placement.shares if share.traffic == item.name
        )
        if not -_SLACK < total < 1 + _SLACK or abs(total + item.unserved - 1) > _SLACK:
            wrong.append(f"class {item.name}: chains serve {total:.6g} of it, and {item.unserved:.6g} are unserved")
    return wrong


def _of_chain(chain: PlannedChain, servers: list[Placement], layers: int) -> Iterator[str]:
    position = 0
    for number, placement in enumerate(servers):
        stage, option = placement.option.stage, placement.option
        if stage is None or stage.number != number or stage.chain != chain.name or placement.replicas != 1:
            yield f"{placement.name} is not server {number} of chain {chain.name}"
            continue
        if stage.first_layer != position or stage.layers < 1 or len(stage.partition) != len(servers):
            yield f"{placement.name} begins with layer {stage.first_layer}; layer {position} is next in its chain"
        position = stage.first_layer + stage.layers
        first = servers[0].option
        if (option.parallelism, option.model, option.precision, option.max_num_seqs, option.max_model_length) != (
            *(first.parallelism, first.model, first.precision, first.max_num_seqs, first.max_model_length),
        ):
            yield f"{placement.name} is run otherwise than the first server of its chain"
    if position != layers:
        yield f"chain {chain.name} ends before layer {position} of {layers}"


def _of_nodes(plan: DeploymentPlan, snapshot: Snapshot) -> Iterator[str]:
    """No node is asked for more than it has, beside the pods of others and those of its own that stay. Where nothing
    is new on a node, what runs there fits, whatever the node says by now."""
    if snapshot.nodes is None:
        return
    given_up = {item.name for item in snapshot.workloads if item.option.get("chain") in plan.given_up and plan.given_up}
    planned = {item.name for item in plan.placements}
    servers: dict[str, list[Placement]] = {}
    for item in plan.placements:
        if item.option.stage is not None:
            servers.setdefault(item.option.stage.node, []).append(item)
    for node in snapshot.nodes:
        here = servers.pop(node.name, [])
        running = {pod.placement for pod in snapshot.pods if pod.node == node.name}
        if all(item.name in running for item in here):
            continue
        others = [
            pod
            for pod in snapshot.pods
            if pod.node == node.name
            and not (pod.namespace == plan.ref.namespace and (pod.placement in planned or pod.placement in given_up))
        ]
        for resource in {item.option.gpu_resource for item in here}:
            held = sum(pod.requests.get(resource, 0.0) for pod in others)
            asked = sum(item.option.parallelism.gpus for item in here if item.option.gpu_resource == resource)
            has = node.allocatable.get(resource, 0.0)
            if held + asked > has + _SLACK:
                yield f"node {node.name} has {has:g} {resource}; chains take {asked} beside {held:g} of others"
    for name, left in servers.items():
        yield f"{left[0].name} is on node {name}, which does not exist"
