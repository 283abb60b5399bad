"""Archives of the images that the nodes run: the emulator in place of vLLM, the example router, the sandbox."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from devcluster.binaries import cache_directory
from devcluster.real_node import SANDBOX_IMAGE
from tests.image.base import base_archive
from tests.image.build import ROOT, Buildah, build, import_base

ENGINE_IMAGE = "localhost/engine:1"
ROUTER_IMAGE = "localhost/plimsoll-haproxy:1"
"""Tags other than latest: a kubelet takes these from the node and asks no registry."""
ROUTER_FOLDER = ROOT / "examples" / "routers" / "haproxy"
VLLM = """\
#!/bin/sh
exec plimsoll emulate --load-seconds 2 --allow-faults -- "$@"
"""


def archives() -> list[Path]:
    """Paths of the archives, in the cache under a name that their sources decide; older ones are removed."""
    folder = cache_directory() / "node-images"
    folder.mkdir(parents=True, exist_ok=True)
    operator = [ROOT / name for name in ("Dockerfile", "pyproject.toml", "requirements.lock", "operator")]
    engine = folder / f"engine-{_digest(operator, VLLM)}.tar"
    router = folder / f"router-{_digest([ROUTER_FOLDER, Path(__file__)])}.tar"
    sandbox = folder / f"sandbox-{_digest([Path(__file__)])}.tar"
    wanted = {engine: _engine, router: _router, sandbox: _sandbox}
    if not all(path.exists() for path in wanted):
        for left in (path for path in folder.iterdir() if path not in wanted):
            _discard(left)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            buildah = Buildah(Path(work) / "buildah")
            try:
                for path, make in wanted.items():
                    if not path.exists():
                        make(buildah, Path(work), path)
            finally:
                buildah.close()
    return list(wanted)


def _engine(buildah: Buildah, work: Path, archive: Path) -> None:
    print("real node: building the operator's image (minutes, once for each state of its sources) ...", flush=True)
    container = buildah("from", build(buildah, ROOT, import_base(buildah, base_archive()), work))
    program = work / "vllm"
    program.write_text(VLLM)
    program.chmod(0o755)
    buildah("copy", container, program, "/usr/local/bin/vllm")
    buildah("commit", "--rm", container, ENGINE_IMAGE)
    _push(buildah, archive, ENGINE_IMAGE)


def _router(buildah: Buildah, work: Path, archive: Path) -> None:
    container = buildah("from", import_base(buildah, base_archive()))
    # The base is of this machine's release, so its HAProxy runs there too.
    buildah("copy", container, _stage("haproxy", work) / "usr", "/usr")
    buildah("commit", "--rm", container, "localhost/haproxy")
    buildah(
        *("build", "--isolation", "chroot", "--build-arg", "BASE=localhost/haproxy", "--tag", ROUTER_IMAGE),
        ROUTER_FOLDER,
    )
    _push(buildah, archive, ROUTER_IMAGE)


def _sandbox(buildah: Buildah, work: Path, archive: Path) -> None:
    """What a sandbox runs only has to stay."""
    container = buildah("from", "scratch")
    buildah("copy", container, _stage("sleep", work), "/")
    buildah("config", "--entrypoint", '["/usr/bin/sleep", "infinity"]', container)
    buildah("commit", "--rm", container, SANDBOX_IMAGE)
    _push(buildah, archive, SANDBOX_IMAGE)


def _stage(name: str, work: Path) -> Path:
    """A root file system with a program of this machine and the libraries that it loads."""
    program = shutil.which(name)
    assert program is not None
    answer = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
    root = work / name
    for path in [program, *re.findall(r"(/\S+) \(0x", answer.stdout)]:
        # /bin, /lib and /lib64 are links, as in any Debian's base.
        top = path.split("/")[1]
        place = root / (path.lstrip("/") if top == "usr" else f"usr{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)
        if top != "usr" and not (root / top).exists():
            (root / top).symlink_to(f"usr/{top}")
    return root


def _discard(path: Path) -> None:
    """Removes an archive of older sources, or what a build that was killed has left."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _push(buildah: Buildah, archive: Path, image: str) -> None:
    partial = archive.with_suffix(".partial")
    buildah("push", image, f"docker-archive:{partial}:{image}")
    partial.rename(archive)


def _digest(paths: Iterable[Path], text: str = "") -> str:
    digest = hashlib.sha256(text.encode())
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]
