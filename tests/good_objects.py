"""Objects that must be accepted, with every field somewhere; those that must be refused are copies with one fault.

They run through pydantic (tests/unit/api/test_bad_objects.py) and through a real API server
(tests/control_plane/test_crds.py).
"""

from __future__ import annotations

import copy
from typing import Any

API_VERSION = "plimsoll.dev/v1alpha1"
NAMESPACE = "bad-objects"
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
LLAMA_70B = "meta-llama/Llama-3.3-70B-Instruct"
ABSENT = object()

Manifest = dict[str, Any]


def made(kind: str, name: str, spec: Manifest | None, namespace: str | None = None) -> Manifest:
    """A manifest."""
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata} | ({} if spec is None else {"spec": spec})


DEPLOYMENT = made(
    "LLMDeployment",
    "assistant",
    {
        "models": [
            {
                "name": LLAMA_8B,
                "precisions": [
                    {"name": "bf16"},
                    {"name": "int4", "checkpoint": "hugging-quants/Llama-AWQ-INT4", "taskErrorFactor": "1.15"},
                ],
            },
            {"name": LLAMA_70B},
        ],
        "traffic": [
            {
                "name": "chat",
                "sloRef": {"name": "interactive"},
                "requestsPerMinute": 1200,
                "tokens": {"input": 1155, "output": 211, "inputP95": 3200, "outputP95": 600},
                "taskError": [{"model": LLAMA_8B, "value": "0.07"}, {"model": LLAMA_70B, "value": "0.04"}],
                "match": {"headers": [{"name": "x-traffic-class", "value": "chat"}]},
            },
            {"name": "other", "requestsPerMinute": 0, "tokens": {"input": 500, "output": 100}},
        ],
        "placement": {
            "pools": ["h100-east", "l40s"],
            "parallelism": {"tensor": [1, 2, 4], "pipeline": [1, 2]},
            "replicas": {"min": 1, "max": 40},
        },
        "engine": {
            "type": "vllm",
            "images": {"nvidia": "vllm/vllm-openai:v0.18.0"},
            "maxModelLength": 16384,
            "extraArgs": ["--enable-prefix-caching", "--max-num-batched-tokens=8192", "--seed", "-1", "-O3", "$HOME"],
            "env": [
                {"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"},
                {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}},
            ],
            "huggingFaceTokenSecretRef": {"name": "hf", "key": "token"},
            "modelCache": {"persistentVolumeClaim": {"claimName": "models"}},
            "podTemplate": {
                "labels": {"team": "chat", "example.com/tier": "gold"},
                "annotations": {"example.com/note": "any text, even {braces}"},
                "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}],
                "affinity": {"nodeAffinity": {}},
                "topologySpreadConstraints": [
                    {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
                ],
                "runtimeClassName": "nvidia",
                "imagePullSecrets": [{"name": "registry"}],
                "priorityClassName": "serving",
            },
        },
        "routing": {
            "vllmRouter": True,
            "httpRoute": {"parentRefs": [{"name": "public"}], "hostnames": ["llm.example.com"]},
        },
    },
    NAMESPACE,
)

PETALS_DEPLOYMENT = made(
    "LLMDeployment",
    "helper",
    {
        "models": [
            {"name": LLAMA_70B, "precisions": [{"name": "int4"}, {"name": "bf16", "checkpoint": "example/own"}]}
        ],
        "traffic": [{"name": "chat", "requestsPerMinute": 3, "tokens": {"input": 400, "output": 150}}],
        "placement": {"mode": "Chained"},
        "engine": {"type": "petals", "images": {"nvidia": "example/plimsoll-petals:2.3"}},
    },
    NAMESPACE,
)

POOL = made(
    "GPUNodePool",
    "h100-east",
    {
        "accelerator": "H100-SXM-80GB",
        "resourceName": "nvidia.com/gpu",
        "nodeSelector": {"matchLabels": {"pool": "h100-east"}},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "gpusPerNode": 8,
        "nodes": {"max": 12},
        "gpus": {"reserved": 0},
        "price": {"perHour": "2.50", "spotPerHour": "1.20"},
        "capacityType": "OnDemand",
        "location": {"region": "us-east", "zone": "us-east-1a"},
        "interconnect": {"intraNode": "NVLink", "interNodeGigabitsPerSecond": 400},
    },
)

CUSTOM_POOL = made(
    "GPUNodePool",
    "own",
    {
        "custom": {
            "vendor": "NVIDIA",
            "memory": "80Gi",
            "memoryBandwidthGigabytesPerSecond": 2000,
            "peaks": [{"precision": "bf16", "teraflops": 300}],
        },
        "nodeSelector": {"matchLabels": {"pool": "own"}},
        "price": {"perHour": "1"},
    },
)

SLO = made(
    "InferenceSLO",
    "interactive",
    {
        "ttft": {"statistic": "Percentile", "percentile": 95, "milliseconds": 800},
        "tpot": {"percentile": 95, "milliseconds": 40},
        "endToEnd": {"statistic": "Mean", "milliseconds": 30000},
        "latencyPenaltyPerThousandRequestSeconds": "0",
        "maxTaskError": "0.06",
        "unserved": {"max": "0", "penaltyPerThousandRequests": "40"},
        "priority": 100,
    },
    NAMESPACE,
)

PROFILE = made(
    "ModelProfile",
    "mixtral",
    {
        "model": "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "architecture": {
            "parameters": 46702792704,
            "activeParameters": 12879925248,
            "layers": 32,
            "hiddenSize": 4096,
            "attentionHeads": 32,
            "kvHeads": 8,
            "experts": 8,
            "expertsPerToken": 2,
            "vocabularySize": 32000,
            "contextLength": 32768,
        },
    },
)

MEASURED_PROFILE = made(
    "ModelProfile",
    "llama-measured",
    {
        "model": LLAMA_8B,
        "coefficients": [
            {
                "accelerator": "H100-SXM-80GB",
                "weightsEfficiency": "0.9043",
                "kvEfficiency": "1",
                "queryGroupCost": "0.21",
                "computeEfficiency": "0.05",
                "prefillEfficiency": "0.5",
                "stepMilliseconds": "2.49",
                "sequenceMilliseconds": "0.0587",
                "allreduceFactor": "1.59",
                "quantisedEfficiency": "0.89",
                "source": "bench of October, vLLM 0.19",
                "fit": {"rows": 60, "medianError": "0.033", "p90Error": "0.087"},
            },
            {"accelerator": "L40S", "stepMilliseconds": "12"},
        ],
    },
)

POLICY = made(
    "PlacementPolicy",
    "default",
    {
        "budget": {"perHour": "500"},
        "algorithm": "Exact",
        "timeLimitMilliseconds": 30000,
        "headroom": {"demand": "0.2", "latency": "0.05"},
        "planning": {"intervalSeconds": 60},
        "rebalance": {"horizonHours": 12, "minimalSaving": "0.02"},
        "storage": {"pricePerGiBHour": "0.0002", "limitGiB": 4096},
        "approval": "Manual",
        "defaultSLO": {"ttft": {"percentile": 99, "milliseconds": 1500}},
    },
)

PLAN = made(
    "PlacementPlan",
    "plan-000412",
    {
        "inputsDigest": "sha256:" + "0" * 64,
        "decisionDigest": "sha256:" + "1" * 64,
        "detailsDigest": "sha256:" + "2" * 64,
        "costPerHour": "31.40",
        "objectivePerHour": "31.52",
        "lowerBoundPerHour": "31.10",
        "gap": "0.013",
        "bindingLimits": [{"kind": "Pool", "name": "h100-east"}, {"kind": "Budget", "name": "default"}],
        "summary": {"deployments": 1, "placements": 1, "replicas": 6, "gpus": 6, "changedDeployments": 1},
        "changes": [
            {
                "namespace": "chat",
                "name": "assistant",
                "costPerHourBefore": "0",
                "costPerHourAfter": "31.40",
                "placements": [
                    {"placement": "assistant-llama-fp8-l40s-t1p1-9c41d2", "replicasBefore": 0, "replicasAfter": 6}
                ],
            }
        ],
        "detailsRefs": [{"namespace": "plimsoll", "name": "plan-000412-details-0"}],
        "approval": {"decision": "Approved", "digest": "sha256:" + "1" * 64},
    },
)

SMALLEST_DEPLOYMENT = made(
    "LLMDeployment",
    "smallest",
    {
        "models": [{"name": LLAMA_8B}],
        "traffic": [{"name": "default", "requestsPerMinute": 120, "tokens": {"input": 1000, "output": 250}}],
    },
    NAMESPACE,
)
SMALLEST_POOL = made("GPUNodePool", "l40s", {"accelerator": "L40S", "price": {"perHour": "1.10"}})


def changed(base: Manifest, path: str, value: object) -> Manifest:
    """A copy of `base` in which the field at `path` (dotted, numbers index lists) has `value`, or is `ABSENT`."""
    result = copy.deepcopy(base)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = result
    for part in parents:
        place = place[part] if isinstance(part, int) else place.setdefault(part, {})
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return result


GOOD_OBJECTS: dict[str, Manifest] = {
    "full deployment": DEPLOYMENT,
    "smallest deployment": SMALLEST_DEPLOYMENT,
    "full pool": POOL,
    "smallest pool": SMALLEST_POOL,
    "own figures": CUSTOM_POOL,
    "spot pool": changed(POOL, "spec.capacityType", "Spot"),
    "full objective": SLO,
    "empty objective": made("InferenceSLO", "nothing", {}, NAMESPACE),
    "model profile": PROFILE,
    "measured profile": MEASURED_PROFILE,
    "profile with architecture and coefficients": changed(
        PROFILE, "spec.coefficients", [{"accelerator": "L4", "prefillEfficiency": "0.4"}]
    ),
    "policy": POLICY,
    "chained over PETALS": PETALS_DEPLOYMENT,
    "chained": changed(
        changed(DEPLOYMENT, "spec.placement.mode", "Chained"),
        "spec.traffic.0.origins",
        [{"region": "us-east", "share": "0.7"}, {"region": "eu-west", "share": "0.3"}],
    ),
    "policy with a network": changed(
        POLICY,
        "spec.network",
        {"roundTripMilliseconds": [{"region": "us-east", "peer": "us-west", "milliseconds": 62}]},
    ),
    "policy without a spec": made("PlacementPolicy", "default", None),
    "plan": PLAN,
    "an integral float is an integer": changed(SMALLEST_DEPLOYMENT, "spec.traffic.0.tokens.input", 1000.0),
    "null stands for the default": changed(SMALLEST_DEPLOYMENT, "spec.placement", None),
    "null stands for an absent field": changed(DEPLOYMENT, "spec.engine.maxModelLength", None),
    "null stands for an absent label": changed(DEPLOYMENT, "spec.engine.podTemplate.labels.team", None),
    "emptyDir with a limit": changed(
        SMALLEST_DEPLOYMENT, "spec.engine.modelCache", {"emptyDir": {"sizeLimit": "200Gi"}}
    ),
    "as many replicas at least as at most": changed(
        SMALLEST_DEPLOYMENT, "spec.placement.replicas", {"min": 3, "max": 3}
    ),
    "a flag that begins like an owned one": changed(
        SMALLEST_DEPLOYMENT, "spec.engine.extraArgs", ["--model-loader-extra-config={}", "--dtypes", "--max-logprobs=5"]
    ),
    "host path": changed(SMALLEST_DEPLOYMENT, "spec.engine.modelCache", {"hostPath": {"path": "/var/lib/models"}}),
    "remote code, which the policy judges": changed(
        SMALLEST_DEPLOYMENT, "spec.engine.extraArgs", ["--trust-remote-code"]
    ),
    "a mirror of the model hub": changed(
        SMALLEST_DEPLOYMENT, "spec.engine.env", [{"name": "HF_ENDPOINT", "value": "https://hub.example.com"}]
    ),
    "keys of Kubernetes that do no harm": changed(
        SMALLEST_DEPLOYMENT,
        "spec.engine.podTemplate",
        {
            "labels": {"app.kubernetes.io/version": "1", "kueue.x-k8s.io/queue-name": "gpu"},
            "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
        },
    ),
    "tenants": changed(
        POLICY,
        "spec.tenants",
        [
            {
                "name": "chat",
                "namespaceSelector": {"matchLabels": {"team": "chat"}},
                "maxGPUs": 16,
                "budgetPerHour": "40",
                "maxPriority": 100,
                "maxUnservedPenaltyPerThousandRequests": "50",
                "maxLatencyPenaltyPerThousandRequestSeconds": "1",
                "priorityClassNames": ["serving"],
            },
            {"name": "everybody", "namespaceSelector": {}, "maxGPUs": 0},
            {
                "name": "others",
                "namespaceSelector": {
                    "matchExpressions": [
                        {"key": "team", "operator": "NotIn", "values": ["chat"]},
                        {"key": "kubernetes.io/metadata.name", "operator": "Exists"},
                    ]
                },
            },
        ],
    ),
    "security": changed(
        POLICY,
        "spec.security",
        {"priorityClassNames": ["serving"], "allowTrustRemoteCode": True, "allowHostPath": True},
    ),
    "status of another release": {**SMALLEST_POOL, "status": {}},
}
