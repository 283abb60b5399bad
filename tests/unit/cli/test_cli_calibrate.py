"""`plimsoll calibrate`: every format is read as documented, what is wrong is named, plans take the profile."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.data import data_folder
from plimsoll.api.parse import parse
from plimsoll.cli.benchmark_files import Buckets, read_measurements
from plimsoll.cli.manifests import FileError
from plimsoll.cli.measurements import Defaults, observations
from plimsoll.performance import Observation
from tests.unit.cli.calibrating import NAMED, run
from tests.unit.performance.test_performance_calibration import CATALOG, LLAMA_8B, POINTS, TRUE, row

HEADER = "model,gpu,tensor,input_tokens,output_tokens,batch,ttft_ms,tpot_ms"


def table(header: str = HEADER) -> str:
    lines = [header]
    for point in POINTS:
        item = row(*point)
        first, step = item.measured.ttft or 0.0, item.measured.tpot or 0.0
        lines.append(f"{LLAMA_8B},H100-SXM-80GB,1,{point[1]},{point[1]},{point[0]},{first * 1e3:.4f},{step * 1e3:.4f}")
    return "\n".join(lines)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    path = tmp_path / "runs.csv"
    path.write_text(table())
    return path


def one(path: Path, text: str, **defaults: Any) -> Observation:
    path.write_text(text)
    found, left_out = observations(
        read_measurements(path, Buckets()), Defaults(**{"model": LLAMA_8B, "gpu": "H100-SXM-80GB", **defaults}), CATALOG
    )
    assert not left_out
    assert len(found) == 1
    return found[0]


def test_a_table_becomes_a_profile_that_parses_and_figures_go_to_standard_error(runs: Path) -> None:
    result = run(runs)
    assert result.exit_code == 0, result.output
    profile = parse(yaml.safe_load(result.stdout))
    (entry,) = profile.spec.coefficients
    assert (profile.name, profile.spec.model) == ("llama-3-1-8b-instruct", LLAMA_8B)
    assert (entry.accelerator, entry.source, entry.fit.rows) == ("H100-SXM-80GB", "runs.csv", len(POINTS))
    assert float(entry.prefill_efficiency) == pytest.approx(TRUE.prefill_efficiency, rel=0.05)
    assert entry.quantised_efficiency is None
    for shown in ("each point from the others", "90 % interval", "missing: one tensor degree only (1)"):
        assert shown in result.stderr
        assert shown not in result.stdout


def test_check_writes_nothing(runs: Path, tmp_path: Path) -> None:
    target = tmp_path / "profile.yaml"
    result = run(runs, "--check", "-o", target)
    assert (result.exit_code, result.stdout, target.exists()) == (0, "", False)
    assert "weightsEfficiency" in result.stderr


def test_output_goes_to_a_file(runs: Path, tmp_path: Path) -> None:
    target = tmp_path / "profile.yaml"
    assert run(runs, "-o", target, "--source", "october").exit_code == 0
    assert yaml.safe_load(target.read_text())["spec"]["coefficients"][0]["source"] == "october"


@pytest.mark.parametrize(
    ("header", "cells", "expected"),
    [
        ("batch,ttft_ms,tpot_ms", "8,120,9", (8.0, True, 0.12, 0.009, None)),
        ("Batch Size,TTFT (s),ITL (ms)", "8,0.12,9", (8.0, True, 0.12, 0.009, None)),
        ("concurrency,end_to_end_seconds", "8,4", (8.0, False, None, None, 4.0)),
        ("concurrency,output_tokens_per_second", "8,400", (8.0, False, None, None, 4.0)),
        ("concurrency,requests_per_second", "8,2", (8.0, False, None, None, 4.0)),
        ("batch,total_tokens_per_second", "8,2400", (8.0, True, None, None, 4.0)),
        ("request_rate_per_minute,e2e_s", "120,4", (9.0, False, None, None, 4.0)),
        ("requests_per_second,ttft_ms,tpot_ms", "2,10,10", (1 + 2 * (0.01 + 1.99), False, 0.01, 0.01, None)),
    ],
)
def test_columns_carry_their_units(tmp_path: Path, header: str, cells: str, expected: tuple[Any, ...]) -> None:
    found = one(tmp_path / "t.csv", f"# a comment\ninput_tokens,output_tokens,{header}\n\n1000,200,{cells}\n")
    measured = found.measured
    assert (found.company, found.batch, measured.ttft, measured.tpot, measured.end_to_end) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("input_tokens,output_tokens,batch,ttft\n1,2,3,4", 'column "ttft": the unit must be in the name: ttft_seconds'),
        ("input_tokens,output_tokens,batch,tpot_us\n1,2,3,4", "tpot_seconds or tpot_milliseconds"),
        ("input_tokens,output_tokens,request_rate\n1,2,3", "request_rate_per_second or request_rate_per_minute"),
        ("input_tokens,batch\n1,2", "no column output_tokens"),
        ("input_tokens,output_tokens,batch,ttft_ms\n1,2,3,fast", 't.csv:2: column ttft: "fast" is no number'),
        ("input_tokens,output_tokens,batch,ttft_ms\n1,2,3,-4", '"-4": a number above 0 is needed'),
        ("input_tokens,output_tokens,batch,ttft_ms\n1,2,3,inf", '"inf": a number above 0 is needed'),
        ("input_tokens,output_tokens,tensor\n1,2,1.5", '"1.5": a whole number above 0 is needed'),
        ("input_tokens,output_tokens,batch\n1,,3", "t.csv:2: column output_tokens is empty"),
        ("input_tokens,output_tokens\n1,2,3", "3 cells and 2 columns"),
        ("input_tokens,output_tokens", "a header and at least one row"),
    ],
)
def test_a_faulty_table_is_refused_with_file_line_and_column(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    result = run(path, *NAMED)
    assert result.exit_code == 1
    assert str(path) in result.stderr
    assert said in result.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("meta-llama/Llama-3.1-8B-Instrct,H100-SXM-80GB,1,128,128,8,9,9", "unknown model"),
        (f"{LLAMA_8B},H100X,1,128,128,8,9,9", "unknown accelerator"),
        (f"{LLAMA_8B},H100-SXM-80GB,3,128,128,8,9,9", "tensor degree 3"),
        (f"{LLAMA_8B},H100-SXM-80GB,1,128,128,,9,9", "neither batch, concurrency nor a request rate"),
        (f"{LLAMA_8B},H100-SXM-80GB,1,128,128,8,,", "neither ttft, tpot"),
    ],
)
def test_a_row_that_says_nothing_is_left_out_visibly(runs: Path, line: str, said: str) -> None:
    runs.write_text(f"{table()}\n{line}")
    result = run(runs)
    assert result.exit_code == 0
    assert f"runs.csv:{len(POINTS) + 2}" in result.stderr
    assert said in result.stderr
    runs.write_text(f"{HEADER}\n{line}")
    alone = run(runs)
    assert alone.exit_code == 1
    assert "none of 1 rows can be used" in alone.stderr


@pytest.mark.parametrize("arguments", [(), ("--check",)])
def test_a_fit_that_misses_its_own_rows_is_refused_with_its_error(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    lines = ["input_tokens,output_tokens,batch,e2e_ms"]
    for point in POINTS:
        measured = row(*point).measured
        seconds = (measured.ttft or 0.0) + (point[1] - 1) * (measured.tpot or 0.0)
        lines.append(f"{point[1]},{point[1]},{point[0]},{seconds:.4f}")
    path, target = tmp_path / "seconds.csv", tmp_path / "profile.yaml"
    path.write_text("\n".join(lines))
    result = run(path, *NAMED, *arguments, "-o", target)
    assert (result.exit_code, result.stdout, target.exists()) == (1, "", False)
    (said,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    for words in ("seconds.csv", f"{LLAMA_8B} on H100-SXM-80GB", "Nothing is written", "another unit", "the GPU"):
        assert words in said
    percent = int(said.split(" by ")[1].split("%")[0].replace(",", ""))
    assert percent > 1000


def test_an_unknown_gpu_option_is_refused_with_the_nearest_or_all(runs: Path) -> None:
    near, far = run(runs, "--gpu", "H100-SXM-80G"), run(runs, "--gpu", "FOO")
    assert (near.exit_code, far.exit_code) == (1, 1)
    assert 'Error: --gpu: unknown accelerator "H100-SXM-80G"; nearest: "H100-SXM-80GB"' in near.stderr
    assert 'unknown accelerator "FOO"; known: ' in far.stderr
    assert "L40S" in far.stderr


def test_an_option_that_the_rows_overrule_is_told(runs: Path) -> None:
    result = run(runs, "--gpu", "L40S", "--model", LLAMA_8B)
    assert result.exit_code == 0
    assert f"--gpu L40S is not used for {len(POINTS)} of {len(POINTS)} rows" in result.stderr
    assert "(H100-SXM-80GB)" in result.stderr
    assert "--model" not in result.stderr


# --- vLLM -------------------------------------------------------------------------------------------------------------

VLLM = {
    "date": "20261001-120000",
    "backend": "vllm",
    "model_id": LLAMA_8B,
    "num_prompts": 500,
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 16,
    "duration": 250.0,
    "completed": 500,
    "total_input_tokens": 500_000,
    "total_output_tokens": 100_000,
    "request_throughput": 7.5,
    "output_throughput": 1500.0,
    "mean_ttft_ms": 60.0,
    "median_ttft_ms": 45.0,
    "p99_ttft_ms": 400.0,
    "mean_tpot_ms": 10.5,
    "median_tpot_ms": 10.4,
    "mean_itl_ms": 10.5,
}
"""As `vllm bench serve --save-result --max-concurrency 16` writes it."""


@pytest.mark.parametrize(
    ("changes", "company", "ttft"),
    [
        ({"request_throughput": 7.0}, 7.0 * (0.06 + 199 * 0.0105), None),
        ({"max_concurrency": 1, "request_throughput": 0.4}, 1.0, 0.045),
        ({"max_concurrency": 8, "mean_e2el_ms": 2100.0}, 8.0, None),
        ({"request_rate": 2.0, "max_concurrency": None, "request_throughput": 1.9}, 1 + 1.9 * 2.1495, 0.045),
        ({"max_concurrency": None, "mean_ttft_ms": 9000.0}, 7.5 * 199 * 0.0105, None),
    ],
)
def test_vllms_own_benchmark(tmp_path: Path, changes: Mapping[str, Any], company: float, ttft: float | None) -> None:
    """Closed loops, where equal requests fall into step, paced arrivals, and all at once, where first tokens wait."""
    found = one(tmp_path / "run.json", json.dumps({**VLLM, **changes}))
    assert (found.input_tokens, found.output_tokens, found.batch) == (1000.0, 200.0, False)
    assert found.company == pytest.approx(company)
    assert (found.measured.ttft, found.measured.tpot) == (ttft, 0.0105)


def test_vllms_results_may_be_appended_and_carry_metadata(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    documents = [{**VLLM, "gpu": "NVIDIA-H100-80GB-HBM3", "tensor_parallel_size": "2"}, VLLM]
    path.write_text("\n".join(json.dumps(item) for item in documents))
    found, _ = observations(read_measurements(path, Buckets()), Defaults(gpu="A100-SXM-80GB"), CATALOG)
    assert [(item.shape.gpu.name, item.shape.parallelism.tensor) for item in found] == [
        ("H100-SXM-80GB", 2),
        ("A100-SXM-80GB", 1),
    ]
    assert [item.source for item in found] == [f"{path}:1", f"{path}:2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "neither JSON"),
        ("{}", "not known what this is"),
        ("[1]", "an object is needed"),
        ("", "no row in there"),
        (json.dumps({**VLLM, "completed": 0}), "completed is 0"),
        (
            json.dumps({key: value for key, value in VLLM.items() if key != "request_throughput"}),
            "'request_throughput'",
        ),
        (json.dumps({"models": [{"name": "a", "acc": "b"}]}), "'perfParms' is missing"),
    ],
)
def test_faulty_json_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    result = run(path, *NAMED)
    assert result.exit_code == 1
    assert said in result.stderr
    assert str(path) in result.stderr


# --- Rivals -----------------------------------------------------------------------------------------------------------


def shared(name: str) -> Path:
    path = data_folder() / name
    if not path.exists():
        pytest.skip(f"data are not there: {path} (set PLIMSOLL_DATA)")
    return path


def test_llm_infernos_coefficients_reproduce_its_own_lines(tmp_path: Path) -> None:
    document = json.loads(shared("llm_inferno_wva/model-data.json").read_text())
    models = [item for item in document["models"] if item["acc"].endswith("A100") and "70b" not in item["name"]]
    path = tmp_path / "models.json"
    path.write_text(json.dumps({"models": models}))
    names = ("--name", f"llama3_8b={LLAMA_8B}", "--name", "A100=A100-SXM-80GB")
    result = run(path, *names)
    assert result.exit_code == 0, result.output
    profile = next(item for item in yaml.safe_load_all(result.stdout) if item["spec"]["model"] == LLAMA_8B)
    entry = next(item for item in profile["spec"]["coefficients"] if item["accelerator"] == "A100-SXM-80GB")
    assert entry["fit"]["rows"] == 18
    assert float(entry["fit"]["medianError"]) < 0.03
    assert float(entry["fit"]["p90Error"]) < 0.1
    assert "unknown model" in result.stderr


def test_the_newer_form_of_llm_inferno_has_first_tokens(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    parameters = {
        "decodeParms": {"alpha": "7.0", "beta": "0.1"},
        "prefillParms": {"gamma": "5.0", "delta": "0.02"},
    }
    item = {
        "name": "llama",
        "acc": "2xH100",
        "accCount": 1,
        "maxBatchSize": 6,
        "atTokens": 1000,
        "perfParms": parameters,
    }
    path.write_text(json.dumps({"models": [item]}))
    found = read_measurements(path, Buckets())
    assert [row.batch for row in found] == [1.0, 2.0, 4.0, 6.0]
    assert {(row.gpu, row.tensor) for row in found} == {("H100", 2)}
    assert found[2].tpot == pytest.approx(7.4e-3)
    assert found[2].ttft == pytest.approx((5.0 + 0.02 * 500 * 4) * 1e-3)


def test_melanges_table_needs_lengths_and_the_target(tmp_path: Path) -> None:
    path = shared("peer_cases/melange_example.json")
    with pytest.raises(FileError, match="--bucket-inputs, --bucket-outputs and --bucket-tpot-milliseconds"):
        read_measurements(path, Buckets())
    with pytest.raises(FileError, match="2 × 2 buckets"):
        read_measurements(path, Buckets((25.0,), (25.0, 250.0), 0.12))
    found = read_measurements(path, Buckets((25.0, 250.0), (25.0, 100.0), 0.12))
    assert len(found) == 8
    assert (found[1].input_tokens, found[1].output_tokens, found[1].requests_per_second) == (25.0, 100.0, 1.0)
    assert found[1].end_to_end == pytest.approx(12.0)


def test_aibrix_profile(tmp_path: Path) -> None:
    path = tmp_path / "a100.json"
    profile = {
        "gpu": "simulator-llama2-7b-a100",
        "tputs": [[60.3, 31.7], [15.2, 0.0]],
        "indexes": [[8, 128], [256, 1024]],
        "e2e": [[0.17, 0.43], [1.5, 2.5]],
        "slos": {"percentile": 99, "e2e": 5.0},
    }
    path.write_text(json.dumps(profile))
    rows = read_measurements(path, Buckets())
    assert [(row.output_tokens, row.input_tokens) for row in rows] == [(8.0, 256.0), (8.0, 1024.0), (128.0, 256.0)]
    found, left_out = observations(
        rows, Defaults(model=LLAMA_8B, names={"simulator-llama2-7b-a100": "A100-SXM-80GB"}), CATALOG
    )
    assert not left_out
    assert found[2].company == pytest.approx(1 + 15.2 * 1.5)


def test_nothing_to_fit() -> None:
    result = run(*NAMED)
    assert result.exit_code == 1
    assert "give files of measurements, or --prometheus" in result.stderr
