"""Settings of the chain benchmarks: BLOOM-176B in NF4 on A100s and slices of them, as calibrated in published work.

Times are per block; memory is what the published simulator gives weights and caches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from benchmarks.data import data_folder
from plimsoll.chains import ChainProblem
from plimsoll.simulation import Request
from plimsoll.simulation.methods import ChainSetting, Swarm
from plimsoll.simulation.topologies import Topology, read_topology, scattered, synthetic_topology

BLOCKS = 70
HIDDEN_SIZE = 14336
BLOCK_BYTES = 2_466_437_120 * 4.25 / 8 * 1.01
"""NF4 with its scales."""
INPUT_TOKENS = 20
TOKEN_SECONDS = 0.100
"""Overhead per token and hop, beside the round trip."""
PROMPT_SECONDS = (0.7049 * INPUT_TOKENS + 67) / 1000
START_SECONDS = 0.07
SLICE_BLOCKS = 4
FULL_SHARE = 0.2
"""Of servers that are whole A100s; the others are seventh parts of one."""
TYPICAL_TOKENS = 75.0
"""Of the exponential that random lengths are drawn from."""
FILES = {"AboveNet": "Abvt", "BellCanada": "Bellcanada", "GTS-CE": "GtsCe"}


@dataclass(frozen=True, slots=True)
class Device:
    """An A100 or a slice of one."""

    decode_seconds: float
    """Per block and token."""
    prefill_seconds: float
    """Per block and prompt."""
    memory_bytes: float
    forward_per_second: float
    network_per_second: float
    most_blocks: int


@dataclass(frozen=True, slots=True)
class Network:
    """A topology with servers on it."""

    name: str
    servers: int
    full: Device
    slice: Device


def _devices(full_gb: float, slice_gb: float, *, large: bool) -> tuple[Device, Device]:
    forward, network = ((20575.6, 2734.9), (2555.2, 1636.2)) if large else ((20829.4, 2757.7), (3020.4, 3138.1))
    return (
        Device(0.0032197, (0.0743 * INPUT_TOKENS + 32.99) / 1000, full_gb * 1e9, forward[0], network[0], BLOCKS),
        Device(
            0.0162488, (0.1041 * INPUT_TOKENS + 206.3547) / 1000, slice_gb * 1e9, forward[1], network[1], SLICE_BLOCKS
        ),
    )


NINE, LARGE = _devices(86.13, 9.1, large=False), _devices(84.973, 10.2, large=True)
NETWORKS = {
    "AboveNet": Network("AboveNet", 9, *NINE),
    "BellCanada": Network("BellCanada", 26, *LARGE),
    "GTS-CE": Network("GTS-CE", 26, *LARGE),
    **{f"synthetic {count:,}": Network(f"synthetic {count:,}", count, *LARGE) for count in (100, 300, 1000, 3000)},
}


@cache
def _published(name: str) -> Topology:
    return read_topology(data_folder() / "topologies" / f"{FILES[name]}.graph")


def topology(network: Network, seed: int) -> Topology:
    """Published networks are the same for all seeds."""
    return _published(network.name) if network.name in FILES else synthetic_topology(network.servers + 1, seed)


def setting(
    network: Network, *, arrivals_per_second: float, output_tokens: int, setup_seconds: float, seed: int
) -> ChainSetting:
    """Client, servers, which of them are whole GPUs, and the order in which they join are drawn by the seed."""
    stream = np.random.default_rng([seed, 1])
    place = topology(network, seed)
    sites = scattered(place, network.servers, stream)
    count = network.servers
    full = np.zeros(count, dtype=bool)
    full[stream.permutation(count)[: int(FULL_SHARE * count + 0.5)]] = True
    # Slices come first, as in the published simulator.
    order = np.argsort(full, kind="stable")
    full, servers = full[order], sites.servers[order]
    sites = replace(sites, servers=servers)

    def of(value: Callable[[Device], float]) -> np.ndarray:
        return np.where(full, value(network.full), value(network.slice)).astype(np.float64)

    raw = sites.client_round_trips(place)[None, :]
    problem = ChainProblem(
        blocks=BLOCKS,
        block_bytes=BLOCK_BYTES,
        cache_bytes=cache_bytes(output_tokens),
        memory_bytes=of(lambda device: device.memory_bytes),
        decode_trip_seconds=raw + TOKEN_SECONDS,
        decode_block_seconds=of(lambda device: device.decode_seconds),
        prefill_trip_seconds=raw + PROMPT_SECONDS,
        prefill_block_seconds=of(lambda device: device.prefill_seconds),
        output_tokens=output_tokens,
        setup_seconds=START_SECONDS + setup_seconds,
        block_limit=of(lambda device: device.most_blocks).astype(np.int64),
    )
    swarm = Swarm(
        hidden_size=HIDDEN_SIZE,
        forward_per_second=of(lambda device: device.forward_per_second),
        network_per_second=of(lambda device: device.network_per_second),
        client_round_trips=raw,
        server_round_trips=sites.server_round_trips(place),
        join_order=tuple(stream.permutation(count).tolist()),
    )
    return ChainSetting(
        problem,
        arrivals_per_second,
        swarm,
        greatest_tokens=output_tokens,
        counted_setup_seconds=START_SECONDS,
        load_seconds=60.0,
    )


def cache_bytes(output_tokens: int) -> float:
    """Keys and values of a session at its greatest length, per block."""
    return float(2 * HIDDEN_SIZE * (INPUT_TOKENS + output_tokens) * 2)


def random_lengths(given: ChainSetting) -> ChainSetting:
    """The same where answers are 1 + Exp(75), cut at the greatest length, for which memory is kept, and not known
    before they end."""
    beyond = (given.greatest_tokens - 1) / TYPICAL_TOKENS
    mean = round(1 + TYPICAL_TOKENS * (1 - float(np.exp(-beyond))))
    return replace(given, problem=replace(given.problem, output_tokens=mean), lengths_known=False)


def arrivals(given: ChainSetting, count: int, seed: int) -> list[Request]:
    """Poisson arrivals, the first at 0 s."""
    stream = np.random.default_rng([seed, 2])
    gaps = stream.exponential(1 / given.arrivals_per_second, count)
    gaps[0] = 0.0
    lengths = np.full(count, given.greatest_tokens)
    if not given.lengths_known:
        drawn = 1 + stream.exponential(TYPICAL_TOKENS, count)
        lengths = np.minimum(np.floor(drawn), given.greatest_tokens).astype(np.int64)
    return [
        Request(at, "session", INPUT_TOKENS, tokens)
        for at, tokens in zip(np.cumsum(gaps).tolist(), lengths.tolist(), strict=True)
    ]
