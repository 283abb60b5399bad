"""What GitOps tools do with Plimsoll's objects, on the API server."""

from __future__ import annotations

import json

from plimsoll.api import KINDS
from tests.control_plane.bench import PLURALS, Bench, llm_deployment, policy, pool, slo
from tests.gitops.argocd import FOLDER
from tests.gitops.kustomize import BASE
from tests.kstatus import KStatus, kstatus

PATCH = FOLDER / "argocd-cm-patch.yaml"


def test_the_kustomize_base_is_accepted_by_the_api_server(installed: Bench) -> None:
    overlay = BASE.parent / "overlays" / "example"
    text = installed.cluster.kubectl("kustomize", str(overlay))
    # Beside the chart's installation, which owns some of the same fields.
    answer = installed.cluster.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--force-conflicts", "--field-manager=kustomize"),
        *("--filename=-", "--output=name"),
        input=text,
    )
    names = answer.split()
    assert "deployment.apps/plimsoll" in names
    assert len([name for name in names if name.startswith("customresourcedefinition")]) == len(KINDS)


def test_the_patch_of_argo_cds_configuration_adds_a_check_for_each_kind(installed: Bench) -> None:
    kubectl = installed.cluster.kubectl
    kubectl("create", "namespace", "argocd")
    kubectl("create", "configmap", "argocd-cm", "--namespace=argocd", "--from-literal=url=https://argocd.example.com")
    kubectl("patch", "configmap", "argocd-cm", "--namespace=argocd", "--type=merge", f"--patch-file={PATCH}")
    data = installed.get("configmap", "argocd-cm", "argocd")["data"]
    assert data["url"] == "https://argocd.example.com"
    assert {f"resource.customizations.health.plimsoll.dev_{kind.__name__}" for kind in KINDS} < data.keys()
    kubectl("delete", "namespace", "argocd", "--wait=false")


def test_a_new_object_is_in_progress_before_the_operator_has_seen_it_and_then_current(
    installed: Bench, nodes: None
) -> None:
    written = [pool("l40s", "L40S"), slo("interactive", "chat"), policy(), llm_deployment("waited-for", "chat")]
    installed.apply(*written)
    try:
        for item in installed.all("llmdeployments", "gpunodepools", "inferenceslos", "placementpolicies"):
            assert kstatus(item) is KStatus.IN_PROGRESS, json.dumps(item)
        installed.start()
        seen: set[KStatus] = set()

        def current() -> bool:
            found = [kstatus(item) for item in installed.all(*PLURALS.values())]
            seen.update(found)
            return set(found) == {KStatus.CURRENT}

        installed.wait("everything Current", current)
        assert KStatus.FAILED not in seen
        installed.set("waited-for", "chat", "/spec/models", [{"name": "nobody/unknown"}])
        installed.wait(
            "the mistake is Failed",
            lambda: kstatus(installed.get("llmdeployment", "waited-for", "chat")) is KStatus.FAILED,
        )
    finally:
        installed.operator.stop()
        installed.clear()
