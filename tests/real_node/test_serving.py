"""One LLMDeployment through its life on real nodes, under load: no request is lost where none is meant to be.

The tests build on each other, in this order.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from typing import Any

from devcluster.cluster import Cluster
from devcluster.real_node import RealNode
from tests.control_plane.bench import Bench, Manifest, deleting, document, llm_deployment, placement_of, ready, settled
from tests.real_node.conftest import NAME, NAMESPACE, PROPAGATION_SECONDS
from tests.real_node.images import ENGINE_IMAGE
from tests.real_node.load import Load

Nodes = tuple[Cluster, list[RealNode]]
A100, L40S = 0, 1
ROUTER = "app.kubernetes.io/name=assistant-router"


def assistant(requests_per_minute: int) -> Manifest:
    """Three replicas: at these rates one A100 and two L40S are the cheapest, and how they share depends on the rate."""
    traffic = {"name": "default", "requestsPerMinute": requests_per_minute, "tokens": {"input": 500, "output": 200}}
    return llm_deployment(
        NAME,
        NAMESPACE,
        traffic=[traffic],
        placement={"replicas": {"min": 3, "max": 4}, "parallelism": {"tensor": [1], "pipeline": [1]}},
        engine={
            "images": {"nvidia": ENGINE_IMAGE},
            "maxModelLength": 4096,
            "env": [{"name": "PLIMSOLL_EMULATE_GPU", "value": "L40S"}],
        },
    )


def engines(bench: Bench) -> list[Manifest]:
    """The pods that serve."""
    return [pod for pod in bench.own("pods") if not deleting(pod)]


def routers(bench: Bench) -> list[str]:
    """Addresses of the routers, by node."""
    pods = [pod for pod in bench.all("pods", selector=ROUTER) if ready(pod)]
    pods.sort(key=lambda pod: str(pod["spec"]["nodeName"]))
    return [f"http://{pod['status']['podIP']}:8080" for pod in pods]


def weights(bench: Bench) -> dict[str, int]:
    """Placement -> weight, as the document says."""
    (item,) = document(bench.get("configmap", f"{NAME}-routing", NAMESPACE))["classes"]
    return {backend["placement"]: backend["weight"] for backend in item["backends"]}


def load(bench: Bench, **options: Any) -> Load:
    """Requests to both routers."""
    return Load(routers(bench), NAME, **options)


def served(pod: Manifest) -> float:
    """Requests that an engine has answered wholly."""
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8000/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:request_success_total{"))


def test_a_deployment_is_ready_when_its_engines_answer_and_the_router_serves_it(bench: Bench) -> None:
    bench.apply(assistant(1090))
    bench.settle(180)
    pods = engines(bench)
    assert len(pods) == 3
    assert all(ready(pod) for pod in pods)
    assert len(weights(bench)) == 2
    bench.wait("two routers", lambda: len(routers(bench)) == 2)
    for router in routers(bench):
        body = json.dumps({"model": NAME, "prompt": "hello", "max_tokens": 5}).encode()
        request = urllib.request.Request(f"{router}/v1/completions", body, {"Content-Type": "application/json"})

        def asked(request: urllib.request.Request = request) -> bool:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return bool(json.loads(answer.read())["usage"]["completion_tokens"] == 5)
            except OSError:
                return False

        bench.wait(f"an answer through {router}", asked, 40)


def test_a_change_of_shares_loses_no_request_and_touches_no_pod(bench: Bench) -> None:
    pods, before = bench.pod_uids(), weights(bench)
    with load(bench) as running:
        time.sleep(2)
        bench.set(NAME, NAMESPACE, "/spec/traffic/0/requestsPerMinute", 1230)
        bench.wait("other shares", lambda: weights(bench) != before)
        time.sleep(PROPAGATION_SECONDS)
        start = {pod["metadata"]["uid"]: served(pod) for pod in engines(bench)}
        time.sleep(15)
        counted: dict[str, float] = {}
        for pod in engines(bench):
            name = placement_of(pod)
            counted[name] = counted.get(name, 0.0) + served(pod) - start[pod["metadata"]["uid"]]
    assert running.account.lost == []
    assert running.account.answered == running.account.sent > 200
    assert bench.pod_uids() == pods
    total = sum(counted.values())
    for name, weight in weights(bench).items():
        assert abs(counted[name] / total - weight / 1000) < 0.05, (counted, weights(bench))


def test_an_engine_that_fails_its_probe_gets_no_request_until_it_answers_again(bench: Bench, nodes: Nodes) -> None:
    pods = bench.pod_uids()
    victim = engine_on(bench, nodes[1][L40S])
    with load(bench) as running:
        time.sleep(2)
        signal_engine(nodes[1][L40S], victim, "SIGSTOP")
        bench.wait("not Ready", lambda: not ready(bench.get("pod", victim["metadata"]["name"], NAMESPACE)), 30)
        time.sleep(1)
        # its end waits for every answer, and the engine gives none
        with load(bench) as meanwhile:
            time.sleep(2)
        signal_engine(nodes[1][L40S], victim, "SIGCONT")
        bench.wait("Ready again", lambda: ready(bench.get("pod", victim["metadata"]["name"], NAMESPACE)), 30)
    assert meanwhile.account.lost == []
    assert running.account.lost == [], "what it had taken, it has answered late"
    assert bench.pod_uids() == pods
    bench.settle()


def test_a_crashed_engine_is_started_again_and_only_its_streams_break(bench: Bench, nodes: Nodes) -> None:
    pods = bench.pod_uids()
    victim = engine_on(bench, nodes[1][L40S])
    before = restarts(bench, victim)
    # answers of some five seconds: enough of them run there when it dies
    with load(bench) as running, load(bench, per_second=2, answer_tokens=150) as long:
        time.sleep(6)
        signal_engine(nodes[1][L40S], victim, "SIGKILL")
        bench.wait("another start", lambda: restarts(bench, victim) == before + 1, 30)
        bench.wait("ready again", lambda: ready(bench.get("pod", victim["metadata"]["name"], NAMESPACE)), 60)
        time.sleep(3)
    assert bench.pod_uids() == pods, "the kubelet restarts a container; no pod is replaced"
    lost = running.account.lost + long.account.lost
    assert all("streamed" in line for line in lost), lost
    assert len(lost) <= 5
    bench.settle()


def test_a_change_of_placement_loses_no_request(bench: Bench) -> None:
    before = bench.pod_uids()
    # answers of a dozen seconds: those that run when their engine is told to end may finish
    with load(bench) as running, load(bench, per_second=0.5, answer_tokens=400) as long:
        time.sleep(2)
        bench.set(NAME, NAMESPACE, "/spec/engine/extraArgs", ["--enable-prefix-caching"])
        bench.wait("a transition", lambda: not settled(bench.get("llmdeployment", NAME, NAMESPACE)))
        bench.settle(240)
    assert running.account.lost == []
    assert long.account.lost == []
    assert running.account.answered == running.account.sent
    assert len(bench.pod_uids()) == 3
    assert not bench.pod_uids() & before


def test_a_reboot_breaks_the_streams_that_ran_there_and_nothing_else(bench: Bench, nodes: Nodes) -> None:
    node = nodes[1][L40S]
    before = {pod["metadata"]["name"]: pod for pod in engines(bench)}
    old = {container_of(pod) for pod in pods_on(bench, node)}
    survivor = routers(bench)[A100]
    with Load([survivor], NAME) as during:
        time.sleep(2)
        node.power_off()
        node.start()
        # The API server calls the old containers Ready until the kubelet says otherwise.
        bench.wait("new containers", lambda: not old & {container_of(pod) for pod in pods_on(bench, node)}, 120)
        bench.wait("every engine Ready", lambda: sum(ready(pod) for pod in engines(bench)) == 3, 120)
    # Whole answers that ran there are asked for once more; not even what came while it was down is lost.
    assert all("streamed" in line for line in during.account.lost), during.account.lost
    assert len(during.account.lost) <= 5
    bench.settle(120)
    assert {name for name, pod in before.items() if pod["spec"]["nodeName"] != node.name} <= {
        pod["metadata"]["name"] for pod in engines(bench)
    }
    bench.wait("both routers", lambda: len(routers(bench)) == 2)
    with load(bench) as after:
        time.sleep(5)
    assert after.account.lost == []


def test_a_drained_node_is_left_without_losing_a_request(bench: Bench, nodes: Nodes) -> None:
    name = nodes[1][A100].name
    router = routers(bench)[L40S]
    with Load([router], NAME) as running:
        time.sleep(2)
        bench.cluster.kubectl("drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
        bench.settle(180)
    assert running.account.lost == []
    assert {pod["spec"]["nodeName"] for pod in engines(bench)} == {nodes[1][L40S].name}
    bench.cluster.kubectl("uncordon", name)


def engine_on(bench: Bench, node: RealNode) -> Manifest:
    """A pod that serves there."""
    return next(pod for pod in engines(bench) if pod["spec"]["nodeName"] == node.name)


def pods_on(bench: Bench, node: RealNode) -> list[Manifest]:
    """Engines and routers there."""
    pods = [*engines(bench), *bench.all("pods", selector=ROUTER)]
    return [pod for pod in pods if pod["spec"].get("nodeName") == node.name]


def container_of(pod: Manifest) -> str:
    """Id of the only container of a pod; empty while it has none."""
    (status,) = pod["status"].get("containerStatuses", [{}])
    return str(status.get("containerID", ""))


def signal_engine(node: RealNode, pod: Manifest, name: str) -> None:
    """Sends a signal to the engine of a pod, past the kubelet."""
    container = container_of(pod).removeprefix("containerd://")
    subprocess.run(
        node.inside("ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", name, container), check=True
    )


def restarts(bench: Bench, pod: Manifest) -> int:
    """How often the container of a pod was started again."""
    (status,) = bench.get("pod", pod["metadata"]["name"], NAMESPACE)["status"]["containerStatuses"]
    return int(status["restartCount"])
