"""`make demo`: Plimsoll on a real control plane with three GPU pools, from `kubectl apply` to routed pods, then its
reaction to a surge of traffic, to the loss of a node, and to traffic that a Prometheus shows to rise and to fall."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from devcluster.binaries import binary
from devcluster.cluster import Cluster
from devcluster.components import COMPONENTS
from devcluster.installation import ROOT, Installation
from devcluster.nodes import demo_nodes
from devcluster.rising import COOL_DOWN_SECONDS, LOAD_SECONDS, LOOK_SECONDS, NAMESPACE, Rising

EXAMPLE = ROOT / "examples" / "fleet"
WAIT_SECONDS = 120.0
PROPAGATION_SECONDS = 2
"""KWOK has no routers to wait for; real ones need up to 150 s to see a mounted ConfigMap."""


class Demo:
    """Runs the acts in order and prints what a user would see."""

    def __init__(self, cluster: Cluster, operator: Installation, stack: ExitStack) -> None:
        """`stack` is closed when what the demo has started is to end."""
        self._cluster = cluster
        self._operator = operator
        self._rising = Rising(cluster, operator, stack)
        self._began = time.monotonic()

    def run(self) -> None:
        """All acts."""
        self._install()
        self._apply()
        self._show_plan()
        self._show_pods()
        self._show_routing()
        self._scale()
        self._lose_node()
        self._rise()
        self._say(f"done in {time.monotonic() - self._began:.0f} s")

    def _install(self) -> None:
        nodes = demo_nodes()
        self._cluster.apply(nodes)
        self._say(f"three pools of nodes: {len(nodes)} nodes with the labels of GPU feature discovery")
        self._operator.install()
        self._operator.start()
        self._operator.wait_ready()
        self._say("chart installed (CRDs, service account, RBAC); the operator runs with the chart's token")

    def _apply(self) -> None:
        for namespace in ("chat", "documents"):
            self._cluster.kubectl("create", "namespace", namespace)
        self._cluster.kubectl("apply", "--server-side", "-f", str(EXAMPLE))
        policy = {"spec": {"routing": {"propagationSeconds": PROPAGATION_SECONDS}}}
        self._cluster.kubectl("patch", "placementpolicy", "default", "--type=merge", "--patch", json.dumps(policy))
        self._say("kubectl apply -f examples/fleet")
        self._wait("pods Running and routed", self._settled)
        self._command("kubectl get llmdep,gnp,islo,pplan -A")

    def _show_plan(self) -> None:
        self._say("the plan with its reasons: the same decision from files, on this machine")
        with tempfile.TemporaryDirectory() as folder:
            stock, running = Path(folder, "stock.yaml"), Path(folder, "running.yaml")
            stock.write_text(self._cluster.kubectl("get", "nodes,pods", "-A", "-o", "yaml"))
            running.write_text(self._cluster.kubectl("get", "deployments", "-A", "-o", "yaml"))
            command = [sys.executable, "-m", "plimsoll.cli.main", "plan", "-f", str(EXAMPLE)]
            subprocess.run([*command, "--nodes", stock, "--running", running], check=False)
        print(flush=True)

    def _show_pods(self) -> None:
        self._command("kubectl get pods -A -l app.kubernetes.io/managed-by=plimsoll -o wide")
        self._say("one command line per placement")
        for workload in self._objects("deployments"):
            if workload["metadata"]["labels"].get("app.kubernetes.io/managed-by") != "plimsoll":
                continue
            container = workload["spec"]["template"]["spec"]["containers"][0]
            line = " ".join([*container.get("command", []), *container.get("args", [])])
            limits = json.dumps(container["resources"]["limits"])
            print(f"  {workload['metadata']['name']}\n    {line}\n    limits {limits}")
        print()

    def _show_routing(self) -> None:
        self._say("routing ConfigMap assistant-routing")
        config = json.loads(self._cluster.kubectl("get", "configmap", "assistant-routing", "-n", "chat", "-o", "json"))
        for name, text in config["data"].items():
            print(f"  {name}: {json.dumps(json.loads(text), indent=1) if name == 'routing.json' else text.strip()}")
        print()

    def _scale(self) -> None:
        self._say("traffic class turns of chat/assistant goes from 600 to 14000 requests per minute")
        before = self._placements()
        patch = [{"op": "replace", "path": "/spec/traffic/0/requestsPerMinute", "value": 14000}]
        self._cluster.kubectl(
            "patch", "llmdeployment", "assistant", "-n", "chat", "--type=json", "--patch", json.dumps(patch)
        )
        self._reaction(before)

    def _lose_node(self) -> None:
        used = [pod["spec"]["nodeName"] for pod in self._pods() if pod["spec"].get("nodeName")]
        node = max(set(used), key=lambda name: (used.count(name), name))
        self._say(f"node {node} is deleted; {used.count(node)} of Plimsoll's pods ran there")
        before = self._placements()
        self._cluster.kubectl("delete", "node", node)
        for pod in self._pods():
            if pod["spec"].get("nodeName") == node:
                # The pod garbage collector would do this after its quarantine of 40 s.
                self._cluster.kubectl(
                    *("delete", "pod", pod["metadata"]["name"], "-n", pod["metadata"]["namespace"]),
                    *("--force", "--grace-period=0", "--wait=false"),
                )
        self._reaction(before)

    def _rise(self) -> None:
        self._say(
            "a Prometheus: helm upgrade with prometheus.url, and LLMDeployment live/helpdesk on four nodes of 4 L40"
        )
        self._rising.prepare()
        self._wait("pods Running and routed", self._settled)
        self._rising.start()
        self._say(
            f"an emulated engine answers behind each of its pods. Faster than in earnest: the operator looks every "
            f"{LOOK_SECONDS} s (15), a model loads in {LOAD_SECONDS} s (a minute), and a shrink needs "
            f"{COOL_DOWN_SECONDS} s of less traffic (600)"
        )
        outcome = self._rising.play()
        self._say(outcome)
        self._command(f"kubectl get llmdep -n {NAMESPACE}")

    def _reaction(self, before: dict[str, str]) -> None:
        began = time.monotonic()
        self._wait("a new plan", lambda: "" if self._placements() != before else "no change yet", timeout_seconds=15.0)
        self._wait("pods Running and routed", self._settled)
        after = self._placements()
        for name in sorted({*before, *after}):
            change = f"{before.get(name, '-'):>7} → {after.get(name, '-')}"
            print(f"  {'  ' if before.get(name) == after.get(name) else '* '}{name:54}{change}")
        self._say(f"settled {time.monotonic() - began:.1f} s after the change")
        self._command("kubectl get llmdep,gnp,pplan -A")
        chosen = "--field-selector involvedObject.name=assistant --sort-by=.metadata.creationTimestamp"
        self._command(f"kubectl get events -n chat {chosen}", last=4)

    def _placements(self) -> dict[str, str]:
        """Placement -> ready/wanted replicas."""
        return {
            item["name"]: f"{item['replicas']['ready']}/{item['replicas']['desired']}"
            for deployment in self._objects("llmdeployments")
            for item in deployment.get("status", {}).get("placements", [])
        }

    def _settled(self) -> str:
        """What is still missing; empty when every LLMDeployment is Ready for its present generation and plan."""
        pending = []
        for deployment in self._objects("llmdeployments"):
            status = deployment.get("status", {})
            conditions = {item["type"]: item for item in status.get("conditions", [])}
            current = status.get("observedGeneration") == deployment["metadata"]["generation"]
            ready = conditions.get("Ready", {}).get("status") == "True"
            moving = conditions.get("Rebalancing", {}).get("status") == "True"
            if not current or not ready or moving:
                pending.append(deployment["metadata"]["name"])
        running = sum(pod["status"].get("phase") == "Running" for pod in self._pods())
        return f"{running} pods Running, waiting for {', '.join(pending)}" if pending else ""

    def _pods(self) -> list[dict[str, Any]]:
        return self._objects("pods", "--selector=app.kubernetes.io/managed-by=plimsoll")

    def _objects(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self._cluster.kubectl("get", kind, "-A", "-o", "json", *arguments))[
            "items"
        ]
        return items

    def _wait(self, what: str, missing: Callable[[], str], timeout_seconds: float = WAIT_SECONDS) -> None:
        """Polls until nothing is missing, with a progress line.

        Raises:
            TimeoutError: with the end of the operator's log.
        """
        began, shown = time.monotonic(), ""
        while note := missing():
            waited = time.monotonic() - began
            if waited > timeout_seconds:
                log = self._operator.process.tail(30) if self._operator.process is not None else ""
                raise TimeoutError(f"{what}: {note} after {waited:.0f} s\n{log}")
            if note != shown:
                print(f"  … {waited:4.1f} s  {note}", flush=True)
                shown = note
            time.sleep(0.5)
        print(f"  … {time.monotonic() - began:4.1f} s  {what}", flush=True)

    def _command(self, line: str, last: int = 0) -> None:
        print(f"\n$ {line}")
        lines = self._cluster.kubectl(*line.split()[1:]).rstrip().splitlines()
        shown = [lines[0], *lines[1:][-last:]] if last and lines else lines
        print("\n".join(f"  {text}" for text in shown) + "\n", flush=True)

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:5.1f} s] {text}", flush=True)


def main() -> int:
    """Run the demo; with --keep, leave everything running until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster and the operator running until Ctrl-C")
    keep = parser.parse_args().keep
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _interrupt(stop))
    for name in (*COMPONENTS, "prometheus"):
        binary(name)
    began = time.monotonic()
    with Cluster() as cluster:
        parts = "etcd, kube-apiserver, kube-controller-manager, kube-scheduler, KWOK"
        print(f"control plane up in {time.monotonic() - began:.1f} s: {parts}", flush=True)
        operator, stack = Installation(cluster), ExitStack()
        try:
            Demo(cluster, operator, stack).run()
            if keep:
                print(f"\nexport KUBECONFIG={cluster.kubeconfig}")
                print(f"The operator logs to {cluster.logs}. Ctrl-C ends it all.", flush=True)
                stop.wait()
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
        finally:
            stack.close()
            operator.stop()
    return 0


def _interrupt(stop: threading.Event) -> None:
    if stop.is_set():
        return
    stop.set()
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
