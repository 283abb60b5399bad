"""One real control plane per test session, for the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster.binaries import all_binaries
from devcluster.cluster import Cluster

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.control_plane)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Builds what is missing now, since a first build takes longer than a test may."""
    if not session.config.option.collectonly and any(_HERE in item.path.parents for item in session.items):
        all_binaries()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The control plane all tests of the session share; it starts without nodes."""
    with Cluster() as running:
        yield running
