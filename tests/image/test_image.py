"""The image that the Dockerfile builds: small surface, numbered user, nothing of the build machine in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.build import ROOT, Buildah


@pytest.fixture(scope="module")
def container(buildah: Buildah, image: str) -> Iterator[str]:
    name = buildah("from", image)
    yield name
    buildah("rm", name)


@pytest.fixture(scope="module")
def root(buildah: Buildah, container: str) -> Path:
    """The container's root file system."""
    return Path(buildah("mount", container))


def test_image_runs_the_operator_as_a_numbered_user(buildah: Buildah, image: str) -> None:
    configuration = buildah.configuration(image)["OCIv1"]["config"]
    assert configuration["User"] == "65532:65532"
    assert configuration["Entrypoint"] == ["plimsoll"]
    assert configuration["Cmd"] == ["run"]


def test_command_line_answers(buildah: Buildah, container: str) -> None:
    assert "Usage: plimsoll" in buildah.run(container, "plimsoll", "--help")
    assert "Usage: plimsoll run" in buildah.run(container, "plimsoll", "run", "--help")


def test_package_is_installed_not_linked(buildah: Buildah, container: str) -> None:
    place = buildah.run(container, "python", "-c", "import plimsoll; print(plimsoll.__file__)")
    assert place.startswith("/opt/plimsoll/lib/")


def test_user_can_write_nowhere_but_in_tmp(buildah: Buildah, container: str) -> None:
    found = buildah.run(
        container,
        "sh",
        "-c",
        "id -u; find / -xdev -writable '!' -type l '!' -path '/proc/*' '!' -path '/dev/*' 2>/dev/null || true",
    ).split()
    assert found[0] == "65532"
    assert set(found[1:]) <= {"/tmp", "/var/tmp", "/run/lock"}


def test_shipped_environment_has_no_installer(root: Path) -> None:
    (packages,) = (root / "opt" / "plimsoll" / "lib").glob("python3.*/site-packages")
    names = {path.name for path in packages.iterdir()}
    assert "plimsoll" in names
    assert names.isdisjoint({"pip", "setuptools", "hatchling", "pytest", "helm_python"})


def test_bytecode_is_compiled_at_build_time(root: Path) -> None:
    assert list((root / "opt" / "plimsoll" / "lib").glob("python3.*/site-packages/plimsoll/__pycache__/*.pyc"))


def test_nothing_of_the_build_is_left(root: Path) -> None:
    for left in ("etc/pip.conf", "run/secrets", "installer", "wheels", "src", "root/.cache"):
        assert not (root / left).exists()


def test_image_names_nothing_of_the_build_machine(buildah: Buildah, image: str) -> None:
    text = str(buildah.configuration(image)["OCIv1"])
    for word in ("secret", "pip.conf", "index-url", str(ROOT)):
        assert word not in text
