"""What the tests of the running operator share: looking at the cluster, waiting, cleaning up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from devcluster.audit import Mark
from devcluster.cluster import Cluster
from devcluster.installation import NAMESPACE as OPERATOR_NAMESPACE
from devcluster.installation import ROOT, USER, Installation
from plimsoll.api import GROUP, KINDS, VERSION
from plimsoll.controller.guarding import NAME as GUARD
from plimsoll.rendering import labels

EXAMPLES = ROOT / "examples"
ANNOTATIONS = "devcluster.test"
PROPAGATION_SECONDS = 3
"""What the tests' policy says: KWOK has no routers that must see a new routing document."""
OWN = f"{labels.MANAGED_BY}={labels.MANAGER}"
POLL_SECONDS = 0.4
PLURALS = {kind.__name__: kind.names.plural for kind in KINDS}

Manifest = dict[str, Any]
Key = tuple[str, str, str]
T = TypeVar("T")


class Bench:
    """A cluster with the chart installed, and the operator process."""

    def __init__(self, cluster: Cluster, operator: Installation) -> None:
        self.cluster = cluster
        self.operator = operator

    # --- Looking -----------------------------------------------------------------------------------------------------

    def all(self, *kinds: str, selector: str = "") -> list[Manifest]:
        """Objects of all namespaces, by one kubectl."""
        options = [f"--selector={selector}"] if selector else []
        text = self.cluster.kubectl("get", ",".join(kinds), "--all-namespaces", "--output=json", *options)
        items: list[Manifest] = json.loads(text)["items"]
        return items

    def own(self, *kinds: str) -> list[Manifest]:
        """Objects that Plimsoll made."""
        return self.all(*kinds, selector=OWN)

    def read(self, path: str) -> Iterator[Manifest]:
        """Objects as the API server sends them, which is quick for many."""
        answer = json.loads(self.cluster.kubectl("get", "--raw", path))
        for item in answer["items"]:
            yield {"kind": answer["kind"].removesuffix("List"), **item}

    def get(self, kind: str, name: str, namespace: str = "default") -> Manifest:
        """One object."""
        text = self.cluster.kubectl("get", kind, name, f"--namespace={namespace}", "--output=json")
        item: Manifest = json.loads(text)
        return item

    def events(self, kind: str, name: str, namespace: str = "default") -> list[Manifest]:
        """Events about one object, oldest first."""
        events = [
            event
            for event in self.all("events.events.k8s.io")
            if (event["regarding"]["kind"], event["regarding"]["name"]) == (kind, name)
            and event["metadata"]["namespace"] == namespace
        ]
        return sorted(events, key=lambda event: str(event["eventTime"]))

    def writes(self, mark: Mark) -> list[Manifest]:
        """What the operator wrote since then, Lease renewals and the Event of who leads apart."""
        return [item for item in self.cluster.writes_since(mark, USER) if not _tells_who_leads(item)]

    def wrote(self, mark: Mark) -> list[str]:
        """The same, as a person would note it down."""
        return [
            f"{item['verb']} {item['requestURI']} {item.get('responseStatus', {}).get('code')}"
            for item in self.writes(mark)
        ]

    def pod_uids(self) -> frozenset[str]:
        """The pods that Plimsoll made; one that is being deleted counts as gone."""
        return frozenset(pod["metadata"]["uid"] for pod in self.own("pods") if not deleting(pod))

    # --- Waiting -----------------------------------------------------------------------------------------------------

    def wait(self, what: str, probe: Callable[[], T | None], seconds: float = 60.0) -> T:
        """Polls until the probe gives something true, and returns that.

        Raises:
            AssertionError: with the end of the operator's log.
        """
        deadline = time.monotonic() + seconds
        while not (found := probe()):
            if time.monotonic() > deadline:
                process = self.operator.process
                lines = process.tail(15).splitlines() if process is not None else ["it does not run"]
                log = "\n".join(line[:300] for line in lines)
                raise AssertionError(f"{what}: not within {seconds:.0f} s; the operator's log ends:\n{log}")
            time.sleep(POLL_SECONDS)
        return found

    def settle(self, seconds: float = 60.0) -> list[Manifest]:
        """Waits until every LLMDeployment is Ready as it is written now and no transition goes on; returns them."""
        late: list[str] = []

        def probe() -> list[Manifest] | None:
            objects = self.all("llmdeployments", "pods")
            found = [item for item in objects if item["kind"] == "LLMDeployment"]
            late[:] = [item["metadata"]["name"] for item in found if not settled(item)]
            late.extend(item["metadata"]["name"] for item in objects if item["kind"] == "Pod" and deleting(item))
            return found if found and not late else None

        try:
            return self.wait("every LLMDeployment Ready", probe, seconds)
        except AssertionError as error:
            raise AssertionError(f"{late}; {self._unsettled()}: {error}") from error

    def _unsettled(self) -> str:
        """What stands in the way of rest: what one LLMDeployment says, pods and nodes that are not Ready."""
        found = self.all("llmdeployments", "pods", "nodes")
        open_ = [item for item in found if item["kind"] == "LLMDeployment" and not settled(item)][:1]
        says = [
            f"{name}={each['status']} {each['reason']}: {each.get('message', '')[:200]}"
            for item in open_
            for name, each in conditions(item).items()
        ]
        bad = [
            f"{item['kind']} {item['metadata']['name']} on {item['spec'].get('nodeName', 'no node')}"
            for item in found
            if item["kind"] in ("Pod", "Node") and not ready(item)
        ]
        return "\n".join([*says, f"{len(bad)} pods and nodes not Ready: {bad[:8]}"])

    def wait_condition(
        self, kind: str, name: str, namespace: str, type_: str, status: str, reason: str, seconds: float = 20.0
    ) -> Manifest:
        """Waits until the object's condition is so, for its present generation; returns the condition."""
        seen: list[Any] = []

        def probe() -> Manifest | None:
            target = self.get(kind, name, namespace)
            seen[:] = target.get("status", {}).get("conditions", [])
            condition = conditions(target).get(type_, {})
            current = condition.get("observedGeneration") == target["metadata"]["generation"]
            return condition if current and (condition["status"], condition["reason"]) == (status, reason) else None

        try:
            return self.wait(f"{kind} {name} {type_}={status} {reason}", probe, seconds)
        except AssertionError as error:
            raise AssertionError(f"{json.dumps(seen, indent=1)}\n{error}") from error

    # --- Acting ------------------------------------------------------------------------------------------------------

    def apply(self, *manifests: Manifest) -> None:
        """Applies as a person would."""
        self.cluster.apply(list(manifests))

    def apply_example(self, name: str) -> None:
        """Applies a folder of examples/, with a policy under which transitions are quick."""
        self.cluster.kubectl("apply", "--server-side", "--force-conflicts", "--filename", str(EXAMPLES / name))

    def patch(self, kind: str, name: str, namespace: str, *operations: Manifest) -> None:
        """A JSON patch."""
        arguments = ("patch", kind, name, f"--namespace={namespace}", "--type=json")
        self.cluster.kubectl(*arguments, "--patch", json.dumps(operations))

    def set(self, name: str, namespace: str, path: str, value: object) -> None:
        """Changes one field of an LLMDeployment."""
        self.patch("llmdeployment", name, namespace, {"op": "add", "path": path, "value": value})

    def start(self) -> None:
        """Starts the operator and waits until it has seen everything."""
        self.operator.start()
        self.operator.wait_ready()

    def clear(self) -> None:
        """Deletes all custom resources and waits until garbage collection has taken what they owned."""
        prefix = f"/apis/{GROUP}/{VERSION}"
        for item in {(item["kind"], item["metadata"].get("namespace", "")) for item in self.all(*PLURALS.values())}:
            kind, namespace = item
            scope = f"/namespaces/{namespace}" if namespace else ""
            # One request for all, however many there are.
            self.cluster.kubectl("delete", "--raw", f"{prefix}{scope}/{PLURALS[kind]}")
        # Otherwise the next operator would find its fleet vanished.
        self.cluster.kubectl("delete", "configmap", GUARD, f"--namespace={OPERATOR_NAMESPACE}", "--ignore-not-found")
        self.wait("everything collected", lambda: not self.own("pods,replicasets,deployments,services,configmaps"), 120)


def _tells_who_leads(event: Mapping[str, Any]) -> bool:
    target = event["objectRef"]
    return (target["resource"], target.get("namespace")) == ("events", OPERATOR_NAMESPACE)


# --- Reading objects -------------------------------------------------------------------------------------------------


def key(item: Mapping[str, Any]) -> Key:
    """Kind, namespace and name."""
    return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]


def conditions(item: Mapping[str, Any]) -> dict[str, Manifest]:
    """Conditions by type."""
    return {each["type"]: each for each in item.get("status", {}).get("conditions", [])}


def holds(item: Mapping[str, Any], type_: str) -> bool:
    """Whether a condition is True."""
    return conditions(item).get(type_, {}).get("status") == "True"


def ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod or node is Ready, and stays."""
    return holds(pod, "Ready") and not deleting(pod)


def settled(deployment: Mapping[str, Any]) -> bool:
    """Whether an LLMDeployment is Ready for its present generation, with nothing under way."""
    current = deployment.get("status", {}).get("observedGeneration") == deployment["metadata"]["generation"]
    return current and holds(deployment, "Ready") and not holds(deployment, "Rebalancing")


def deleting(item: Mapping[str, Any]) -> bool:
    """Whether the object is on its way out."""
    return "deletionTimestamp" in item["metadata"]


def placements(deployment: Mapping[str, Any]) -> dict[str, Manifest]:
    """The placements of an LLMDeployment's status, by name."""
    return {item["name"]: item for item in deployment.get("status", {}).get("placements", [])}


def placement_of(item: Mapping[str, Any]) -> str:
    """The placement that a pod or another object of Plimsoll's belongs to; empty for routing."""
    return str(item["metadata"]["labels"].get(labels.PLACEMENT, ""))


def document(config_map: Mapping[str, Any]) -> Manifest:
    """The routing document."""
    content: Manifest = json.loads(config_map["data"]["routing.json"])
    return content


def routed(config_map: Mapping[str, Any]) -> set[str]:
    """Placements that a routing ConfigMap names."""
    return {backend["placement"] for item in document(config_map)["classes"] for backend in item["backends"]}


def option_value(args: Iterable[str], flag: str) -> str:
    """The argument after a flag, which stands there once."""
    given = list(args)
    assert given.count(flag) == 1, f"{flag} in {given}"
    return given[given.index(flag) + 1]


# --- Making objects --------------------------------------------------------------------------------------------------


def policy(**spec: Any) -> Manifest:
    """The PlacementPolicy with quick transitions."""
    return {
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": "PlacementPolicy",
        "metadata": {"name": "default"},
        "spec": {"routing": {"propagationSeconds": PROPAGATION_SECONDS}, **spec},
    }


def pool(name: str, accelerator: str, price: str = "1.00", **spec: Any) -> Manifest:
    """A GPUNodePool."""
    return {
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": "GPUNodePool",
        "metadata": {"name": name},
        "spec": {"accelerator": accelerator, "price": {"perHour": price}, **spec},
    }


def slo(name: str, namespace: str, **spec: Any) -> Manifest:
    """An InferenceSLO."""
    return {
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": "InferenceSLO",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def llm_deployment(
    name: str,
    namespace: str = "default",
    model: str = "meta-llama/Llama-3.1-8B-Instruct",
    rate: int = 60,
    **spec: Any,
) -> Manifest:
    """A small LLMDeployment."""
    traffic = {"name": "default", "requestsPerMinute": rate, "tokens": {"input": 1000, "output": 250}}
    return {
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"models": [{"name": model}], "traffic": [traffic], **spec},
    }


def read_crds() -> list[Path]:
    """The chart's resource definitions."""
    return sorted((ROOT / "crds").glob("*.yaml"))
