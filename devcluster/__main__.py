"""`python -m devcluster up` runs a control plane until Ctrl-C; `python -m devcluster binaries` builds its parts."""

from __future__ import annotations

import argparse
import functools
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from devcluster.binaries import binary, gateway_api_crds, leader_worker_set_manifests
from devcluster.cluster import Cluster
from devcluster.components import COMPONENTS, TOOLS
from devcluster.nodes import demo_nodes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m devcluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("binaries", help="find or build every program, and say where it is")
    up = commands.add_parser("up", help="run a control plane in the foreground")
    up.add_argument("--nodes", choices=["demo"], help="GPU nodes to add")
    up.add_argument("--directory", type=Path, help="work directory, kept; a temporary one by default")
    options = parser.parse_args()
    if options.command == "binaries":
        _binaries()
    else:
        _up(options.directory, demo_nodes() if options.nodes == "demo" else [])


def _binaries() -> None:
    finders: dict[str, Callable[[], Path]] = {name: functools.partial(binary, name) for name in COMPONENTS | TOOLS}
    finders["gateway-api CRDs"] = gateway_api_crds
    finders["LeaderWorkerSet CRD"] = leader_worker_set_manifests
    for name, find in finders.items():
        started = time.monotonic()
        path = find()
        print(f"{name:<24} {time.monotonic() - started:6.1f} s  {path}", flush=True)


def _up(directory: Path | None, nodes: list[dict[str, Any]]) -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Cluster(directory) as cluster:
            if nodes:
                cluster.apply(nodes)
            print(f"export KUBECONFIG={cluster.kubeconfig}", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("stopped")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
