"""A node that is none of KWOK's: kubelet, kube-proxy, containerd and runc in namespaces of their own; needs root.

The node's processes live in one PID namespace, one network namespace and one mount namespace. Ending the first of them
ends all, containers included, and leaves nothing on the machine but control groups, which are removed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from devcluster.binaries import binary
from devcluster.cluster import Cluster
from devcluster.process import Process
from devcluster.real_network import GATEWAY, PREFIX_LENGTH, Network, node_address, pod_range

SANDBOX_IMAGE = "localhost/sandbox:latest"
CNI_PLUGINS = Path("/usr/lib/cni")
"""Where Debian's containernetworking-plugins puts them."""
CORES = 16
MEMORY_KIBIBYTES = 128 * 2**20
"""What the kubelet finds, whatever this machine has."""
_BOOT = Path(__file__).with_name("boot_node.sh")
_CGROUPS = Path("/sys/fs/cgroup")


class RealNode:
    """One node, up between `start` and `stop` or inside a `with` block.

    `images` are archives that containerd imports at the first start, `SANDBOX_IMAGE` in one of them. `gpus` of an
    extended resource are advertised as a device plugin would.
    """

    def __init__(
        self,
        cluster: Cluster,
        network: Network,
        directory: Path,
        *,
        number: int = 0,
        nodes: int = 1,
        images: Sequence[Path] = (),
        labels: Mapping[str, str] | None = None,
        resources: Mapping[str, str] | None = None,
    ) -> None:
        self._cluster, self._network, self._number = cluster, network, number
        self.name = f"real-{number}"
        self._directory = directory
        self._resources = dict(resources or {})
        self._cgroup = f"plimsoll-{self.name}"
        etc = directory / "etc"
        (etc / "cni").mkdir(parents=True, exist_ok=True)
        (etc / "images").write_text("".join(f"{image}\n" for image in images))
        for name in ("kubelet", "kube-proxy"):
            (etc / name).unlink(missing_ok=True)
            (etc / name).symlink_to(binary(name))
        self._write_configuration(etc, dict(labels or {}))
        routes = [f"{pod_range(other)}={node_address(other)}" for other in range(nodes) if other != number]
        self.process = Process(
            [
                *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("bash", _BOOT, directory, f"{node_address(number)}/{PREFIX_LENGTH}", GATEWAY),
                *(str(CORES), str(MEMORY_KIBIBYTES), *routes),
            ],
            directory / "boot.log",
        )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout_seconds: float = 120.0) -> Self:
        """Boots it, if need be, and waits until it is Ready and advertises its resources.

        Raises:
            RuntimeError: with the end of its logs.
        """
        if self.process.pid is None:
            self.boot()
        # Not what the last boot has left in the status: registering anew takes the resources out of it.
        self._wait("registered", self._registered, timeout_seconds)
        self._wait("ready", self._ready, timeout_seconds)
        self.advertise()
        return self

    def boot(self) -> None:
        """Boots it, and waits for nothing."""
        (self._directory / "boot_id").unlink(missing_ok=True)
        for hierarchy in _hierarchies():
            group = hierarchy / self._cgroup
            _remove(group)  # of a run that was killed
            group.mkdir()
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (hierarchy / setting).exists():
                    (group / setting).write_text((hierarchy / setting).read_text())
        self.process.start()
        self._wait("the first process", lambda: self._init() is not None, 10)
        init = self._init()
        assert init is not None
        self._network.attach(self._number, init)

    def power_off(self) -> None:
        """Ends every process of it at once, with no chance to say good-bye."""
        pid = self.process.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        self.process.stop()
        self._network.detach(self._number)
        for hierarchy in _hierarchies():
            _remove(hierarchy / self._cgroup)

    def stop(self) -> None:
        """The same, and removes its disk; the logs stay."""
        self.power_off()
        for disk in (self._directory / "containerd", self._directory / "kubelet"):
            if disk.exists():
                shutil.rmtree(disk)

    def advertise(self) -> None:
        """Writes the extended resources into the node's status, where a device plugin would have them written."""
        if self._resources:
            patch = {"status": {"capacity": self._resources}}
            self._cluster.kubectl(
                *("patch", "node", self.name, "--subresource=status", "--type=merge", "--patch", json.dumps(patch))
            )

    def inside(self, *command: str) -> list[str]:
        """The command line that runs a command in the node's namespaces."""
        return ["nsenter", f"--target={self._init()}", "--net", "--mount", "--pid", *command]

    def logs(self) -> str:
        """The ends of its logs."""
        texts = []
        for path in sorted(self._directory.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-30:]
            texts.append("\n".join([f"--- {path.name}", *lines]))
        return "\n".join(texts)

    def _init(self) -> int | None:
        """Process id, outside, of the first process inside."""
        pid = self.process.pid
        if pid is None:
            return None
        # unshare follows the shell and setpriv in the same process
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"bash\0"):
                return int(child)
        return None

    def _status(self) -> dict[str, Any]:
        text = self._cluster.kubectl("get", "node", self.name, "--ignore-not-found", "--output=json")
        status: dict[str, Any] = json.loads(text)["status"] if text else {}
        return status

    def _registered(self) -> bool:
        info = self._status().get("nodeInfo", {})
        file = self._directory / "boot_id"
        return file.exists() and info.get("bootID") == file.read_text().strip()

    def _ready(self) -> bool:
        return any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in self._status().get("conditions", [])
        )

    def _wait(self, what: str, ready: Callable[[], bool], timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            if self.process.died or time.monotonic() > deadline:
                raise RuntimeError(f"node {self.name}: not {what}\n{self.logs()}")
            time.sleep(0.1)

    def _write_configuration(self, etc: Path, labels: Mapping[str, str]) -> None:
        cluster, directory = self._cluster, self._directory
        (etc / "containerd.toml").write_text(_containerd(directory))
        (etc / "cni" / "10-bridge.conflist").write_text(json.dumps(_bridge(self._number)))
        (etc / "resolv.conf").write_text("")
        certificate, key = cluster.client_certificate(f"system:node:{self.name}", "system:nodes")
        cluster.kubeconfig_for_certificate(certificate, key, etc / "kubelet.kubeconfig")
        (etc / "kubelet.json").write_text(json.dumps(_kubelet(cluster, directory, self._cgroup)))
        labelled = ",".join(f"{name}={value}" for name, value in labels.items())
        flags = [f"--hostname-override={self.name}", f"--node-ip={node_address(self._number)}"]
        (etc / "kubelet.flags").write_text(" ".join([*flags, *([f"--node-labels={labelled}"] if labels else [])]))
        certificate, key = cluster.client_certificate("system:kube-proxy")
        kubeconfig = cluster.kubeconfig_for_certificate(certificate, key, etc / "kube-proxy.kubeconfig")
        (etc / "kube-proxy.json").write_text(json.dumps(_kube_proxy(self.name, self._number, kubeconfig)))


def _hierarchies() -> list[Path]:
    """Where control groups are made: one place with version 2, one for each controller with version 1."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [path for path in _CGROUPS.iterdir() if (path / "cgroup.procs").exists()]


def _remove(group: Path, timeout_seconds: float = 10.0) -> None:
    """Removes a control group with those below it, once the kernel has seen the last process out."""
    deadline = time.monotonic() + timeout_seconds
    for path in (*sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True), group):
        while True:
            try:
                path.rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def _containerd(directory: Path) -> str:
    return f"""\
version = 2
root = "{directory}/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX_IMAGE}"
  netns_mounts_under_state_dir = true
  # For machines whose root may not protect a process from the out-of-memory killer.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{directory}/etc/cni"
"""


def _bridge(number: int) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    # in /run, so that no address outlives a reboot
                    "dataDir": "/run/cni",
                    "ranges": [[{"subnet": pod_range(number)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
        ],
    }


def _kubelet(cluster: Cluster, directory: Path, cgroup: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(cluster.ca_file)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "clusterDNS": [GATEWAY],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "enforceNodeAllocatable": ["none"],
        "evictionHard": {"memory.available": "1Mi"},
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": str(directory / "pod-logs"),
        "resolvConf": str(directory / "etc" / "resolv.conf"),
        # How late a mounted ConfigMap is; kubelets usually take a minute.
        "syncFrequency": "4s",
        "nodeStatusUpdateFrequency": "2s",
        "cpuCFSQuota": False,
        "volumeStatsAggPeriod": "-1s",
    }


def _kube_proxy(name: str, number: int, kubeconfig: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": "iptables",
        "hostnameOverride": name,
        "clusterCIDR": pod_range(number),
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    }
