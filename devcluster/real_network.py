"""A bridge of this machine on which real nodes and the control plane meet; needs root."""

from __future__ import annotations

import subprocess
from types import TracebackType
from typing import Self

BRIDGE = "plimsoll-lab"
GATEWAY = "10.245.0.1"
"""The machine's own address on the bridge: where the API server and the DNS server listen."""
PREFIX_LENGTH = 24


class Network:
    """The bridge, from `start` to `stop`. Each node has an address on it, and a range of pod addresses behind that."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Makes the bridge; one that a killed process left behind goes first.

        Raises:
            RuntimeError: the kernel refuses.
        """
        self.stop()
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("address", "add", f"{GATEWAY}/{PREFIX_LENGTH}", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        return self

    def stop(self) -> None:
        """Removes it."""
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, check=False)

    def attach(self, number: int, pid: int) -> None:
        """Gives a process's network namespace an `eth0` on the bridge, and sends what is for the node's pods there."""
        self.detach(number)
        outside = _link(number)
        ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        ip("link", "set", outside, "master", BRIDGE, "up")
        ip("route", "replace", pod_range(number), "via", node_address(number))

    def detach(self, number: int) -> None:
        """Pulls a node's cable, if it is there: the kernel takes its time with that of a node that was switched off."""
        subprocess.run(["ip", "link", "delete", _link(number)], capture_output=True, check=False)


def _link(number: int) -> str:
    return f"plimsoll-node{number}"


def node_address(number: int) -> str:
    """Of a node on the bridge."""
    return f"10.245.0.{10 + number}"


def pod_range(number: int) -> str:
    """Addresses of a node's pods."""
    return f"10.244.{number}.0/24"


def ip(*arguments: str) -> None:
    """Runs ip(8).

    Raises:
        RuntimeError: it failed.
    """
    answer = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)} failed: {answer.stderr.strip()}")
