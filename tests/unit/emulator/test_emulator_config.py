"""How endpoints are described: files, options, and vLLM's own command line as Plimsoll renders it."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from plimsoll.cli.main import main
from plimsoll.emulator import Emulator, EmulatorError, endpoint_config, parse_vllm, read_fleet
from plimsoll.emulator.config import engine_spec, expanded, loading_seconds, shape_of
from plimsoll.performance import load_seconds
from tests.unit.emulator.running import MODEL, config

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"
GPU = "H100-SXM-80GB"


def test_a_file_describes_a_fleet_on_consecutive_ports(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(
        f"""
speed: 10
endpoints:
  - {{model: {MODEL}, gpu: {GPU}, count: 2, port: 9000, seed: 5, outputLength: {{mean: 100, p95: 300}}}}
  - {{model: Qwen/Qwen2.5-72B-Instruct, gpu: {GPU}, tensor: 4, servedModelNames: [big], loadSeconds: auto}}
"""
    )
    fleet = read_fleet(file)
    endpoints = list(expanded(fleet.endpoints))
    assert fleet.speed == 10
    assert [endpoint.port for endpoint in endpoints] == [9000, 9001, 9002]
    assert [endpoint.seed for endpoint in endpoints[:2]] == [5, 6]
    shape = shape_of(endpoints[2])
    assert (shape.parallelism.tensor, endpoints[2].served_model_names) == (4, ("big",))
    assert loading_seconds(endpoints[2], shape) == load_seconds(shape)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("endpoints: []", ["endpoints"]),
        ("speed: 2", ["endpoints"]),
        (f"endpoints: [{{model: {MODEL}}}]", ["endpoints.0.gpu"]),
        (f"endpoints: [{{model: {MODEL}, gpu: {GPU}, tensr: 2}}]", ["endpoints.0.tensr"]),
        (f"endpoints: [{{model: {MODEL}, gpu: {GPU}, tensor: 0}}]", ["endpoints.0.tensor", "got 0"]),
        ("endpoints: [", ["line 1"]),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_field(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(text)
    with pytest.raises(EmulatorError) as error:
        read_fleet(file)
    assert str(file) in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_misspelt_field_is_the_only_thing_said(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(f"endpoints: [{{model: {MODEL}, gpu: {GPU}, tensr: 2}}]")
    with pytest.raises(EmulatorError) as error:
        read_fleet(file)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{file}: endpoints.0.tensr: ")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"port": 9001}, {"port": 9001}),
        ({"port": 9000, "count": 2}, {"port": 9001}),
        ({"port": 9001, "host": "0.0.0.0"}, {"port": 9001}),
    ],
)
def test_two_endpoints_on_one_port_are_refused_with_both_names(first: dict, second: dict) -> None:
    with pytest.raises(EmulatorError) as error:
        Emulator([config(**first), config(**second)])
    for words in (f"endpoints.0 ({MODEL})", f"endpoints.1 ({MODEL})", "port 9001 at 127.0.0.1"):
        assert words in str(error.value)


def test_ports_may_be_shared_between_addresses_and_free_ones_are_chosen() -> None:
    Emulator([config(port=9001), config(port=9001, host="127.0.0.2"), config(port=0), config(port=0)])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "meta-llama/Lama-3.1-8B"}, ["unknown model", "Llama-3.1-8B"]),
        ({"gpu": "H1000"}, ["unknown accelerator"]),
        ({"gpu": "H100-SXM-80G"}, ["unknown accelerator", f'nearest: "{GPU}"']),
        ({"gpu": "FOO"}, ["unknown accelerator", "known: ", GPU, "L40S"]),
        ({"precision": "fp3"}, ["unknown precision"]),
        ({"precision": "fp8", "gpu": "A100-SXM-80GB"}, ["fp8"]),
        ({"tensor": 3}, ["attention heads"]),
        ({"max_model_length": 10_000_000}, ["10000000", "131072"]),
        ({"model": "meta-llama/Llama-3.3-70B-Instruct"}, ["GiB"]),
        ({"max_num_seqs": 4096}, ["max_num_seqs"]),
        ({"output_length": {"mean": 50, "p95": 20}}, ["outputLength"]),
    ],
)
def test_what_vllm_would_not_start_is_refused(fields: dict, words: list[str]) -> None:
    with pytest.raises(EmulatorError) as error:
        Emulator([config(**fields)])
    for word in words:
        assert word in str(error.value)


def test_checkpoints_and_product_labels_are_understood() -> None:
    shape = shape_of(config(gpu="NVIDIA-H100-80GB-HBM3"))
    assert (shape.gpu.name, shape.precision.name) == (GPU, "bf16")
    catalog_model = next(model for model in _models() if "int4" in model.checkpoints)
    quantised = shape_of(config(model=catalog_model.checkpoints["int4"], tensor=1, max_model_length=1024))
    assert (quantised.model.name, quantised.precision.name) == (catalog_model.name, "int4")


def _models() -> list:
    from plimsoll.catalog import load_catalog

    return list(load_catalog().models.values())


def test_the_cache_follows_the_memory_share() -> None:
    more, less = (config(gpu_memory_utilization=share) for share in (0.9, 0.6))
    assert engine_spec(more, shape_of(more)).kv_tokens > engine_spec(less, shape_of(less)).kv_tokens


def test_it_stands_in_for_every_engine_that_plimsoll_renders() -> None:
    result = CliRunner().invoke(main, ["plan", "-f", str(QUICKSTART), "--render"])
    engines = [
        container
        for manifest in yaml.safe_load_all(result.stdout)
        if manifest["kind"] == "Deployment"
        for container in manifest["spec"]["template"]["spec"]["containers"]
        if container["name"] == "engine"
    ]
    assert engines
    for engine in engines:
        arguments = engine["args"]
        command = parse_vllm([*engine["command"], *arguments], gpu=GPU)
        assert command.ignored == ()
        for flag, value in (
            ("--tensor-parallel-size", command.config.tensor),
            ("--pipeline-parallel-size", command.config.pipeline),
            ("--max-num-seqs", command.config.max_num_seqs),
            ("--max-model-len", command.config.max_model_length),
            ("--port", command.config.port),
        ):
            assert arguments[arguments.index(flag) + 1] == str(value)
        assert command.config.served_model_names[0] in arguments
        assert command.config.shutdown_timeout_seconds == 100


def test_vllms_command_line_is_honoured_or_reported() -> None:
    command = parse_vllm(
        f"serve {MODEL} -tp 2 --max-model-len=32k --max_num_seqs 64 --quantization fp8 --served-model-name a b "
        "--enable-prefix-caching --api-key secret --distributed-executor-backend mp".split(),
        gpu=GPU,
        load_seconds=12.0,
    )
    wanted = command.config
    assert (wanted.tensor, wanted.max_model_length, wanted.max_num_seqs, wanted.precision) == (2, 32_000, 64, "fp8")
    assert wanted.served_model_names == ("a", "b")
    assert wanted.load_seconds == 12.0
    assert (wanted.host, wanted.port, wanted.shutdown_timeout_seconds) == ("0.0.0.0", 8000, 0.0)
    assert command.ignored == ("--enable-prefix-caching", "--api-key secret", "--distributed-executor-backend mp")
    assert parse_vllm(["vllm", "serve", MODEL], GPU).config.max_model_length == 131_072  # vLLM's default, not ours


@pytest.mark.parametrize(
    ("line", "ignored"),
    [
        (f"serve --enable-prefix-caching {MODEL}", ("--enable-prefix-caching",)),
        (f"serve --no-enable-prefix-caching {MODEL} -tp 2", ("--no-enable-prefix-caching",)),
        (f"serve --enforce_eager --trust-remote-code {MODEL}", ("--enforce-eager", "--trust-remote-code")),
        (f"serve --enable-chunked-prefill False {MODEL}", ("--enable-chunked-prefill False",)),
        (f"serve {MODEL} --enable-lora", ("--enable-lora",)),
    ],
)
def test_a_flag_without_a_value_does_not_take_the_model(line: str, ignored: tuple[str, ...]) -> None:
    command = parse_vllm(line.split(), gpu=GPU)
    assert (command.config.model, command.ignored) == (MODEL, ignored)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (f"serve --api-key {MODEL}", "right after `serve`"),
        (f"serve --enforce-eager {MODEL} other/model", "2 models"),
        ("bench serve", "serve MODEL"),
        ("serve", "0 models"),
        (f"serve {MODEL} other/model", "2 models"),
        (f"serve {MODEL} --port http", "--port"),
        (f"serve {MODEL} --port", "no value"),
        (f"serve {MODEL} --gpu-memory-utilization 1.5", "gpu"),
        (f"serve {MODEL} --dtype float8", "bfloat16"),
    ],
)
def test_a_wrong_vllm_command_line_is_refused(line: str, word: str) -> None:
    with pytest.raises(EmulatorError, match=word):
        parse_vllm(line.split(), gpu=GPU)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--model", MODEL], "--gpu"),
        (["--gpu", GPU], "--model"),
        (["--gpu", GPU, "--model", "nobody/nothing"], "unknown model"),
        (["--gpu", GPU, "--tensor", "2", "--", "serve", MODEL], "tensor"),
        (["--gpu", GPU, "--model", MODEL, "--load-seconds", "soon"], "load_seconds"),
        (["-f", "missing.yaml"], "missing.yaml"),
        (["-f", "missing.yaml", "--gpu", GPU, "--model", MODEL], "-f"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], word: str) -> None:
    result = CliRunner().invoke(main, ["emulate", *arguments])
    assert result.exit_code != 0
    assert word in result.output


def test_equal_endpoints_are_validated_as_one() -> None:
    with pytest.raises(EmulatorError, match="65535"):
        Emulator([endpoint_config(model=MODEL, gpu=GPU, port=65_535, count=2)])


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "plimsoll.cli.main", "emulate", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PLIMSOLL_EMULATE_GPU": GPU},
    )


def test_the_command_serves_until_sigterm() -> None:
    with started("--model", MODEL, "--port", "0", "--count", "2", "--speed", "50", "--load-seconds", "1") as process:
        assert process.stdout is not None
        ready = [process.stdout.readline().split() for _ in range(2)]
        assert [words[0] for words in ready] == ["ready", "ready"]
        request = urllib.request.Request(
            ready[1][1] + "/v1/completions", json.dumps({"prompt": "hi", "max_tokens": 3}).encode()
        )
        with urllib.request.urlopen(request) as response:
            assert json.load(response)["usage"]["completion_tokens"] == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_sigterm_ends_it_while_the_model_is_loaded() -> None:
    # The notice about a flag comes just before the loading.
    line = ["--load-seconds", "auto", "--", "serve", MODEL, "--host", "127.0.0.1", "--port", "0", "--api-key", "x"]
    with started(*line) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ignored: --api-key x\n"
        loading = None
        while loading is None or "loading" not in loading:
            loading = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_crash_without_restart_ends_the_process_with_an_error() -> None:
    with started("--model", MODEL, "--port", "0", "--allow-faults") as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        urllib.request.urlopen(urllib.request.Request(url + "/emulator/crash", b"{}")).close()
        assert process.wait(20) == 1


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started("--model", MODEL, "--port", str(port)) as process:
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert str(port) in errors
    assert "Traceback" not in errors
