"""One real control plane per test session, for the tests in this folder; with pytest-xdist, per worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devcluster.audit import Mark
from devcluster.binaries import all_binaries, binary, gateway_api_crds, leader_worker_set_manifests
from devcluster.cluster import Cluster
from devcluster.installation import Installation
from devcluster.leader_worker_set import LeaderWorkerSetController
from devcluster.nodes import demo_nodes
from tests.control_plane.bench import Bench, policy, read_crds

_HERE = Path(__file__).parent
_LAST = "test_rbac.py"
"""Judges what all the others on its control plane made the operator do."""
_FIRST = ("test_demand.py", "test_chaos.py", "test_transitions.py", "test_upgrade.py")
"""The longest: two control planes work side by side, and neither should wait for the other's last file."""
_WITH_PROMETHEUS = {"test_corrections.py", "test_demand.py", "test_events.py"}
_WITH_SEVERAL_NODES = {"test_several_nodes.py", _LAST}
NAMESPACES = ("chat", "documents")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.control_plane)
    items.sort(key=lambda item: (item.path == _HERE / _LAST, item.path.name not in _FIRST))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Builds what is missing now, since a first build takes longer than a test may."""
    files = {item.path.name for item in session.items if _HERE in item.path.parents}
    if files and not session.config.option.collectonly:
        all_binaries()
        if _WITH_PROMETHEUS & files:
            binary("prometheus")
        if _WITH_SEVERAL_NODES & files:
            binary("leader-worker-set")
            leader_worker_set_manifests()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The control plane all tests of the session (of the worker) share; it starts without nodes."""
    with Cluster() as running:
        yield running


@pytest.fixture(scope="session")
def beginning(cluster: Cluster) -> Mark:
    """Before the operator's first request."""
    return cluster.mark()


@pytest.fixture(scope="session")
def installed(cluster: Cluster, beginning: Mark) -> Bench:
    """The chart without a pod. The operator does not run yet."""
    owner = cluster.kubectl(
        *("get", "crd", read_crds()[0].stem, "--ignore-not-found", "--output", "jsonpath={.metadata.annotations}")
    )
    if "meta.helm.sh/release-name" not in owner:
        # Another module put them there; helm takes over only what is its own.
        cluster.kubectl("delete", "crd", "--ignore-not-found", *(path.stem for path in read_crds()))
    operator = Installation(cluster)
    operator.install()
    for namespace in NAMESPACES:
        cluster.kubectl("create", "namespace", namespace)
    return Bench(cluster, operator)


@pytest.fixture(scope="module")
def nodes(cluster: Cluster) -> Iterator[None]:
    """The demo's three pools of nodes: 4 of 8 H100, 6 of 4 L40S, 8 of 1 L4."""
    manifests = demo_nodes()
    cluster.apply(manifests)
    yield
    names = [manifest["metadata"]["name"] for manifest in manifests]
    cluster.kubectl("delete", "node", "--ignore-not-found", *names)
    cluster.restart_kubelets()


@pytest.fixture(scope="module")
def bench(installed: Bench, nodes: None) -> Iterator[Bench]:
    """The operator running on the demo's nodes, with a policy under which transitions are quick."""
    installed.operator.install()
    installed.apply(policy())
    installed.start()
    yield installed
    installed.operator.stop()
    installed.clear()


@pytest.fixture
def leader_worker_set(cluster: Cluster) -> Iterator[LeaderWorkerSetController]:
    """The LeaderWorkerSet controller, to be started; afterwards it is gone again."""
    controller = LeaderWorkerSetController(cluster)
    yield controller
    controller.stop()


@pytest.fixture
def gateway_api(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """Installs the Gateway API when called; afterwards it is gone again."""
    folder = str(gateway_api_crds())
    installed = []

    def install() -> None:
        installed.append(folder)
        cluster.kubectl("apply", "--server-side", "--filename", folder)
        cluster.kubectl(
            "wait", "--for=condition=Established", "--timeout=30s", "crd/httproutes.gateway.networking.k8s.io"
        )

    yield install
    if installed:
        cluster.kubectl("delete", "--filename", folder)
        cluster.restart_controllers()
