"""`plimsoll emulate`: endpoints of vLLM without a GPU."""

import asyncio
import resource
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from plimsoll.emulator import (
    Emulator,
    EmulatorError,
    Endpoint,
    EndpointConfig,
    EndpointState,
    endpoint_config,
    parse_vllm,
    read_fleet,
)


def wanted_endpoints(
    path: Path | None, vllm: Sequence[str], given: Mapping[str, Any]
) -> tuple[tuple[EndpointConfig, ...], float]:
    """Endpoints and speed from a file, from vLLM's command line, or from the options.

    Raises:
        click.ClickException: they contradict each other or something is wrong with them.
    """
    fields = {name: value for name, value in given.items() if value not in (None, ())}
    gpu, length = fields.pop("gpu", None), fields.pop("output_tokens", None)
    if length is not None:
        fields["output_length"] = {"mean": length[0], "p95": length[1]}
    try:
        if path is not None:
            if fields or vllm:
                raise click.UsageError("-f describes the endpoints; beside it only --speed is accepted")
            fleet = read_fleet(path)
            return fleet.endpoints, fleet.speed
        if gpu is None:
            raise click.UsageError("--gpu (or PLIMSOLL_EMULATE_GPU), or -f, is needed")
        if not vllm:
            if "model" not in fields:
                raise click.UsageError("--model, -f, or `-- serve MODEL ...` is needed")
            return (endpoint_config(gpu=gpu, **fields),), 1.0
        return (_as_vllm(vllm, gpu, fields),), 1.0
    except EmulatorError as error:
        raise click.ClickException(str(error)) from error


_BESIDE_VLLM = {"load_seconds", "while_loading", "output_length", "allow_faults", "precision"}
"""Fields that vLLM has no flag for."""


def _as_vllm(vllm: Sequence[str], gpu: str, fields: Mapping[str, Any]) -> EndpointConfig:
    if twice := sorted(set(fields) - _BESIDE_VLLM):
        raise click.UsageError(f"{', '.join(twice)}: give it as a flag of vLLM, after `--`")
    command = parse_vllm(vllm, gpu, **fields)
    for flag in command.ignored:
        click.echo(f"ignored: {flag}", err=True)
    return command.config


def run_emulate(configs: Sequence[EndpointConfig], speed: float) -> int:
    """Serve until SIGTERM or SIGINT, or until the last endpoint has crashed; returns the exit status.

    A line per endpoint goes to standard output when it is ready, and to standard error when it loads, drains or ends.
    """
    # Every endpoint and every client takes a file descriptor; the usual soft limit of 1,024 is soon reached.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        return asyncio.run(_serve(configs, speed))
    except (EmulatorError, OSError) as error:
        raise click.ClickException(str(error)) from error


async def _serve(configs: Sequence[EndpointConfig], speed: float) -> int:
    emulator = Emulator(configs, speed=speed, on_change=_report)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    starting = asyncio.create_task(emulator.start())
    over = asyncio.create_task(emulator.wait())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        await starting  # raises what went wrong
        await asyncio.wait((over, stopping), return_when=asyncio.FIRST_COMPLETED)
    else:
        starting.cancel()
        await asyncio.wait((starting,))
    await emulator.drain()
    stopping.cancel()
    return 0 if stop.is_set() else 1


def _report(endpoint: Endpoint) -> None:
    if endpoint.state is EndpointState.READY:
        shape, spec = endpoint.shape, endpoint.spec
        click.echo(
            f"ready {endpoint.url} {endpoint.served_names[0]}: {shape.model.name} {shape.precision.name} on "
            f"{shape.gpu.name} {shape.parallelism}, {spec.max_num_seqs} sequences, {spec.kv_tokens} KV tokens"
        )
    elif endpoint.state is not EndpointState.LOADING or endpoint.load_seconds:
        click.echo(f"{endpoint.state.value.lower()} {endpoint.url} {endpoint.served_names[0]}", err=True)
