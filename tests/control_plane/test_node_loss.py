"""`tolerateNodeLoss: 1` on the real scheduler: replicas spread as planned, and a lost node leaves enough of them."""

from __future__ import annotations

from collections import Counter

from tests.control_plane.bench import (
    Bench,
    Manifest,
    conditions,
    deleting,
    llm_deployment,
    placements,
    policy,
    pool,
    ready,
)

NAME = "assistant"
POLICY = policy(availability={"tolerateNodeLoss": 1})


def nodes_of(bench: Bench) -> Counter[str]:
    """Ready pods per node."""
    return Counter(pod["spec"]["nodeName"] for pod in bench.own("pods") if ready(pod))


def spread_of(pod: Manifest) -> Manifest:
    (constraint,) = pod["spec"]["topologySpreadConstraints"]
    found: Manifest = constraint
    return found


def said(bench: Bench) -> str:
    """What the condition Planned says."""
    return str(conditions(bench.get("llmdeployment", NAME))["Planned"]["message"])


def test_replicas_spread_and_survive_a_node_and_the_lack_of_nodes_is_told(bench: Bench) -> None:
    bench.apply(POLICY, pool("l40s", "L40S", "1.10"), llm_deployment(NAME, rate=1500))
    (deployment,) = bench.settle()
    limits = {spread_of(pod)["maxSkew"] for pod in bench.own("pods")}
    replicas = sum(item["replicas"]["desired"] for item in placements(deployment).values())
    found = nodes_of(bench)
    assert sum(found.values()) == replicas > len(found), "more replicas than nodes, or the limit shows nothing"
    assert max(found.values()) <= sum(limits)

    lost, gone = found.most_common(1)[0]
    assert gone < replicas
    stranded = [pod["metadata"] for pod in bench.own("pods") if pod["spec"]["nodeName"] == lost]
    bench.cluster.kubectl("delete", "node", lost)
    # The pod garbage collector does the same after 40 s.
    for pod in stranded:
        options = (f"--namespace={pod['namespace']}", "--force", "--grace-period=0", "--ignore-not-found")
        bench.cluster.kubectl("delete", "pod", pod["name"], *options)
    bench.wait(
        "as many replicas on the other nodes, or as many as these take",
        lambda: lost not in nodes_of(bench) and not [pod for pod in bench.own("pods") if deleting(pod)],
    )
    (after,) = bench.settle()
    served = after["status"]["traffic"][0]
    assert float(served["unserved"]) == 0.0

    bench.apply(pool("l40s", "L40S", "1.10", nodes={"max": 1}), llm_deployment(NAME, rate=60))
    bench.wait("the warning that one node is too few", lambda: "tolerateNodeLoss: 1 is not kept" in said(bench))
