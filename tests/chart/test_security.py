"""kube-linter's rules and the `restricted` Pod Security Standard, as assertions on every rendering of the matrix."""

from __future__ import annotations

from typing import Any

import pytest

from plimsoll.controller.kinds import ALL, RESOURCES
from tests.chart.manifests import Manifest, Render, only
from tests.chart.values import MATRIX

WRITES = {"create", "update", "patch", "delete", "deletecollection"}


@pytest.fixture(params=MATRIX.values(), ids=MATRIX.keys())
def manifests(request: pytest.FixtureRequest, render: Render) -> list[Manifest]:
    values: dict[str, Any] = request.param
    return render(**values)


@pytest.fixture
def pod(manifests: list[Manifest]) -> Manifest:
    spec: Manifest = only(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: Manifest) -> Manifest:
    assert "initContainers" not in pod
    (found,) = pod["containers"]
    return found  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=[(), ("chat", "documents")], ids=["cluster-wide", "confined"])
def rules(request: pytest.FixtureRequest, render: Render) -> list[Manifest]:
    """Every rule that is granted anywhere."""
    manifests = render(watchNamespaces=list(request.param))
    roles = [item for item in manifests if item["kind"] in {"ClusterRole", "Role"} and not _for_people(item)]
    return [rule for role in roles for rule in role["rules"]]


def test_pod_runs_as_a_numbered_user_that_is_not_root(pod: Manifest) -> None:
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context.get("runAsUser", 65532) > 0
    assert context.get("runAsGroup", 65532) > 0


def test_pod_uses_the_default_seccomp_profile(pod: Manifest) -> None:
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_container_cannot_gain_privileges(container: Manifest) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_pod_shares_nothing_with_its_node(pod: Manifest) -> None:
    assert pod.keys().isdisjoint({"hostNetwork", "hostPID", "hostIPC", "hostAliases"})
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"emptyDir", "secret", "configMap"}
    assert all("hostPort" not in port for port in pod["containers"][0]["ports"])


def test_only_a_bounded_scratch_folder_is_writable(pod: Manifest, container: Manifest) -> None:
    writable = [mount for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert writable == [{"name": "tmp", "mountPath": "/tmp"}]
    assert pod["volumes"][0]["emptyDir"]["sizeLimit"]


def test_resources_are_requested_and_memory_is_limited(container: Manifest) -> None:
    resources = container["resources"]
    assert resources["requests"]["cpu"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"]


def test_container_is_probed_on_its_own_ports(container: Manifest) -> None:
    names = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in names


def test_image_has_a_fixed_version(container: Manifest) -> None:
    image = container["image"]
    assert "@sha256:" in image or not image.endswith((":latest", ":"))
    assert ":" in image


def test_environment_holds_no_secret(container: Manifest) -> None:
    assert "envFrom" not in container
    for entry in container["env"]:
        if "valueFrom" in entry:
            assert entry["valueFrom"].keys() == {"fieldRef"}
            continue
        assert entry.keys() == {"name", "value"}
        secret = any(word in entry["name"] for word in ("SECRET", "TOKEN", "PASSWORD", "KEY"))
        assert not secret or (entry["name"].endswith("_FILE") and entry["value"].startswith("/"))


def test_service_links_are_off(pod: Manifest) -> None:
    assert pod["enableServiceLinks"] is False


def test_account_is_not_the_default_one_and_exists(manifests: list[Manifest], pod: Manifest) -> None:
    account = pod["serviceAccountName"]
    assert account not in {"", "default"}
    created = [manifest for manifest in manifests if manifest["kind"] == "ServiceAccount"]
    assert account == "mine" or [item["metadata"]["name"] for item in created] == [account]


def test_other_pods_do_not_get_the_token(manifests: list[Manifest], pod: Manifest) -> None:
    assert pod["automountServiceAccountToken"] is True
    for manifest in manifests:
        if manifest["kind"] == "ServiceAccount":
            assert manifest["automountServiceAccountToken"] is False


def test_namespaced_objects_name_their_namespace(manifests: list[Manifest]) -> None:
    cluster_scoped = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    for manifest in manifests:
        if manifest["kind"] in {"Role", "RoleBinding"}:
            assert manifest["metadata"]["namespace"]
        elif manifest["kind"] not in cluster_scoped | {"LimitRange"}:
            assert manifest["metadata"]["namespace"] == "plimsoll-system"


def test_selectors_find_the_pod(manifests: list[Manifest]) -> None:
    deployment = only(manifests, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    selectors = [deployment["selector"]["matchLabels"], only(manifests, "Service")["spec"]["selector"]]
    selectors += [
        manifest["spec"]["podSelector"]["matchLabels"] for manifest in manifests if manifest["kind"] == "NetworkPolicy"
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()


def test_bindings_bind_our_roles_to_our_account_only(manifests: list[Manifest], pod: Manifest) -> None:
    roles = {_place(item) for item in manifests if item["kind"] in {"ClusterRole", "Role"} and not _for_people(item)}
    bindings = [item for item in manifests if item["kind"] in {"ClusterRoleBinding", "RoleBinding"}]
    bound = {(item["roleRef"]["kind"], _place(item)[1], item["roleRef"]["name"]) for item in bindings}
    assert bound == roles
    for binding in bindings:
        (subject,) = binding["subjects"]
        assert (subject["kind"], subject["name"]) == ("ServiceAccount", pod["serviceAccountName"])
        assert subject["namespace"] == "plimsoll-system"


def test_no_rule_has_a_wildcard(rules: list[Manifest]) -> None:
    for rule in rules:
        assert rule.keys() - {"resourceNames"} == {"apiGroups", "resources", "verbs"}
        assert not any("*" in entry for entries in rule.values() for entry in entries)


def test_secrets_and_escalation_are_out_of_reach(rules: list[Manifest]) -> None:
    for rule in rules:
        forbidden = {"secrets", "pods/exec", "pods/attach", "serviceaccounts", "serviceaccounts/token", "clusterroles"}
        assert forbidden.isdisjoint(rule["resources"])
        assert {"escalate", "bind", "impersonate", "deletecollection"}.isdisjoint(rule["verbs"])
        assert "update" not in rule["verbs"] or rule["resources"] == ["leases"]
        assert "rbac.authorization.k8s.io" not in rule["apiGroups"]


def test_pods_and_nodes_are_read_only(rules: list[Manifest]) -> None:
    for rule in rules:
        if {"pods", "nodes"} & set(rule["resources"]):
            assert WRITES.isdisjoint(rule["verbs"])


def _for_people(role: Manifest) -> bool:
    return any(key.startswith("rbac.authorization.k8s.io/aggregate-to-") for key in role["metadata"]["labels"])


def _cluster_role(manifests: list[Manifest]) -> Manifest:
    """The operator's own."""
    return only([item for item in manifests if item["kind"] == "ClusterRole" and not _for_people(item)], "ClusterRole")


def _place(item: Manifest) -> tuple[str, str, str]:
    return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]


def test_pod_changes_neither_its_kernel_nor_its_proc_file_system(pod: Manifest, container: Manifest) -> None:
    assert pod["securityContext"].keys() <= {"runAsNonRoot", "runAsUser", "runAsGroup", "seccompProfile"}
    assert container["securityContext"].keys().isdisjoint({"procMount", "privileged", "seLinuxOptions"})


def test_priority_class_is_used_only_on_request(render: Render) -> None:
    assert "priorityClassName" not in only(render(), "Deployment")["spec"]["template"]["spec"]
    asked = only(render(priorityClassName="system-cluster-critical"), "Deployment")["spec"]["template"]["spec"]
    assert asked["priorityClassName"] == "system-cluster-critical"


def test_no_variable_is_set_twice(container: Manifest) -> None:
    names = [entry["name"] for entry in container["env"]]
    assert len(names) == len(set(names))


def test_no_port_needs_privileges(container: Manifest) -> None:
    for port in container["ports"]:
        assert port["containerPort"] >= 1024
        assert len(port["name"]) <= 15


def test_service_is_reached_from_inside_the_cluster_only(manifests: list[Manifest]) -> None:
    spec = only(manifests, "Service")["spec"]
    assert spec.get("type", "ClusterIP") == "ClusterIP"
    assert spec.keys().isdisjoint({"externalIPs", "externalName", "loadBalancerIP"})


def test_network_policy_isolates_the_pod_in_both_directions(render: Render) -> None:
    spec = only(render(networkPolicy={"enabled": True}), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert all(rule["ports"] for rule in (*spec["ingress"], *spec["egress"]))


def test_no_password_is_rendered(manifests: list[Manifest]) -> None:
    assert not [item for item in manifests if item["kind"] == "Secret"]


def test_only_stable_apis_of_kubernetes_are_used(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if manifest["kind"] != "ServiceMonitor":
            assert manifest["apiVersion"].rpartition("/")[2] == "v1"


def test_confined_operator_writes_nothing_outside_its_namespaces(render: Render) -> None:
    manifests = render(watchNamespaces=["chat", "documents"])
    for rule in _cluster_role(manifests)["rules"]:
        if not WRITES.isdisjoint(rule["verbs"]):
            assert rule["apiGroups"] == ["plimsoll.dev"]
            assert all(name.endswith("/status") or name == "placementplans" for name in rule["resources"])
    roles: dict[str, dict[tuple[str, str], set[str]]] = {}
    for item in manifests:
        if item["kind"] == "Role":
            roles.setdefault(item["metadata"]["namespace"], {}).update(_granted(item["rules"]))
    assert roles.keys() == {"chat", "documents", "default", "plimsoll-system"}
    assert roles["default"] == {("events.k8s.io", "events"): {"create"}}
    own = {("coordination.k8s.io", "leases"), ("", "configmaps"), ("events.k8s.io", "events")}
    assert roles["plimsoll-system"].keys() == own


def test_people_who_may_edit_a_namespace_may_write_llmdeployments_and_nothing_that_is_the_clusters(
    render: Render,
) -> None:
    roles = {item["metadata"]["name"]: item for item in render() if item["kind"] == "ClusterRole" and _for_people(item)}
    edit, view = _granted(roles["plimsoll-edit"]["rules"]), _granted(roles["plimsoll-view"]["rules"])
    namespaced = {("plimsoll.dev", "llmdeployments"), ("plimsoll.dev", "inferenceslos")}
    assert edit.keys() == view.keys() == namespaced
    assert all(WRITES.isdisjoint(verbs) for verbs in view.values())
    assert "rbac.authorization.k8s.io/aggregate-to-edit" not in roles["plimsoll-view"]["metadata"]["labels"]
    assert not [
        item for item in render(rbac={"aggregate": False}) if item["kind"] == "ClusterRole" and _for_people(item)
    ]


def test_confined_operator_may_do_in_its_namespaces_what_it_may_do_everywhere_else(render: Render) -> None:
    everywhere = _granted(_cluster_role(render())["rules"])
    confined = render(watchNamespaces=["chat"])
    (role,) = [item for item in confined if item["kind"] == "Role" and item["metadata"]["namespace"] == "chat"]
    assert _granted([*_cluster_role(confined)["rules"], *role["rules"]]) == everywhere


def _granted(rules: list[Manifest]) -> dict[tuple[str, str], set[str]]:
    granted: dict[tuple[str, str], set[str]] = {}
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                granted.setdefault((group, resource), set()).update(rule["verbs"])
    return granted


def test_what_people_write_is_never_written_by_the_operator(rules: list[Manifest]) -> None:
    granted = _granted(rules)
    for name, kind in RESOURCES.items():
        assert granted[kind.group, f"{kind.plural}/status"] == {"patch"}
        if name != "PlacementPlan":
            assert WRITES.isdisjoint(granted[kind.group, kind.plural])


def test_role_covers_exactly_the_kinds_that_the_operator_knows(rules: list[Manifest]) -> None:
    known = {(kind.group, kind.plural): {"list", "watch"} for kind in ALL}
    granted = _granted(rules)
    assert all(verbs <= granted[key] for key, verbs in known.items())
    beyond = {key for key in granted if key not in known and not key[1].endswith("/status")}
    assert beyond == {("events.k8s.io", "events"), ("coordination.k8s.io", "leases")}
