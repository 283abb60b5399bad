"""Builds the container image once per session; needs root, buildah and debootstrap."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.base import base_archive
from tests.image.build import ROOT, Buildah, build, import_base

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.image)
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """buildah with a store of its own, emptied at the end."""
    _require_tools()
    tool = Buildah(tmp_path_factory.mktemp("buildah"))
    yield tool
    tool.close()


@pytest.fixture(scope="session")
def image(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image's name in buildah's store."""
    base = import_base(buildah, base_archive())
    return build(buildah, ROOT, base, tmp_path_factory.mktemp("secrets"))


def _require_tools() -> None:
    if os.geteuid() != 0:
        _skip("the image test needs root (buildah's chroot isolation, debootstrap)")
    missing = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
    if not missing:
        return
    if not os.environ.get("CI"):
        _skip(f"{' and '.join(missing)} missing: tests/image/install_packages installs them")
    if shutil.which("apt-get") is None:
        _skip(f"{' and '.join(missing)} missing, and there is no apt-get")
    print(f"image test: installing {' and '.join(missing)} ...", flush=True)
    subprocess.run([_HERE / "install_packages"], check=True)


def _skip(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; under CI this tier must run")
    pytest.skip(reason)
