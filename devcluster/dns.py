"""CoreDNS for the names of a cluster's Services."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from devcluster.binaries import binary
from devcluster.cluster import free_ports
from devcluster.process import Process, answers

_START_SECONDS = 30.0


class DNS:
    """One server on port 53 of an address, from `start` to `stop`."""

    def __init__(self, kubeconfig: Path, address: str, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (port,) = free_ports(1)
        self._ready_url = f"http://127.0.0.1:{port}/ready"
        corefile = directory / "Corefile"
        corefile.write_text(
            f".:53 {{\n    bind {address}\n    errors\n    ready 127.0.0.1:{port}\n"
            f"    kubernetes cluster.local {{\n        kubeconfig {kubeconfig} devcluster\n    }}\n}}\n"
        )
        self.process = Process([binary("coredns"), "-conf", corefile], directory / "coredns.log")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()

    def start(self) -> Self:
        """Starts it and waits until it knows the Services.

        Raises:
            RuntimeError: with the end of its log.
        """
        self.process.start()
        self.process.wait("CoreDNS", lambda: answers(self._ready_url), _START_SECONDS)
        return self
