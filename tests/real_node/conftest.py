"""Two real nodes below a real control plane, and a router that follows its mounted document."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

import pytest
import yaml

from devcluster.binaries import all_binaries, binary, cache_directory
from devcluster.cluster import Cluster
from devcluster.dns import DNS
from devcluster.installation import Installation
from devcluster.real_network import GATEWAY, Network
from devcluster.real_node import CNI_PLUGINS, RealNode
from tests.control_plane.bench import Bench, policy, pool
from tests.real_node.images import ROUTER_FOLDER, ROUTER_IMAGE, archives

_HERE = Path(__file__).parent
_TOOLS = ("buildah", "debootstrap", "containerd", "ctr", "runc", "iptables", "ip", "unshare", "nsenter", "haproxy")
NAMESPACE = "chat"
NAME = "assistant"
PROPAGATION_SECONDS = 12
"""These kubelets update mounted ConfigMaps within 6 s, and the router looks each second."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.real_node)
            item.add_marker(pytest.mark.timeout(600))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Builds what is missing now, since a first build takes longer than a test may."""
    if session.config.option.collectonly or not any(_HERE in item.path.parents for item in session.items):
        return
    if _missing() is None:
        session.config.add_cleanup(_alone().close)
        all_binaries()
        for name in ("kubelet", "kube-proxy", "coredns"):
            binary(name)
        archives()


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, list[RealNode]]]:
    """A control plane with two nodes: `real-0` has two A100, `real-1` four L40S."""
    reason = _missing()
    if reason is not None:
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("real")
    with ExitStack() as stack:
        stack.callback(_nothing_left, directory)
        network = stack.enter_context(Network())
        cluster = stack.enter_context(Cluster(directory / "cluster", address=GATEWAY))
        stack.enter_context(DNS(cluster.kubeconfig, GATEWAY, directory / "dns"))
        products = [("NVIDIA-A100-SXM4-80GB", "2"), ("NVIDIA-L40S", "4")]
        running = [
            RealNode(
                cluster,
                network,
                directory / f"node{number}",
                number=number,
                nodes=len(products),
                images=archives(),
                labels={"nvidia.com/gpu.product": product},
                resources={"nvidia.com/gpu": count},
            )
            for number, (product, count) in enumerate(products)
        ]
        for node in running:
            stack.callback(node.stop)
            node.boot()
        for node in running:
            node.start()
        yield cluster, running


@pytest.fixture(scope="session")
def bench(nodes: tuple[Cluster, list[RealNode]]) -> Iterator[Bench]:
    """The operator, the two pools, and the router of the LLMDeployment to come, a replica on each node."""
    cluster, _ = nodes
    operator = Installation(cluster)
    operator.install()
    cluster.kubectl("create", "namespace", NAMESPACE)
    found = Bench(cluster, operator)
    found.apply(
        policy(routing={"propagationSeconds": PROPAGATION_SECONDS}),
        pool("a100", "A100-SXM-80GB", "1.60"),
        pool("l40s", "L40S", "1.10"),
    )
    router = list(yaml.safe_load_all((ROUTER_FOLDER / "router.yaml").read_text()))
    for manifest in router:
        manifest["metadata"]["namespace"] = NAMESPACE
    (container,) = router[0]["spec"]["template"]["spec"]["containers"]
    container["image"] = ROUTER_IMAGE
    found.apply(*router)
    found.start()
    yield found
    operator.stop()


@pytest.fixture(autouse=True)
def logs(request: pytest.FixtureRequest, nodes: tuple[Cluster, list[RealNode]]) -> Iterator[None]:
    """Shows the nodes' logs beside a failure."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        for node in nodes[1]:
            print(node.logs())


def _alone() -> IO[str]:
    """Waits until no other run on this machine has its nodes up; the network has one name. Until the file is closed."""
    cache_directory().mkdir(parents=True, exist_ok=True)
    lock = (cache_directory() / "real-node.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _nothing_left(directory: Path) -> None:
    """What a run leaves on the machine is an error of the run."""
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(directory) in line]
    links = [link.name for link in Path("/sys/class/net").iterdir() if link.name.startswith("plimsoll-")]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob("**/plimsoll-real-*")]
    processes = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            command = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(directory) in command:
                processes.append(command)
    assert [mounts, links, groups, processes] == [[], [], [], []]


def _missing() -> str | None:
    """Why these tests cannot run here; installs what they need under CI=true."""
    if os.geteuid() != 0:
        return "a node needs root"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if not (CNI_PLUGINS / "bridge").exists():
        missing.append("containernetworking-plugins")
    if missing and os.environ.get("CI") and shutil.which("apt-get") is not None:
        subprocess.run([_HERE / "install_packages"], check=True)
        missing = []
    if missing:
        return f"{', '.join(missing)} missing: tests/real_node/install_packages installs them"
    allowed = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False
    )
    if allowed.returncode != 0:
        return f"no namespaces for a node: {allowed.stderr.decode().strip()}"
    return None
