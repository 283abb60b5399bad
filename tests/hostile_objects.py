"""Objects that somebody writes on purpose to get more than they should; each must be refused like those of
`tests/bad_objects.py`, by pydantic and by a real API server."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bad_objects import BadObject, shown
from tests.good_objects import ABSENT, DEPLOYMENT, POLICY, POOL, Manifest, changed


def _case(base: Manifest, name: str, path: str, value: object, field: str | None = None) -> BadObject:
    kinds = {"LLMDeployment": "deployment", "GPUNodePool": "pool", "PlacementPolicy": "policy"}
    return BadObject(f"{kinds[base['kind']]}: {name}", changed(base, path, value), field or shown(path))


def _arguments() -> Iterator[BadObject]:
    for what, argument in (
        ("a module loaded as middleware", "--middleware=evil.Middleware"),
        ("a plugin loaded from a file", "--tool-parser-plugin=/cache/evil.py"),
        ("a plugin by an abbreviated flag", "--reasoning-parser-pl=/cache/evil.py"),
        ("a worker class by name", "--worker_cls=evil.Worker"),
        ("a worker extension by name", "--worker-extension-cls=evil.Extension"),
        ("logits processors by name", "--logits-processors=evil.Processor"),
        ("files of the container open to requests", "--allowed-local-media-path=/"),
        ("a token in plain sight", "--hf-token=hf_secret"),
        ("an API key in plain sight", "--api-key=secret"),
        ("a short flag that carries its value", "-qawq"),
        ("a short flag", "-tp=2"),
        ("a flag hidden in a variable", "$(SMUGGLED)"),
        ("a variable in the middle of a value", "--seed=$(SMUGGLED)"),
        ("an escaped variable", "--seed=$$(SMUGGLED)"),
        ("the character 0", "--seed=1\x00--model=x"),
        ("no character at all", ""),
    ):
        yield _case(
            DEPLOYMENT,
            f"argument: {what}",
            "spec.engine.extraArgs",
            ["--enable-prefix-caching", argument],
            "spec.engine.extraArgs[1]",
        )


def _variables() -> Iterator[BadObject]:
    for name in (
        "LD_PRELOAD",
        "LD_AUDIT",
        "PATH",
        "BASH_ENV",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "HOME",
        "HF_HOME",
        "HF_TOKEN",
        "NVIDIA_VISIBLE_DEVICES",
        "CUDA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "MASTER_ADDR",
        "VLLM_PORT",
        "VLLM_PLUGINS",
        "VLLM_API_KEY",
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN",
        "VLLM_SERVER_DEV_MODE",
        "VLLM_ALLOW_INSECURE_SERIALIZATION",
    ):
        variable = {"name": name, "value": "x"}
        yield _case(DEPLOYMENT, f"variable {name}", "spec.engine.env.0", variable, "spec.engine.env[0].name")


def _pod_fields() -> Iterator[BadObject]:
    for field, value in (
        ("hostPID", True),
        ("hostIPC", True),
        ("hostUsers", True),
        ("serviceAccountName", "cluster-admin"),
        ("automountServiceAccountToken", True),
        ("securityContext", {"runAsUser": 0}),
        ("nodeName", "control-plane-0"),
        ("nodeSelector", {"node-role.kubernetes.io/control-plane": ""}),
        ("initContainers", [{"name": "evil", "image": "evil"}]),
        ("containers", [{"name": "evil", "image": "evil"}]),
        ("volumes", [{"name": "root", "hostPath": {"path": "/"}}]),
        ("schedulerName", "evil"),
        ("dnsPolicy", "None"),
        ("hostAliases", []),
        ("shareProcessNamespace", True),
        ("priority", 2_000_000_000),
    ):
        yield _case(DEPLOYMENT, f"pod field {field}", f"spec.engine.podTemplate.{field}", value)


def _pod_metadata() -> Iterator[BadObject]:
    template = "spec.engine.podTemplate"
    for what, key in (
        ("of another placement's Service", "plimsoll.dev/placement"),
        ("of a domain under plimsoll.dev", "x.plimsoll.dev/placement"),
        ("that tells whose the pod is", "app.kubernetes.io/managed-by"),
        ("of the ReplicaSet", "pod-template-hash"),
        ("of a StatefulSet", "statefulset.kubernetes.io/pod-name"),
        ("of Kubernetes' own domain", "k8s.io/x"),
        ("with two slashes", "a/b/c"),
        ("that is no ASCII", "téam"),
        ("without a name", "example.com/"),
        ("that is too long", "x" * 318),
    ):
        yield _case(DEPLOYMENT, f"label {what}", f"{template}.labels", {key: "x"})
    yield _case(DEPLOYMENT, "label value that is no ASCII", f"{template}.labels.team", "чат")
    yield _case(DEPLOYMENT, "label value that is too long", f"{template}.labels.team", "x" * 64)
    yield _case(DEPLOYMENT, "33 labels", f"{template}.labels", {f"label-{number}": "x" for number in range(33)})
    for key in (
        "container.apparmor.security.beta.kubernetes.io/engine",
        "seccomp.security.alpha.kubernetes.io/pod",
        "kubernetes.io/config.source",
        "plimsoll.dev/decision",
    ):
        yield _case(DEPLOYMENT, f"annotation {key}", f"{template}.annotations", {key: "unconfined"})
    yield _case(
        DEPLOYMENT,
        "annotation that is too long",
        f"{template}.annotations",
        {"example.com/note": "x" * 1025},
        "annotations",
    )
    yield _case(
        DEPLOYMENT,
        "spread that selects by In without values",
        f"{template}.topologySpreadConstraints.0.labelSelector",
        {"matchExpressions": [{"key": "team", "operator": "In"}]},
        "values",
    )
    yield _case(
        DEPLOYMENT, "pull secret of another namespace", f"{template}.imagePullSecrets.0.namespace", "kube-system"
    )
    yield _case(DEPLOYMENT, "pull secret with a path for a name", f"{template}.imagePullSecrets.0.name", "../registry")
    yield _case(DEPLOYMENT, "runtime class with a path for a name", f"{template}.runtimeClassName", "../kata")


def _references() -> Iterator[BadObject]:
    for name in ("../../etc/passwd", "/etc/passwd", "$(reboot)", "a;reboot", "s3://bucket/model", "a/b/c", "модель"):
        yield _case(DEPLOYMENT, f"model {name}", "spec.models.1.name", name)
    yield _case(DEPLOYMENT, "checkpoint with a path for a name", "spec.models.0.precisions.1.checkpoint", "../x")
    for what, image in (
        ("that is an option", "-v"),
        ("with a line break", "image\nRUN"),
        ("that is a command", "$(reboot)"),
        ("in capitals", "UPPER/case"),
        ("that is too long", "x" * 513),
    ):
        yield _case(DEPLOYMENT, f"image {what}", "spec.engine.images.nvidia", image)
    claim = "spec.engine.modelCache.persistentVolumeClaim.claimName"
    yield _case(DEPLOYMENT, "claim with a path for a name", claim, "../x")
    for what, path in (
        ("that is relative", "models"),
        ("of the whole node", "/"),
        ("that leads upwards", "/var/lib/../../etc"),
        ("with an empty part", "//etc"),
        ("of a hidden folder", "/data/.ssh"),
        ("with a variable", "/var/run/$(x)"),
        ("that is too long", "/" + "x" * 255),
    ):
        yield _case(
            DEPLOYMENT,
            f"host path {what}",
            "spec.engine.modelCache",
            {"hostPath": {"path": path}},
            "spec.engine.modelCache.hostPath.path",
        )
    beside = "spec.engine.modelCache.hostPath"
    yield _case(DEPLOYMENT, "host path beside another cache", beside, {"path": "/models"}, "spec.engine.modelCache")
    token = "spec.engine.huggingFaceTokenSecretRef.namespace"
    yield _case(DEPLOYMENT, "Secret of another namespace", token, "kube-system")
    yield _case(DEPLOYMENT, "objective of another namespace", "spec.traffic.0.sloRef.namespace", "other")
    yield _case(DEPLOYMENT, "host name with a wildcard", "spec.routing.httpRoute.hostnames", ["*"], "hostnames[0]")
    yield _case(DEPLOYMENT, "header value that is too long", "spec.traffic.0.match.headers.0.value", "x" * 257)
    yield _case(DEPLOYMENT, "header name with a line break", "spec.traffic.0.match.headers.0.name", "x\ny")
    yield _case(DEPLOYMENT, "name that is too long", "metadata.name", "x" * 64)
    yield _case(DEPLOYMENT, "rate beyond all bounds", "spec.traffic.0.requestsPerMinute", 10**12)
    yield _case(DEPLOYMENT, "rate that is no number", "spec.traffic.0.requestsPerMinute", "NaN")
    yield _case(POOL, "price beyond all bounds", "spec.price.perHour", "9" * 40)
    yield _case(POOL, "price that is no number", "spec.price.perHour", "Infinity")


def _tenants() -> Iterator[BadObject]:
    whole: Manifest = {"name": "chat", "namespaceSelector": {}}

    def by(**requirement: object) -> Manifest:
        return {"namespaceSelector": {"matchExpressions": [{"key": "team", **requirement}]}}

    for what, change, field in (
        ("without a selector", {"namespaceSelector": ABSENT}, "spec.tenants[0].namespaceSelector"),
        ("without a name", {"name": ABSENT}, "spec.tenants[0].name"),
        ("with a name in capitals", {"name": "Chat"}, "spec.tenants[0].name"),
        ("with fewer than no GPUs", {"maxGPUs": -1}, "spec.tenants[0].maxGPUs"),
        ("with GPUs as text", {"maxGPUs": "4"}, "spec.tenants[0].maxGPUs"),
        ("with an unquoted budget", {"budgetPerHour": 4}, "spec.tenants[0].budgetPerHour"),
        ("with a negative budget", {"budgetPerHour": "-4"}, "spec.tenants[0].budgetPerHour"),
        ("with a priority above 1000", {"maxPriority": 1001}, "spec.tenants[0].maxPriority"),
        ("with a misspelt limit", {"maxGpus": 4}, "spec.tenants[0].maxGpus"),
        ("that selects by an unknown operator", by(operator="Gt", values=["1"]), "operator"),
        ("that selects by Exists with values", by(operator="Exists", values=["x"]), "values"),
        ("with a priority class twice", {"priorityClassNames": ["a", "a"]}, "spec.tenants[0].priorityClassNames"),
    ):
        tenant = {key: value for key, value in {**whole, **change}.items() if value is not ABSENT}
        yield _case(POLICY, f"tenant {what}", "spec.tenants", [tenant], field)
    yield _case(POLICY, "two tenants of one name", "spec.tenants", [whole, whole], "spec.tenants[1]")
    yield _case(POLICY, "misspelt permission", "spec.security", {"allowTrustRemotecode": True}, "allowTrustRemotecode")
    yield _case(POLICY, "permission as text", "spec.security", {"allowHostPath": "yes"}, "spec.security.allowHostPath")


HOSTILE_OBJECTS: list[BadObject] = [
    *_arguments(),
    *_variables(),
    *_pod_fields(),
    *_pod_metadata(),
    *_references(),
    *_tenants(),
]
