"""The command line of each server, tuned for tests: no fsync, no leader election, high request rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from devcluster.certificates import Certificates
from devcluster.nodes import KUBELET_LABEL

_CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "endpoints-controller",
    "garbage-collector-controller",
    "horizontal-pod-autoscaler-controller",
    "job-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "statefulset-controller",
    "taint-eviction-controller",
)


def etcd(data: Path, port: int, peer_port: int) -> list[str]:
    """One member, in memory as far as it can be."""
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    return [
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver(
    address: str, port: int, etcd_port: int, certificates: Certificates, audit_policy: Path, audit_log: Path
) -> list[str]:
    """Real RBAC, an audit log that is written before the next request, and no limits a test would meet."""
    return [
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--bind-address={address}",
        f"--advertise-address={address}",
        "--endpoint-reconciler-type=none",
        f"--secure-port={port}",
        f"--tls-cert-file={certificates.server}",
        f"--tls-private-key-file={certificates.server_key}",
        f"--client-ca-file={certificates.ca}",
        "--authorization-mode=Node,RBAC",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={certificates.service_account_public_key}",
        f"--service-account-signing-key-file={certificates.service_account_key}",
        f"--audit-policy-file={audit_policy}",
        f"--audit-log-path={audit_log}",
        "--audit-log-mode=blocking",
        "--audit-log-maxsize=100000",
        "--max-requests-inflight=2000",
        "--max-mutating-requests-inflight=1000",
    ]


NODE_LEASE_SECONDS = 40
"""As kubelets have it; each renews its lease four times as often."""


def controller_manager(kubeconfig: Path, certificates: Certificates, node_lease_seconds: int) -> list[str]:
    """The controllers a model server meets, each with its own service account."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--controllers={','.join(_CONTROLLERS)}",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={certificates.service_account_key}",
        f"--root-ca-file={certificates.ca}",
        "--leader-elect=false",
        "--secure-port=0",
        "--kube-api-qps=1000",
        "--kube-api-burst=2000",
        # Kubernetes' usual 50 s where leases last the usual 40 s.
        f"--node-monitor-grace-period={node_lease_seconds * 5 // 4}s",
        "--concurrent-deployment-syncs=20",
        "--concurrent-replicaset-syncs=20",
    ]


def scheduler(configuration: Path) -> list[str]:
    """Everything is in the configuration file."""
    return [f"--config={configuration}", "--secure-port=0"]


def scheduler_configuration(kubeconfig: Path) -> dict[str, Any]:
    """The default profile, with short back-off so that freed GPUs are taken soon."""
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig), "qps": 1000, "burst": 2000},
        "leaderElection": {"leaderElect": False},
        "podInitialBackoffSeconds": 1,
        "podMaxBackoffSeconds": 2,
    }


def kwok(kubeconfig: Path, port: int, stages: Path, node_lease_seconds: int) -> list[str]:
    """Plays the kubelet of the labelled nodes: leases, and the stages."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--config={stages}",
        f"--manage-nodes-with-label-selector={KUBELET_LABEL}=kwok",
        f"--node-lease-duration-seconds={node_lease_seconds}",
        "--node-ip=127.0.0.1",
        "--cidr=10.64.0.0/12",
        f"--server-address=127.0.0.1:{port}",
    ]
