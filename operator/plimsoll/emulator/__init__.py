"""The simulator in real time behind vLLM's HTTP interface and metric names: one process, hundreds of endpoints.

    config = EndpointConfig(model="meta-llama/Llama-3.1-8B-Instruct", gpu="H100-SXM-80GB", count=3)
    emulator = Emulator([config], speed=10)
    await emulator.start()

`plimsoll emulate` is the same from a shell. Clients, routers and Prometheus see endpoints of vLLM whose latencies are
those of `plimsoll.simulation`; no model is computed, and answers are filler words.
"""

from plimsoll.emulator.config import (
    EmulatorError,
    EndpointConfig,
    FleetConfig,
    OutputLength,
    endpoint_config,
    read_fleet,
)
from plimsoll.emulator.fleet import Emulator, Endpoint, EndpointState
from plimsoll.emulator.vllm_args import VllmCommand, parse_vllm

__all__ = [
    "Emulator",
    "EmulatorError",
    "Endpoint",
    "EndpointConfig",
    "EndpointState",
    "FleetConfig",
    "OutputLength",
    "VllmCommand",
    "endpoint_config",
    "parse_vllm",
    "read_fleet",
]
