"""What the dev cluster is made of: each program, the Go module that pins its version, and how it is compiled."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

MODULES = Path(__file__).parent / "gomod"

Version = tuple[int, ...]


def parse_version(text: str) -> Version | None:
    """The first x.y.z in a text."""
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(int(part) for part in match.groups()) if match else None


@dataclass(frozen=True)
class Module:
    """A folder with a committed go.mod and go.sum; its first requirement is the upstream release."""

    folder: str
    upstream: str

    @property
    def directory(self) -> Path:
        return MODULES / self.folder

    @property
    def version(self) -> str:
        """The pinned upstream version, with its leading v."""
        match = re.search(rf"\s{re.escape(self.upstream)} (v\S+)", (self.directory / "go.mod").read_text())
        if match is None:
            raise ValueError(f"{self.directory / 'go.mod'} does not require {self.upstream}")
        return match[1]

    @property
    def key(self) -> str:
        """Names a cache folder; changes with the version and with every committed file of the module."""
        digest = hashlib.sha256()
        for path in sorted(path for path in self.directory.iterdir() if path.is_file()):
            digest.update(path.read_bytes())
        return f"{self.folder}-{self.version}-{digest.hexdigest()[:8]}"


@dataclass(frozen=True)
class Component:
    """One program. A copy found on the machine is accepted when its version lies in [minimum, below)."""

    name: str
    module: Module
    package: str
    minimum: Version
    below: Version
    version_arguments: tuple[str, ...] = ("--version",)
    build_tags: tuple[str, ...] = ()

    def accepts(self, version: Version) -> bool:
        return self.minimum <= version < self.below

    @property
    def linker_flags(self) -> str:
        """Strips the binary and tells it its version, as the upstream release build does."""
        version = self.module.version
        variables: dict[str, str]
        if self.module is KUBERNETES:
            major, minor, _ = version.removeprefix("v").split(".")
            package = "k8s.io/component-base/version"
            variables = {f"{package}.gitVersion": version, f"{package}.gitMajor": major, f"{package}.gitMinor": minor}
        elif self.module is HELM:
            major, minor, _ = KUBERNETES.version.removeprefix("v").split(".")
            variables = {"helm.sh/helm/v3/internal/version.version": version}
            for package in ("helm.sh/helm/v3/pkg/lint/rules", "helm.sh/helm/v3/pkg/chartutil"):
                variables |= {f"{package}.k8sVersionMajor": major, f"{package}.k8sVersionMinor": minor}
        elif self.module is KWOK:
            variables = {"sigs.k8s.io/kwok/pkg/consts.Version": version.removeprefix("v")}
        elif self.module is PROMETHEUS:
            # The module of release 3.15.0 is v0.315.0.
            _, minor, patch = version.removeprefix("v").split(".")
            release = f"{minor[0]}.{int(minor[1:])}.{patch}"
            variables = {"github.com/prometheus/common/version.Version": release}
        elif self.module is LEADER_WORKER_SET:
            variables = {"sigs.k8s.io/lws/pkg/version.GitVersion": version}
        else:
            variables = {}
        return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in variables.items())])


KUBERNETES = Module("kubernetes", "k8s.io/kubernetes")
ETCD = Module("etcd", "go.etcd.io/etcd/server/v3")
KWOK = Module("kwok", "sigs.k8s.io/kwok")
HELM = Module("helm", "helm.sh/helm/v3")
PROMETHEUS = Module("prometheus", "github.com/prometheus/prometheus")
GATEWAY_API = Module("gateway-api", "sigs.k8s.io/gateway-api")
LEADER_WORKER_SET = Module("lws", "sigs.k8s.io/lws")
COREDNS = Module("coredns", "github.com/coredns/coredns")


def _server(name: str) -> Component:
    """A Kubernetes server. All must be of one minor release, so only the pinned one is accepted."""
    return Component(name, KUBERNETES, f"k8s.io/kubernetes/cmd/{name}", minimum=(1, 34), below=(1, 35))


COMPONENTS = {
    component.name: component
    for component in (
        Component("etcd", ETCD, ".", minimum=(3, 5, 8), below=(3, 7)),
        _server("kube-apiserver"),
        _server("kube-controller-manager"),
        _server("kube-scheduler"),
        Component(
            "kubectl",
            KUBERNETES,
            "k8s.io/kubernetes/cmd/kubectl",
            minimum=(1, 30),
            below=(2,),
            version_arguments=("version", "--client"),
        ),
        Component("kwok", KWOK, "sigs.k8s.io/kwok/cmd/kwok", minimum=(0, 8), below=(0, 9)),
        Component(
            "helm",
            HELM,
            "helm.sh/helm/v3/cmd/helm",
            minimum=(3, 14),
            below=(4,),
            version_arguments=("version", "--short"),
        ),
    )
}
"""Of a control plane."""

TOOLS = {
    component.name: component
    for component in (
        Component(
            "prometheus",
            PROMETHEUS,
            "github.com/prometheus/prometheus/cmd/prometheus",
            minimum=(2, 40),
            below=(4,),
            # File discovery stays; the clients of all clouds would take most of the build.
            build_tags=("remove_all_sd",),
        ),
        Component("leader-worker-set", LEADER_WORKER_SET, "sigs.k8s.io/lws/cmd", minimum=(0, 7), below=(1,)),
        Component(
            "promtool",
            PROMETHEUS,
            "github.com/prometheus/prometheus/cmd/promtool",
            minimum=(3, 0),
            below=(4,),
            build_tags=("remove_all_sd",),
        ),
        _server("kubelet"),
        _server("kube-proxy"),
        Component("coredns", COREDNS, ".", minimum=(1, 11), below=(2,), version_arguments=("-version",)),
    )
}
"""Built only where something needs them."""
