"""Applying: the second run writes nothing, one failure stops nobody else, and only what is ours and unwanted goes."""

from plimsoll.controller.apply import Applier, Work
from plimsoll.controller.kinds import CONFIG_MAP, DEPLOYMENT, LEADER_WORKER_SET, NETWORK_POLICY, SERVICE
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.store import Store
from plimsoll.planning.snapshot import ObjectRef
from tests.unit.controller import fakes


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def manifest(kind, name, owner="u1", **content):
    versions = {
        "Deployment": "apps/v1",
        "LeaderWorkerSet": "leaderworkerset.x-k8s.io/v1",
        "NetworkPolicy": "networking.k8s.io/v1",
        "PodDisruptionBudget": "policy/v1",
        "StatefulSet": "apps/v1",
    }
    return {
        "apiVersion": versions.get(kind, "v1"),
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "chat",
            "ownerReferences": [
                {"apiVersion": "plimsoll.dev/v1alpha1", "kind": "LLMDeployment", "name": "assistant", "uid": owner}
            ],
        },
        **content,
    }


def work(*manifests, prune=(), name="assistant", uid="u1"):
    return Work(ObjectRef("LLMDeployment", "chat", name), uid, tuple(manifests), tuple(prune))


def placement(name, owner="u1", replicas=1):
    return (
        manifest("Deployment", name, owner, spec={"replicas": replicas}),
        manifest("Service", name, owner, spec={"type": "ClusterIP"}),
    )


def routing(name="assistant-routing", data="1", owner="u1"):
    return manifest("ConfigMap", name, owner, data={"routing.json": data})


def applier():
    cluster, store, clock = fakes.FakeCluster(), Store(), Clock()
    return Applier(cluster, store, Metrics(), clock), cluster, store, clock


async def test_the_second_run_writes_nothing_even_after_a_restart():
    first, cluster, store, _ = applier()
    wanted = work(*placement("a"), routing())
    outcome = await first.run([wanted])
    assert (outcome.written, outcome.skipped) == (3, 0)
    restarted = Applier(cluster, store, Metrics())
    outcome = await restarted.run([wanted])
    assert (outcome.written, outcome.deleted, outcome.skipped) == (0, 0, 3)


def chain(name, servers):
    """Its servers, and the Service that all of them share."""
    chained = [
        *(manifest("StatefulSet", server, spec={"replicas": 1}) for server in servers),
        manifest("Service", f"{name}-peers", spec={"type": "ClusterIP"}),
    ]
    for item in chained:
        item["metadata"]["labels"] = {"plimsoll.dev/chain": name}
    return chained


async def test_what_a_chain_shares_goes_with_its_last_server():
    first, _, store, _ = applier()

    def services():
        return {item["metadata"]["name"] for item in store.live(SERVICE)}

    old, new = chain("old", ["old", "old-1"]), chain("new", ["new", "new-1"])
    await first.run([work(*old, routing())])
    await first.run([work(*new, routing(data="2"))])
    assert services() == {"old-peers", "new-peers"}, "old servers still serve"
    await first.run([work(*new, routing(data="2"), prune=["old-1"])])
    assert services() == {"old-peers", "new-peers"}
    await first.run([work(*new, routing(data="2"), prune=["old"])])
    assert services() == {"new-peers"}


async def test_workloads_come_before_routing_and_pruning_comes_last():
    first, cluster, _, _ = applier()
    await first.run([work(*placement("old"), routing())])
    cluster.writes.clear()
    await first.run([work(*placement("new"), routing(data="2"), prune=["old"])])
    steps = [(verb, kind) for verb, kind, *_ in cluster.writes]
    assert steps.index(("apply", "ConfigMap")) > max(
        steps.index(("apply", "Deployment")), steps.index(("apply", "Service"))
    )
    assert [verb for verb, _ in steps] == ["apply"] * 3 + ["delete"] * 2


async def test_one_refused_object_stops_its_own_deployment_only():
    first, cluster, _, _ = applier()
    cluster.refuse["apply", "Deployment", "a"] = 403
    outcome = await first.run(
        [
            work(*placement("a"), routing()),
            work(*placement("b", "u2"), routing("b-routing", owner="u2"), name="b", uid="u2"),
        ]
    )
    written = {(kind, name) for _, kind, name, _ in cluster.writes}
    assert ("ConfigMap", "assistant-routing") not in written
    assert {("Deployment", "b"), ("ConfigMap", "b-routing")} <= written
    assert [(finding.object.name, finding.reason) for finding in outcome.findings] == [("assistant", "ApplyRefused")]
    assert "Deployment a" in outcome.findings[0].message


async def test_a_failed_object_is_tried_again_later_each_time_a_little_later():
    first, cluster, _, clock = applier()
    cluster.refuse["apply", "Service", "a"] = 500
    waits = []
    for _ in range(3):
        outcome = await first.run([work(*placement("a"))])
        waits.append(outcome.retry_after_seconds)
        early = await first.run([work(*placement("a"))])
        assert early.findings[0].reason == "ApplyFailed", "still reported while it waits"
        clock.now += outcome.retry_after_seconds + 0.01
    assert waits[0] < waits[1] < waits[2]
    cluster.refuse.clear()
    assert (await first.run([work(*placement("a"))])).findings == []


async def test_what_is_running_stays_until_the_transition_lets_it_go():
    first, _, store, _ = applier()
    await first.run([work(*placement("old"))])
    outcome = await first.run([work(*placement("new"))])
    assert outcome.deleted == 0
    assert {m["metadata"]["name"] for m in store.live(SERVICE)} == {"old", "new"}


async def test_a_group_goes_like_any_workload_and_its_network_policy_goes_with_it():
    first, cluster, store, _ = applier()
    group = (
        manifest("LeaderWorkerSet", "old", spec={"replicas": 1}),
        manifest("NetworkPolicy", "old", spec={"podSelector": {}}),
    )
    await first.run([work(*group)])
    kinds = [kind for _, kind, *_ in cluster.writes]
    assert kinds.index("NetworkPolicy") < kinds.index("LeaderWorkerSet"), "no rank port is open before it is guarded"
    await first.run([work(*placement("new"))])
    assert len(store.live(LEADER_WORKER_SET)) == len(store.live(NETWORK_POLICY)) == 1
    await first.run([work(*placement("new"), prune=["old"])])
    assert store.live(LEADER_WORKER_SET) == store.live(NETWORK_POLICY) == []
    assert len(store.live(DEPLOYMENT)) == 1


async def test_deletes_name_the_uid():
    first, cluster, store, _ = applier()
    await first.run([work(*placement("old"))])
    await first.run([work(prune=["old"])])
    assert ("delete", "Deployment", "old", "uid-Deployment-old") in cluster.writes
    assert store.live(DEPLOYMENT) == []


async def test_a_budget_goes_when_its_workload_is_rendered_without_it():
    first, cluster, _, _ = applier()
    budget = manifest("PodDisruptionBudget", "a", spec={"maxUnavailable": 1})
    await first.run([work(*placement("a", replicas=2), budget)])
    await first.run([work(*placement("a"))])
    assert [w[:3] for w in cluster.writes if w[0] == "delete"] == [("delete", "PodDisruptionBudget", "a")]


async def test_routing_stays_when_none_is_rendered():
    first, _, store, _ = applier()
    await first.run([work(*placement("a"), routing())])
    await first.run([work(*placement("a"))])
    assert len(store.live(CONFIG_MAP)) == 1


async def test_objects_of_other_deployments_and_without_owner_are_never_touched():
    first, cluster, store, _ = applier()
    await first.run([work(*placement("theirs", "u2"), name="b", uid="u2")])
    orphan = manifest("Service", "orphan")
    del orphan["metadata"]["ownerReferences"]
    store.put(SERVICE, fakes.stored(orphan, "plimsoll-workloads", 99))
    cluster.writes.clear()
    await first.run([work(*placement("mine"), prune=["theirs"])])
    assert [w for w in cluster.writes if w[0] == "delete"] == []


async def test_a_name_that_belongs_to_another_deployment_is_not_taken():
    first, cluster, _, _ = applier()
    await first.run([work(*placement("a", "u2"), name="b", uid="u2")])
    cluster.writes.clear()
    outcome = await first.run([work(*placement("a", "u1"))])
    assert cluster.writes == []
    assert "belongs to another LLMDeployment" in outcome.findings[0].message


async def test_a_foreign_edit_is_put_back():
    first, cluster, store, _ = applier()
    await first.run([work(*placement("a"))])
    edited = {**store.live(DEPLOYMENT)[0], "spec": {"replicas": 7}}
    edited["metadata"] = {**edited["metadata"], "resourceVersion": "500"}
    store.put(DEPLOYMENT, edited)
    cluster.writes.clear()
    await first.run([work(*placement("a"))])
    assert [w[:3] for w in cluster.writes] == [("apply", "Deployment", "a")]


async def test_routing_goes_only_over_the_version_that_it_was_made_from():
    first, cluster, store, clock = applier()
    await first.run([work(*placement("a"), routing())])
    (uid,) = store.uids(CONFIG_MAP)
    newer = {**cluster.objects[uid], "metadata": {**cluster.objects[uid]["metadata"], "resourceVersion": "900"}}
    cluster.objects[uid] = newer  # another leader has written it since
    outcome = await first.run([work(*placement("a"), routing(data="2"))])
    assert (outcome.findings, outcome.written, outcome.retry_after_seconds) == ([], 0, 1.0)
    assert cluster.objects[uid]["data"] == {"routing.json": "1"}
    store.put(CONFIG_MAP, newer)  # the watch brings it
    clock.now += 2
    outcome = await first.run([work(*placement("a"), routing(data="2"))])
    assert outcome.findings == []
    assert cluster.objects[uid]["data"] == {"routing.json": "2"}


async def test_workloads_are_written_whatever_their_status_has_become():
    first, cluster, store, _ = applier()
    await first.run([work(*placement("a"))])
    (uid,) = store.uids(DEPLOYMENT)
    cluster.objects[uid]["metadata"]["resourceVersion"] = "900"
    outcome = await first.run([work(*placement("a", replicas=3))])
    assert outcome.findings == []
    assert cluster.objects[uid]["spec"] == {"replicas": 3}


async def test_who_waits_for_an_api_server_does_not_wait_for_minutes():
    first, cluster, _, clock = applier()
    waits = {}
    for error in (422, 503):
        cluster.refuse = {("apply", "Service", "*"): error}
        for _ in range(12):
            outcome = await first.run([work(*placement("a"))])
            waits[error] = outcome.retry_after_seconds
            clock.now += outcome.retry_after_seconds + 0.01
    assert waits[422] > 200
    assert waits[503] < 30
