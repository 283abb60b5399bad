"""Who else writes our objects: autoscalers are left alone, edits are put back and told apart from our own changes."""

import pytest

from plimsoll.controller.apply import Applier, Work
from plimsoll.controller.foreign import changed_by, scaler_of
from plimsoll.controller.kinds import CONFIG_MAP, DEPLOYMENT
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.store import Store
from plimsoll.planning.snapshot import ObjectRef
from tests.unit.controller import fakes

REF = ObjectRef("LLMDeployment", "chat", "assistant")
REPLICAS = {"f:spec": {"f:replicas": {}}}
IMAGE = {"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"engine"}': {".": {}, "f:image": {}}}}}}}
ARGS = {"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"engine"}': {"f:args": {}}}}}}}


def entry(manager, fields, operation="Update", subresource=""):
    found = {"manager": manager, "operation": operation, "fieldsV1": fields}
    return found | ({"subresource": subresource} if subresource else {})


def deployment(*entries, replicas=2, image="vllm:1", args=("serve",), **extra):
    owner = {"apiVersion": "plimsoll.dev/v1alpha1", "kind": "LLMDeployment", "name": "assistant", "uid": "u1"}
    metadata = {"name": "a", "namespace": "chat", "ownerReferences": [owner]}
    if entries:
        metadata["managedFields"] = list(entries)
    container = {"name": "engine", "image": image, "args": list(args), **extra}
    spec = {"replicas": replicas, "template": {"spec": {"containers": [container]}}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (entry("kube-controller-manager", REPLICAS, subresource="scale"), "kube-controller-manager"),
        (entry("keda-operator", REPLICAS, subresource="scale"), "keda-operator"),
        (entry("argocd-controller", REPLICAS, "Apply"), "argocd-controller"),
        (entry("kubectl", REPLICAS, "Apply"), "kubectl"),
        (entry("kubectl", REPLICAS, subresource="scale"), None),
        (entry("kubectl-edit", REPLICAS), None),
        (entry("kube-controller-manager", IMAGE, subresource="scale"), None),
        (entry("plimsoll-workloads", REPLICAS, "Apply"), None),
    ],
)
def test_autoscalers_and_declared_wishes_own_replicas_and_one_off_commands_do_not(given, expected):
    assert scaler_of(deployment(given)) == expected


def test_the_manager_of_a_field_that_differs_is_named_and_no_other():
    live = deployment(entry("kubectl-edit", IMAGE), entry("somebody", ARGS), image="miner")
    assert changed_by(deployment(), live) == ("kubectl-edit",)
    live = deployment(entry("kubectl-edit", IMAGE), entry("somebody", ARGS), args=("serve", "--more"))
    assert changed_by(deployment(), live) == ("somebody",)
    unrelated = entry("annotator", {"f:metadata": {"f:annotations": {"f:revision": {}}}})
    assert changed_by(deployment(), deployment(unrelated, image="miner")) == ()


class World:
    """An applier that has put one Deployment in place, and what others make of it."""

    def __init__(self):
        self.cluster, self.store, self.metrics = fakes.FakeCluster(), Store(), Metrics()
        self.applier = Applier(self.cluster, self.store, self.metrics)

    async def run(self, *manifests, prune=(), uid="u1"):
        return await self.applier.run([Work(REF, uid, manifests, prune)])

    def becomes(self, manifest):
        """Somebody's update: the field's ownership moves to them."""
        (known,) = self.store.live(DEPLOYMENT)
        entries = [*known["metadata"]["managedFields"], *manifest["metadata"].get("managedFields", ())]
        metadata = {**known["metadata"], "managedFields": entries, "resourceVersion": str(next(self.cluster.numbers))}
        self.store.put(DEPLOYMENT, {**manifest, "metadata": metadata})

    def restart(self):
        self.applier = Applier(self.cluster, self.store, self.metrics)

    def counted(self, kind="Deployment"):
        return self.metrics.registry.get_sample_value("plimsoll_drift_corrected_total", {"kind": kind}) or 0


@pytest.mark.parametrize("restarted", [False, True])
async def test_an_edit_is_put_back_counted_and_ascribed(restarted):
    world = World()
    await world.run(deployment())
    if restarted:
        world.restart()
    world.becomes(deployment(entry("kubectl-edit", IMAGE), image="miner"))
    outcome = await world.run(deployment())
    assert (outcome.written, world.counted()) == (1, 1)
    (drift,) = outcome.drift
    assert "Deployment chat/a was changed by field manager kubectl-edit" in drift.message
    assert world.store.live(DEPLOYMENT)[0]["spec"]["template"]["spec"]["containers"][0]["image"] == "vllm:1"


async def test_a_field_that_somebody_removed_is_counted_too():
    world = World()
    await world.run(deployment(env=[{"name": "A", "value": "1"}]))
    world.becomes(deployment())
    outcome = await world.run(deployment(env=[{"name": "A", "value": "1"}]))
    assert [item.message for item in outcome.drift] == [
        "Deployment chat/a was changed by somebody else; it was put back"
    ]


async def test_a_new_decision_is_no_drift():
    world = World()
    await world.run(deployment())
    outcome = await world.run(deployment(replicas=5))
    assert (outcome.written, outcome.drift, world.counted()) == (1, [], 0)
    world.restart()
    outcome = await world.run(deployment(replicas=6))
    assert (outcome.written, outcome.drift, world.counted()) == (1, [], 0)


async def test_a_deleted_object_is_made_again_and_counted_unless_we_deleted_it():
    world = World()
    first = await world.run(deployment())
    assert first.drift == []
    world.store.drop(DEPLOYMENT, "uid-Deployment-a")
    outcome = await world.run(deployment())
    assert "was deleted by somebody else" in outcome.drift[0].message
    assert world.counted() == 1
    assert (await world.run(prune=("a",))).deleted == 1
    assert (await world.run(deployment())).drift == []
    # Another LLMDeployment of the same name has never had it.
    world.store.drop(DEPLOYMENT, "uid-Deployment-a")
    assert (await world.run(deployment(), uid="u2")).drift == []


async def test_a_workload_that_changed_since_the_plan_was_made_is_not_deleted():
    world = World()
    await world.run(deployment())
    world.cluster.refuse["delete", "Deployment", "a"] = 409
    outcome = await world.run(prune=("a",))
    assert (outcome.deleted, outcome.findings) == (0, [])
    assert outcome.retry_after_seconds is not None
    assert world.store.live(DEPLOYMENT), "it is known still"


async def test_a_workload_that_routing_still_names_is_not_deleted():
    world = World()
    backend = '{"placement": "a", "servedModel": "m", "weight": 1000, "maxConcurrency": 1}'
    routed = '{"name": "default", "admittedRequestsPerMinute": 1, "unserved": "0", "backends": [%s]}'
    document = '{"apiVersion": "plimsoll.dev/routing/v1", "epoch": 1, "classes": [%s]}'
    owner = deployment()["metadata"]["ownerReferences"]
    routing = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "assistant-routing", "namespace": "chat", "ownerReferences": owner},
        "data": {"routing.json": document % (routed % backend)},
    }
    await world.run(deployment())
    # Fresh from the API server; the store has not heard of it.
    await world.cluster.apply(routing, "plimsoll-routing")
    outcome = await world.run(prune=("a",))
    assert (outcome.deleted, outcome.findings) == (0, [])
    assert outcome.retry_after_seconds is not None
    routing["data"] = {"routing.json": document % (routed % "")}
    await world.cluster.apply(routing, "plimsoll-routing")
    assert (await world.run(prune=("a",))).deleted == 1
    assert not world.store.live(CONFIG_MAP)
