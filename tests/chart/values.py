"""Sets of values that people use; every rule is checked on each."""

from __future__ import annotations

from typing import Any

DIGEST = "sha256:" + "0" * 64

MATRIX: dict[str, dict[str, Any]] = {
    "defaults": {},
    "alone": {"replicas": 1, "leaderElection": {"enabled": False}},
    "confined": {"watchNamespaces": ["chat", "documents"]},
    "confined and observing": {
        "watchNamespaces": ["default"],
        "prometheus": {"url": "http://prometheus:9090", "tokenSecret": "", "caConfigMap": ""},
    },
    "demo": {"replicas": 0, "image": {"repository": "localhost/plimsoll", "tag": "demo"}},
    "pinned": {"image": {"repository": "example.com/team/plimsoll", "digest": DIGEST}},
    "openshift": {"runAsUser": None},
    "monitored": {"serviceMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}}},
    "watched": {
        "podMonitor": {"enabled": True, "interval": "5s", "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {
            "enabled": True,
            "labels": {"team": "models"},
            "annotations": {"grafana_folder": "Models"},
        },
    },
    "watched and confined": {"watchNamespaces": ["chat"], "podMonitor": {"enabled": True}},
    "observing": {
        "prometheus": {
            "url": "https://prometheus.monitoring.svc:9090/tenant",
            "tokenSecret": "prometheus-token",
            "caConfigMap": "cluster-ca",
        },
        "networkPolicy": {"enabled": True},
    },
    "isolated": {
        "networkPolicy": {
            "enabled": True,
            "ingressFrom": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}],
            "apiServerPorts": [6443],
        }
    },
    "scheduled": {
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]
                }
            }
        },
        "priorityClassName": "system-cluster-critical",
        "podAnnotations": {"example.com/owner": "platform"},
        "podLabels": {"cost-centre": "42"},
        "imagePullSecrets": [{"name": "registry"}],
    },
    "tuned": {
        "watchNamespaces": ["chat"],
        "logLevel": "DEBUG",
        "logFormat": "text",
        "healthPort": 9090,
        "settings": {
            "healthHost": "::",
            "debounceIdleSeconds": 0.25,
            "debounceCapSeconds": 5,
            "planDeadlineSeconds": 60,
            "plannerMemoryMegabytes": 768,
            "auditIntervalSeconds": 86400,
            "inFlight": 8,
            "ratePerSecond": 50.5,
            "rateBurst": 1000000,
            "correctionIntervalSeconds": 120,
            "demandIntervalSeconds": 5,
            "sloIntervalSeconds": 30,
        },
        "prometheus": {
            "url": "https://prometheus",
            "tokenSecret": "prometheus-token",
            "caConfigMap": "cluster-ca",
            "clientCertificateSecret": "prometheus-client",
            "arrivalsQuery": 'sum by (namespace, deployment, traffic) (gateway:requests{path=~"/v1/.+"})',
        },
    },
    "named": {"nameOverride": "loader", "fullnameOverride": "the-loader"},
    "existing account": {
        "serviceAccount": {"create": False, "name": "mine"},
        "rbac": {"create": False, "aggregate": False},
    },
    "account": {"serviceAccount": {"name": "other", "annotations": {"example.com/role": "planner"}}},
    "crds apart": {"crds": {"enabled": False}},
    "crds not kept": {"crds": {"keep": False}},
    "extra": {
        "extraObjects": [
            {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "a"}},
            'apiVersion: v1\nkind: LimitRange\nmetadata: {name: b, namespace: "{{ .Release.Namespace }}"}\n',
        ]
    },
}
