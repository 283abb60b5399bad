"""A base image with Python from the machine's own Debian mirror: no image registry is needed."""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from devcluster.binaries import cache_directory

PACKAGES = ("python3", "python3-venv", "ca-certificates")


def base_archive() -> Path:
    """A root file system of this machine's Debian release as a tar file, made once (a minute) and cached."""
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    path = cache_directory() / "image-base" / f"{release}.tar"
    if not path.exists():
        print(f"image test: debootstrap of {release} (once, into {path.parent}) ...", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not under the system's temporary folder, which may be mounted without devices or execution.
        with tempfile.TemporaryDirectory(dir=path.parent) as work:
            root, partial = Path(work) / "root", Path(work) / "base.tar"
            _debootstrap(release, root)
            _clean(root)
            subprocess.run(["tar", "--numeric-owner", "-C", root, "-cf", partial, "."], check=True)
            partial.rename(path)
    return path


def _debootstrap(release: str, root: Path) -> None:
    options = ["--variant=minbase", f"--components={','.join(_components(release))}", f"--include={','.join(PACKAGES)}"]
    answer = subprocess.run(
        ["debootstrap", *options, release, root, _mirror(release)], capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        log = root / "debootstrap" / "debootstrap.log"
        detail = log.read_text()[-2000:] if log.exists() else ""
        raise RuntimeError(f"debootstrap failed:\n{answer.stdout[-2000:]}{answer.stderr[-2000:]}{detail}")


def _index_targets(release: str) -> list[tuple[str, str]]:
    """Address and component of the release's package lists, from apt's own configuration."""
    answer = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Identifier: Packages"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split() for line in answer.stdout.splitlines()]
    return [(address, component) for suite, component, address in rows if suite == release]


def _mirror(release: str) -> str:
    for address, component in _index_targets(release):
        if component == "main":
            return address
    raise RuntimeError(f"apt knows no mirror of {release}: run apt-get update with a deb source for it")


def _components(release: str) -> list[str]:
    """`main`, and `universe` where the release has it (Ubuntu keeps python3-venv there)."""
    return sorted({component for _, component in _index_targets(release)} & {"main", "universe"})


def _clean(root: Path) -> None:
    """Leaves out downloads, package lists, and what debootstrap copied from this machine."""
    for folder in ("var/cache/apt", "var/lib/apt/lists", "var/log"):
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir(parents=True)
    for name in ("etc/apt/sources.list", "etc/resolv.conf", "etc/hostname"):
        (root / name).unlink(missing_ok=True)
