"""What the chart renders, over a matrix of values."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import helm_python
import pytest
import yaml

from devcluster.binaries import binary
from plimsoll.controller.settings import Settings, variable
from tests.chart.manifests import CHART, RELEASE, ROOT, Manifest, Render, kinds, only, parse
from tests.chart.values import DIGEST, MATRIX

CRDS = sorted((ROOT / "crds").glob("*.yaml"))
SOURCES = sorted((CHART / "crds-src").glob("*.yaml"))
KEEP = "helm.sh/resource-policy"


def _container(manifests: list[Manifest]) -> Manifest:
    (container,) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return container


def _environment(manifests: list[Manifest]) -> dict[str, str]:
    """With the name of a pod where it takes that."""
    return {entry["name"]: entry.get("value", "plimsoll-0") for entry in _container(manifests)["env"]}


def test_lint_finds_nothing() -> None:
    result = helm_python.lint(CHART)
    # severity 1 is a hint
    assert [message for message in result["messages"] if message["severity"] > 1] == []
    assert result["errors"] == []


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_every_object_has_a_name_and_the_standard_labels(render: Render, values: dict[str, Any]) -> None:
    for manifest in render(**values):
        assert manifest["apiVersion"]
        assert manifest["metadata"]["name"]
        if manifest["kind"] not in {"CustomResourceDefinition", "LimitRange"}:
            assert manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] == "plimsoll"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_helm_3_renders_what_helm_4_renders(render: Render, values: dict[str, Any]) -> None:
    command = [binary("helm"), "template", RELEASE["name"], CHART, "--namespace", RELEASE["namespace"], "--values", "-"]
    answer = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=True)

    def ordered(objects: list[Manifest]) -> list[Manifest]:
        return sorted(
            objects,
            key=lambda manifest: (
                manifest["kind"],
                manifest["metadata"].get("namespace", ""),
                manifest["metadata"]["name"],
            ),
        )

    assert ordered(parse(answer.stdout)) == ordered(render(**values))


def test_minimum_kubernetes_version_is_stated() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == ">=1.30.0-0"


def test_app_version_is_the_package_version() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'\nversion = "{chart["appVersion"]}"\n' in project


def test_image_is_pinned_by_digest_when_there_is_one(render: Render) -> None:
    assert _container(render(**MATRIX["pinned"]))["image"] == f"example.com/team/plimsoll@{DIGEST}"


def test_image_tag_defaults_to_the_app_version(render: Render) -> None:
    assert _container(render())["image"] == "plimsoll:0.1.0"


def test_two_operators_run_and_one_is_always_there(render: Render) -> None:
    manifests = render()
    spec = only(manifests, "Deployment")["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    budget = only(manifests, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    (apart,) = spec["template"]["spec"]["affinity"]["podAntiAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    assert (
        apart["podAffinityTerm"]["labelSelector"]["matchLabels"].items()
        <= spec["template"]["metadata"]["labels"].items()
    )


def test_without_an_election_the_operator_is_never_run_twice(render: Render) -> None:
    manifests = render(**MATRIX["alone"])
    spec = only(manifests, "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert "PLIMSOLL_LEASE_NAME" not in _environment(manifests)
    assert kinds(manifests).isdisjoint({"Role", "RoleBinding", "PodDisruptionBudget"})


def test_only_the_lease_of_the_release_can_be_taken(render: Render) -> None:
    manifests = render()
    name = _environment(manifests)["PLIMSOLL_LEASE_NAME"]
    create, keep = only(manifests, "Role")["rules"]
    assert create == {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]}
    assert keep == {**create, "resourceNames": [name], "verbs": ["get", "update"]}
    binding = only(manifests, "RoleBinding")
    assert binding["roleRef"]["name"] == only(manifests, "Role")["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == ["plimsoll"]


def test_the_planner_fits_into_the_container(render: Render) -> None:
    limit = _container(render())["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Mi")) >= Settings().planner_memory_megabytes + 512


def test_operator_can_be_left_out(render: Render) -> None:
    assert only(render(**MATRIX["demo"]), "Deployment")["spec"]["replicas"] == 0


def test_operator_accepts_the_rendered_environment(render: Render) -> None:
    settings = Settings.from_env(_environment(render(**MATRIX["tuned"])))
    assert settings == Settings(
        namespace="plimsoll-system",
        identity="plimsoll-0",
        lease_name="plimsoll",
        watch_namespaces=("chat",),
        health_host="::",
        health_port=9090,
        debounce_idle_seconds=0.25,
        debounce_cap_seconds=5,
        plan_deadline_seconds=60,
        planner_memory_megabytes=768,
        audit_interval_seconds=86400,
        in_flight=8,
        rate_per_second=50.5,
        rate_burst=1_000_000,
        prometheus_url="https://prometheus",
        prometheus_token_file="/etc/plimsoll/prometheus-token/token",
        prometheus_ca_file="/etc/plimsoll/prometheus-ca/ca.crt",
        prometheus_certificate_file="/etc/plimsoll/prometheus-certificate/tls.crt",
        prometheus_key_file="/etc/plimsoll/prometheus-certificate/tls.key",
        arrivals_query='sum by (namespace, deployment, traffic) (gateway:requests{path=~"/v1/.+"})',
        correction_interval_seconds=120,
        demand_interval_seconds=5,
        slo_interval_seconds=30,
        log_level="DEBUG",
        log_format="text",
    )


def test_every_setting_of_the_operator_can_be_set(render: Render) -> None:
    assert set(_environment(render(**MATRIX["tuned"]))) == {variable(name) for name in Settings.__dataclass_fields__}


def test_probes_service_and_container_name_one_port(render: Render) -> None:
    manifests = render(**MATRIX["tuned"])
    container = _container(manifests)
    assert container["ports"] == [{"name": "health", "containerPort": 9090}]
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "health"}
    (port,) = only(manifests, "Service")["spec"]["ports"]
    assert port["targetPort"] == "health"


def test_service_monitor_selects_the_service(render: Render) -> None:
    manifests = render(**MATRIX["monitored"])
    monitor, service = only(manifests, "ServiceMonitor"), only(manifests, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] == service["spec"]["ports"][0]["name"]
    assert endpoint["honorLabels"], "else the namespace of an LLMDeployment gives way to the operator's"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_network_policy_opens_the_health_port_and_the_api_server(render: Render) -> None:
    spec = only(render(**MATRIX["isolated"]), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"] == [
        {
            "ports": [{"port": "health", "protocol": "TCP"}],
            "from": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}],
        }
    ]
    assert spec["egress"] == [{"ports": [{"port": 6443, "protocol": "TCP"}]}]


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("https://prometheus.monitoring.svc:9090/tenant", 9090),
        ("https://prometheus", 443),
        ("http://prometheus/a:1", 80),
        ("http://[fd00::1]:9091", 9091),
    ],
)
def test_network_policy_lets_the_operator_reach_prometheus(render: Render, url: str, port: int) -> None:
    values = {**MATRIX["observing"], "prometheus": {"url": url}}
    ((opened,),) = [[rule["ports"] for rule in only(render(**values), "NetworkPolicy")["spec"]["egress"]]]
    assert [(item["port"], item["protocol"]) for item in opened] == [
        *((443, "TCP"), (6443, "TCP"), (port, "TCP")),
        *((53, "UDP"), (53, "TCP")),
    ]


def test_credentials_of_prometheus_are_mounted_where_the_operator_looks(render: Render) -> None:
    manifests = render(**MATRIX["observing"])
    environment, container = _environment(manifests), _container(manifests)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"] if mount.get("readOnly")}
    volumes = {
        volume["name"]: volume for volume in only(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"]
    }
    token, authority = volumes["prometheus-token"]["secret"], volumes["prometheus-ca"]["configMap"]
    assert (token["secretName"], authority["name"]) == ("prometheus-token", "cluster-ca")
    files = {
        f"{mounts[name]}/{item['path']}"
        for name, source in (("prometheus-token", token), ("prometheus-ca", authority))
        for item in source["items"]
    }
    assert files == {environment["PLIMSOLL_PROMETHEUS_TOKEN_FILE"], environment["PLIMSOLL_PROMETHEUS_CA_FILE"]}


def test_without_an_address_prometheus_is_not_read(render: Render) -> None:
    manifests = render(prometheus={"tokenSecret": "left-over", "caConfigMap": "left-over"})
    assert not [name for name in _environment(manifests) if "PROMETHEUS" in name]
    assert [mount["name"] for mount in _container(manifests)["volumeMounts"]] == ["tmp"]


def test_optional_objects_are_off_by_default(render: Render) -> None:
    assert kinds(render()) == {
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Deployment",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    }


def test_extra_objects_come_as_text_or_as_objects(render: Render) -> None:
    extra = [manifest["metadata"] for manifest in render(**MATRIX["extra"]) if manifest["kind"] == "LimitRange"]
    assert extra == [{"name": "a"}, {"name": "b", "namespace": "plimsoll-system"}]


def test_chart_carries_the_generated_crds() -> None:
    assert CRDS
    assert {path.name: path.read_text() for path in SOURCES} == {path.name: path.read_text() for path in CRDS}, (
        "run `make crds`"
    )


def test_rendered_crds_are_the_generated_ones(render: Render) -> None:
    rendered = [manifest for manifest in render() if manifest["kind"] == "CustomResourceDefinition"]
    assert rendered == [manifest for path in CRDS for manifest in parse(path.read_text())]


def test_crds_survive_an_uninstall(render: Render) -> None:
    for manifest in render():
        if manifest["kind"] == "CustomResourceDefinition":
            assert manifest["metadata"]["annotations"][KEEP] == "keep"


def test_crds_can_be_given_up(render: Render) -> None:
    manifests = [item for item in render(**MATRIX["crds not kept"]) if item["kind"] == "CustomResourceDefinition"]
    assert len(manifests) == len(CRDS)
    for manifest in manifests:
        assert KEEP not in manifest["metadata"]["annotations"]
        # for GitOps tools the rest stays
        assert manifest["metadata"]["annotations"]


def test_crds_can_be_installed_apart(render: Render) -> None:
    assert "CustomResourceDefinition" not in kinds(render(**MATRIX["crds apart"]))


def test_notes_say_what_uninstall_does(chart: helm_python.Chart) -> None:
    notes = {
        keep: next(
            text
            for path, text in chart.render({"crds": {"keep": keep}}, **RELEASE).items()
            if path.endswith("NOTES.txt")
        )
        for keep in (True, False)
    }
    assert "leaves the CRDs" in notes[True]
    assert "deletes the CRDs" in notes[False]
