"""What the containers of a PETALS chain run under Plimsoll: a server of the chain's private swarm, and beside the first
one a front end that answers requests.

PETALS joins a swarm by the address and peer ID of one who is in it. The servers of a chain tell each other both on a
port of their own, so each makes its key as it starts, and no key leaves its pod. Who may ask is up to the chain's
NetworkPolicy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PEER_PORT = 31330
"""Of libp2p."""
SWARM_PORT = 31331
"""Where a server says which swarm it is in, and how to join."""
TIMEOUT_SECONDS = 3.0
LOOK_SECONDS = 2.0
WATCH_SECONDS = 15.0

_MAKE_IDENTITY = """
import sys
from hivemind.p2p import P2P, PeerID
P2P.generate_identity(sys.argv[1])
with open(sys.argv[1], "rb") as key:
    print(PeerID.from_identity(key.read()))
"""


@dataclass(frozen=True)
class Member:
    """One who is in a swarm."""

    address: str
    """Multiaddress with the peer ID."""
    swarm: int
    """When the swarm was founded, in nanoseconds since 1970."""


def addresses(hosts: Sequence[str], own: str) -> list[str]:
    """All that the names stand for now, without one's own."""
    found: set[str] = set()
    for host in hosts:
        with contextlib.suppress(OSError):  # nobody is there yet
            found.update(str(entry[4][0]) for entry in socket.getaddrinfo(host, SWARM_PORT, type=socket.SOCK_STREAM))
    return sorted(found - {own})


def ask(host: str, port: int = SWARM_PORT) -> Member | None:
    """What a server says of itself; None while it is in no swarm or cannot be reached."""
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT_SECONDS) as connection:
            said = json.loads(connection.makefile().readline())
        return Member(str(said["address"]), int(said["swarm"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def oldest(found: Sequence[Member | None]) -> list[Member]:
    """Those who are in the oldest swarm of all."""
    members = [one for one in found if one is not None]
    first = min((one.swarm for one in members), default=0)
    return [one for one in members if one.swarm == first]


def look_for_swarm(look: Callable[[], list[Member]], *, founder: bool, pause: float = LOOK_SECONDS) -> list[Member]:
    """Members of the swarm to join. The founder does not wait: without any it begins a new swarm."""
    while not (found := look()) and not founder:
        time.sleep(pause)
    return found


class Listener(socketserver.ThreadingTCPServer):
    """Tells whoever connects how to join, as long as the server takes connections itself."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], member: Member, joined: Callable[[], bool]) -> None:
        text = json.dumps(asdict(member)).encode() + b"\n"

        class Answer(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                if joined():
                    self.wfile.write(text)

        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Answer)


def accepts(host: str, port: int) -> bool:
    """Whether something listens."""
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True


def run(options: argparse.Namespace, petals: Sequence[str]) -> int:
    """Join the chain's swarm, or found it, and serve blocks until PETALS ends; beside the founder answer requests."""

    def look() -> list[Member]:
        return oldest([ask(one) for one in addresses(options.peers, options.address)])

    server: subprocess.Popen[bytes] | None = None

    def stop(*_: object) -> None:
        if server is None:
            sys.exit(0)
        # PETALS tells the swarm that it goes when it is interrupted, not when it is terminated.
        server.send_signal(signal.SIGINT)

    # Before PETALS starts: what is handled here begins with its default there, what is ignored stays ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    identity = Path(tempfile.mkdtemp()) / "identity"
    made = subprocess.run(
        [sys.executable, "-c", _MAKE_IDENTITY, str(identity)], check=True, stdout=subprocess.PIPE, text=True
    )
    reached = f"/{'ip6' if ':' in options.address else 'ip4'}/{options.address}/tcp/{PEER_PORT}"
    members = look_for_swarm(look, founder=options.port is not None)
    swarm = members[0].swarm if members else time.time_ns()
    print(f"swarm {swarm}: {f'{len(members)} servers are in it' if members else 'founded'}", flush=True)
    start = ["--initial_peers", *(one.address for one in members)] if members else ["--new_swarm"]
    command = [sys.executable, "-m", "petals.cli.run_server", options.model, *petals]
    command += [
        "--dht_prefix",
        options.dht_prefix,
        "--identity_path",
        str(identity),
        "--host_maddrs",
        reached,
        "--announce_maddrs",
        reached,
    ]
    server = subprocess.Popen([*command, "--no_auto_relay", *start])
    member = Member(f"{reached}/p2p/{made.stdout.strip()}", swarm)
    front_end = None if options.port is None else _front_end(options, member.address)

    looked = time.monotonic()
    answering: subprocess.Popen[bytes] | None = None
    with Listener((options.address, SWARM_PORT), member, lambda: accepts(options.address, PEER_PORT)) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        while server.poll() is None:
            ended = answering is None or answering.poll() is not None
            if front_end is not None and ended and accepts(options.address, PEER_PORT):
                answering = subprocess.Popen(front_end)
            if time.monotonic() - looked > WATCH_SECONDS:
                looked = time.monotonic()
                if any(one.swarm < swarm for one in look()):
                    # Two swarms of one chain, as after a broken network: who starts anew joins the older one.
                    print("there is an older swarm: starting anew to join it", flush=True)
                    stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(LOOK_SECONDS)
        listener.shutdown()
    if answering is not None:
        answering.terminate()
    return server.returncode


def _front_end(options: argparse.Namespace, peer: str) -> list[str]:
    return [
        *(sys.executable, "-m", "plimsoll_petals_openai", options.model, "--peer", peer),
        *("--dht_prefix", options.dht_prefix, "--served-model-name", *options.served_model_name),
        *("--port", str(options.port), "--max-model-len", str(options.max_model_len)),
        *("--max-num-seqs", str(options.max_num_seqs)),
    ]


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="plimsoll-petals", allow_abbrev=False, description="Other arguments are those of petals.cli.run_server."
    )
    parser.add_argument("model")
    parser.add_argument("--peers", nargs="*", default=[], help="names or addresses of the chain's servers")
    parser.add_argument("--dht_prefix", required=True, help="name of the chain, under which blocks are announced")
    parser.add_argument("--address", default=os.environ.get("PLIMSOLL_POD_IP", "127.0.0.1"), help="own IP, of the pod")
    first = parser.add_argument_group("first server", "with a port it founds the swarm, and serves the OpenAI API")
    first.add_argument("--port", type=int)
    first.add_argument("--served-model-name", nargs="+", default=[])
    first.add_argument("--max-model-len", type=int, help="tokens of a prompt and its answer")
    first.add_argument("--max-num-seqs", type=int, help="requests at once; others wait")
    options, petals = parser.parse_known_args()
    if options.port is not None and not (options.served_model_name and options.max_model_len and options.max_num_seqs):
        parser.error("--port needs --served-model-name, --max-model-len and --max-num-seqs")
    return run(options, petals)


if __name__ == "__main__":
    sys.exit(main())
