"""A chain of PETALS servers as objects: blocks, caches, the front end beside the first, and how they meet."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning import plan_fleet
from plimsoll.planning.plan import DeploymentPlan
from plimsoll.planning.transition import Step
from plimsoll.rendering import Manifest, RenderMismatch, labels, verify
from tests.unit.planning.chain_cluster import MODEL, Running, cluster, deployment, only, render

RATE = 3
IMAGE = "example/plimsoll-petals:2.3"
PARTS = ("27", "27", "26")


def over_petals(precision: str = "int4", rate: int = RATE, tensor: int = 1) -> LLMDeployment:
    base = deployment(rate, parallelism={"tensor": [tensor]}).model_dump(mode="json", by_alias=True, exclude_none=True)
    base["spec"]["models"] = [{"name": MODEL, "precisions": [{"name": precision}]}]
    base["spec"]["engine"] = {"type": "petals", "images": {"nvidia": IMAGE}, "env": [{"name": "VLLM_X", "value": "1"}]}
    return LLMDeployment.model_validate(base)


Planned = tuple[DeploymentPlan, Step, tuple[Manifest, ...]]


@pytest.fixture(scope="module")
def planned() -> Planned:
    running = Running(cluster(over_petals()))
    fleet, step = running.turn()
    plan = only(fleet)
    return plan, step, render(fleet, plan, step)


def chain_of(planned: Planned) -> list[Manifest]:
    """The servers of the first chain."""
    plan, _, manifests = planned
    known = {item["metadata"]["name"]: item for item in manifests if item["kind"] == "StatefulSet"}
    return [known[name] for name in plan.chains[0].servers]


def container(server: Manifest) -> Manifest:
    (found,) = server["spec"]["template"]["spec"]["containers"]
    return found  # type: ignore[no-any-return]


def values(args: list[str], flag: str) -> list[str]:
    rest = args[args.index(flag) + 1 :] if flag in args else []
    end = next((number for number, one in enumerate(rest) if one.startswith("--")), len(rest))
    return rest[:end]


def test_servers_hold_all_blocks_and_caches_for_all_sessions(planned: Planned) -> None:
    plan, chain = planned[0], planned[0].chains[0]
    end = 0
    for server in chain_of(planned):
        args = container(server)["args"]
        assert args[0] == MODEL, "PETALS quantises the model's own weights"
        (blocks,) = values(args, "--block_indices")
        first, last = map(int, blocks.split(":"))
        assert first == end
        end = last
        assert values(args, "--quant_type") == ["nf4"]
        assert container(server)["image"] == IMAGE
        (length,), (tokens,) = values(args, "--inference_max_length"), values(args, "--attn_cache_tokens")
        longest = plan.resource.spec.traffic[0].tokens
        assert int(tokens) >= max(int(length), chain.places * (longest.input + longest.output))
    assert end == 80


def test_the_first_server_answers_requests_and_the_others_do_not(planned: Planned) -> None:
    first, *others = map(container, chain_of(planned))
    assert values(first["args"], "--served-model-name") == ["assistant", "assistant/chat", MODEL]
    assert values(first["args"], "--max-num-seqs") == [str(planned[0].chains[0].places)]
    assert first["ports"][0]["containerPort"] == 8000
    assert first["readinessProbe"]["httpGet"]["path"] == "/health"
    assert first["livenessProbe"]["httpGet"]["path"] == "/live", "a lost server is no reason to restart this one"
    for other in others:
        assert "--port" not in other["args"]
        assert "ports" not in other
        assert other["readinessProbe"]["tcpSocket"] == {"port": 31330}


def test_servers_find_each_other_before_they_are_ready_and_nobody_else_may_talk_to_them(planned: Planned) -> None:
    chain = planned[0].chains[0].name
    names = {f"{chain}-peers.chat.svc.cluster.local"}
    assert {one for server in chain_of(planned) for one in values(container(server)["args"], "--peers")} == names
    kinds = {
        (item["kind"], item["metadata"]["name"]): item
        for item in planned[2]
        if item["metadata"]["labels"].get(labels.CHAIN) == chain
    }
    peers, policy = kinds["Service", f"{chain}-peers"], kinds["NetworkPolicy", chain]
    assert peers["spec"]["publishNotReadyAddresses"] is True
    members = {"matchLabels": {labels.CHAIN: chain}}
    assert policy["spec"]["ingress"][0] == {"from": [{"podSelector": members}]}
    assert {item["metadata"]["labels"][labels.NAME] for item in kinds.values()} == {"petals"}


def test_variables_of_vllm_are_not_set_and_no_name_is_there_twice(planned: Planned) -> None:
    for server in chain_of(planned):
        names = [item["name"] for item in container(server)["env"]]
        assert len(names) == len(set(names))
        assert not [name for name in names if name.startswith("VLLM_")]
        assert {"PETALS_CACHE", "PLIMSOLL_POD_IP", "HF_HOME"} <= set(names)


def test_several_gpus_split_each_block() -> None:
    snapshot = cluster(over_petals("int8", tensor=2), per_region=3)
    nodes = tuple(
        replace(item, allocatable={**item.allocatable, "nvidia.com/gpu": 2.0}) for item in snapshot.nodes or ()
    )
    running = Running(replace(snapshot, nodes=nodes))
    fleet, step = running.turn()
    (server, *_) = (item for item in render(fleet, only(fleet), step) if item["kind"] == "StatefulSet")
    assert values(container(server)["args"], "--tensor_parallel_devices") == ["cuda:0", "cuda:1"]
    assert values(container(server)["args"], "--quant_type") == ["int8"]


def test_a_chain_stays_as_it_is_and_another_engine_makes_another_chain() -> None:
    running = Running(cluster(over_petals(), per_region=6))
    running.settle()
    before = {item.name for item in running.snapshot.workloads}
    _, step = running.turn()
    assert set(step.replicas) == before
    running.snapshot = replace(running.snapshot, deployments=(deployment(RATE),))
    _, step = running.turn()
    assert step.prune == (), "what runs serves until the others are Ready"
    running.settle()
    assert not before & {item.name for item in running.snapshot.workloads}


def test_sessions_take_turns_so_petals_carries_less_than_vllm() -> None:
    petals, vllm = (only(plan_fleet(cluster(one, per_region=2))) for one in (over_petals(rate=60), deployment(60)))
    assert petals.chains
    assert sum(chain.requests_per_minute for chain in petals.chains) < sum(
        chain.requests_per_minute for chain in vllm.chains
    )


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--block_indices", "0:26"),
        ("--attn_cache_tokens", "1"),
        ("--quant_type", "int8"),
        ("--peers", "elsewhere.chat.svc.cluster.local"),
        ("--max-num-seqs", "99"),
    ],
)
def test_what_differs_from_the_plan_is_not_applied(planned: Planned, flag: str, value: str) -> None:
    plan, step, manifests = planned
    changed = copy.deepcopy(manifests)
    name = plan.chains[0].servers[0]
    (server,) = [item for item in changed if item["kind"] == "StatefulSet" and item["metadata"]["name"] == name]
    args = container(server)["args"]
    args[args.index(flag) + 1] = value
    with pytest.raises(RenderMismatch, match=flag):
        verify(plan, step, changed)
