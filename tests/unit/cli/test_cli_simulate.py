"""`plimsoll simulate`: files and traffic in, what users would see out; errors name file, line, column and a remedy."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from plimsoll.cli.main import main

EXAMPLES = Path(__file__).parents[3] / "examples"
FLEET, QUICKSTART = EXAMPLES / "fleet", EXAMPLES / "quickstart"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
SERVEGEN = "category,model,t_seconds,total_rate_req_per_s,active_clients\n"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["simulate", *(str(argument) for argument in arguments)])


def document(*arguments: object) -> dict:
    result = run(*arguments, "-o", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def classes(found: dict) -> dict[str, dict]:
    return {
        f"{item['namespace']}/{item['name']}/{part['name']}": part
        for item in found["deployments"]
        for part in item["traffic"]
    }


def trace(path: Path, count: int = 60, seconds: float = 300.0, inputs: int = 400, outputs: int = 50) -> Path:
    times = [number * seconds / count for number in range(count)]
    rows = "".join(f"2023-11-16 18:{10 + int(t // 60)}:{t % 60:09.6f}0,{inputs},{outputs}\n" for t in times)
    path.write_text(AZURE + rows)
    return path


def test_what_users_would_see_stands_beside_what_was_planned() -> None:
    found = document("-f", FLEET, "--duration", "10m")
    turns = classes(found)["chat/assistant/turns"]
    assert turns["requests"]["arrived"] == turns["requests"]["completed"] == pytest.approx(6000, rel=0.05)
    assert turns["attainment"] > 0.95
    ttft = turns["latency"]["ttft"]
    assert ttft["targetMilliseconds"] == 800
    assert ttft["met"] is True
    for name in ("p50", "p95", "p99"):
        assert ttft["simulatedMilliseconds"][name] == pytest.approx(ttft["predictedMilliseconds"][name], rel=0.5)
    low, high = ttft["confidence95Milliseconds"]["p95"]
    assert low <= ttft["simulatedMilliseconds"]["p95"] <= high
    plan = json.loads(CliRunner().invoke(main, ["plan", "-f", str(FLEET), "-o", "json"]).stdout)
    assert found["costPerHour"] == plan["costPerHour"]
    assert [
        [(item["name"], item["replicas"]) for item in deployment["placements"]] for deployment in plan["deployments"]
    ] == [
        [(item["name"], item["replicas"]) for item in deployment["placements"]] for deployment in found["deployments"]
    ]
    tokens = found["inputTokens"] + found["outputTokens"]
    assert float(found["costPerMillionTokens"]) == pytest.approx(float(found["cost"]) / tokens * 1e6, rel=0.05)
    series = found["series"]
    assert len(series["beginSeconds"]) == len(series["classes"]["chat/assistant/turns"]["ttft"]["p95"])
    assert set(series["placements"]["chat/" + found["deployments"][1]["placements"][0]["name"]]) >= {"gpus", "kvUsage"}


def test_the_table_shows_targets_percentiles_use_and_cost() -> None:
    result = run("-f", FLEET, "--duration", "5m")
    assert result.exit_code == 0
    for words in ("chat/assistant", "TTFT", "p95 800 ms", "KV cache", "per million tokens", "simulated / planned"):
        assert words in result.stdout


def test_equal_seeds_give_equal_runs_and_yaml_is_the_same_document() -> None:
    arguments = ("-f", QUICKSTART, "--duration", "5m", "--seed", 3)
    found = document(*arguments)
    assert yaml.safe_load(run(*arguments, "-o", "yaml").stdout) == found
    assert document("-f", QUICKSTART, "--duration", "5m", "--seed", 4) != found


def test_bursts_make_the_tail_longer() -> None:
    calm, bursty = (
        document("-f", QUICKSTART, "--duration", "20m", "--arrivals", arrivals)["deployments"][0]["traffic"][0]
        for arrivals in ("poisson", "gamma:3")
    )
    p99 = [item["latency"]["ttft"]["simulatedMilliseconds"]["p99"] for item in (calm, bursty)]
    assert p99[1] > 1.5 * p99[0]
    assert bursty["arrivals"] == "gamma"


def test_declared_burstiness_holds_unless_told_otherwise(tmp_path: Path) -> None:
    manifests = list(yaml.safe_load_all((QUICKSTART / "assistant.yaml").read_text()))
    (deployment,) = (item for item in manifests if item["kind"] == "LLMDeployment")
    deployment["spec"]["traffic"][0]["arrivals"] = {"burstiness": "3"}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(manifests))
    declared, told, otherwise = (
        document("-f", tmp_path, "--duration", "5m", *more)["deployments"][0]["traffic"][0]
        for more in ((), ("--arrivals", "gamma:3"), ("--arrivals", "poisson"))
    )
    assert (declared["arrivals"], otherwise["arrivals"]) == ("gamma:3", "poisson")
    assert declared["latency"] == told["latency"] != otherwise["latency"]


def test_a_ramp_goes_from_and_to_multiples_of_the_declared_rate() -> None:
    found = document("-f", QUICKSTART, "--arrivals", "ramp:0.5-1.5", "--duration", "20m")
    rates = found["series"]["classes"]["default/assistant/default"]["requestsPerMinute"]
    assert sum(rates[:5]) / 5 < 100 < 140 < sum(rates[14:19]) / 5


def test_a_trace_drives_what_it_names_and_the_rest_arrives_as_declared(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.csv")
    found = classes(document("-f", FLEET, "--trace", f"{path}:chat/assistant/turns"))
    assert found["chat/assistant/turns"]["arrivals"] == "t.csv"
    assert found["chat/assistant/turns"]["requests"]["arrived"] == 60
    assert found["chat/analyst/default"]["arrivals"] == "poisson"
    assert found["chat/analyst/default"]["requests"]["arrived"] > 200
    both = classes(document("-f", FLEET, "--trace", f"{path}:chat/assistant"))
    assert sum(both[f"chat/assistant/{name}"]["requests"]["arrived"] for name in ("turns", "documents")) == 60
    every = classes(document("-f", FLEET, "--trace", path))
    assert sum(item["requests"]["arrived"] for item in every.values()) == 60
    assert all(item["arrivals"] == "t.csv" for item in every.values())


def test_the_rate_of_a_trace_can_be_scaled_to_what_is_declared(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.csv", count=290, seconds=290.0)
    found = document("-f", QUICKSTART, "--trace", path, "--rate-scale", "declared")
    assert found["deployments"][0]["traffic"][0]["requests"]["arrived"] == pytest.approx(580, rel=0.05)
    half = document("-f", QUICKSTART, "--trace", path, "--rate-scale", "0.5")
    assert half["deployments"][0]["traffic"][0]["requests"]["arrived"] == pytest.approx(145, rel=0.2)


def test_rates_of_servegen_are_shared_out_by_the_declared_rates(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(SERVEGEN + "".join(f"language,m-large,{600 * n},{1.0 + n},9\n" for n in range(2)))
    found = document("-f", FLEET, "--trace", path)
    shares = {key: item["requests"]["arrived"] for key, item in classes(found).items()}
    assert sum(shares.values()) == pytest.approx(1800, rel=0.1)
    assert shares["chat/assistant/turns"] / sum(shares.values()) == pytest.approx(600 / 820, rel=0.1)
    assert found["durationSeconds"] == 1200
    rates = found["series"]["classes"]["chat/assistant/turns"]["requestsPerMinute"]
    assert sum(rates[10:20]) == pytest.approx(2 * sum(rates[:10]), rel=0.25)


def test_requests_that_no_replica_can_take_are_unserved(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.csv", inputs=500_000)
    item = document("-f", QUICKSTART, "--trace", path)["deployments"][0]["traffic"][0]
    assert item["requests"]["tooLong"] == 60
    assert item["unserved"] == 1.0
    assert item["attainment"] is None


def test_a_missed_target_is_said(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.csv", count=3000, seconds=290.0, inputs=2000, outputs=300)
    result = run("-f", QUICKSTART, "--trace", path)
    assert "missed" in result.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (AZURE + "2023-11-16 18:15:46.6805900,many,44\n", r"line 2: column ContextTokens is 'many'; whole numbers"),
        (AZURE + "2023-11-16 18:15:46.6805900,5,-1\n", r"line 2: column GeneratedTokens is '-1'; whole numbers from 0"),
        (AZURE + "today,5,1\n", r"line 2: column TIMESTAMP is 'today'; a time like 2023"),
        (AZURE + "2023-11-16 18:15:46.6805900,5\n", r"line 2: 2 columns; 3 are needed"),
        (
            AZURE + "2023-11-16 18:15:46.0,5,1\n2023-11-16 18:15:45.0,5,1\n",
            r"line 3: column TIMESTAMP is 1.000 s before the line above",
        ),
        (AZURE, "no request in there"),
        ("a,b\n1,2\n", r"line 1 is 'a,b.*Azure.*BurstGPT.*Mooncake.*ServeGen"),
        ('{"timestamp": 0, "input_length": 5}\n', r"line 1: .*timestamp, input_length, output_length is accepted"),
        ('{"timestamp": 0, "input_length": 5, "output_length": "x"}\n', r"line 1: column output_length is 'x'"),
        (
            SERVEGEN + "language,m,0,fast,1\nlanguage,m,600,1,1\n",
            r"row 1: column total_rate_req_per_s is 'fast'; numbers",
        ),
        (SERVEGEN + "a,b,0,1,1\na,c,0,1,1\n", r"several series; name one as trace#CATEGORY/MODEL: a/b, a/c"),
    ],
)
def test_a_malformed_trace_is_refused_with_its_place(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "trace"
    path.write_text(content)
    result = run("-f", QUICKSTART, "--trace", path)
    assert result.exit_code == 1
    assert str(path) in result.stderr
    assert re.search(message, result.stderr), result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trace", "nowhere.csv"), "--trace nowhere.csv: no such file; FILE"),
        (("--arrivals", "gamma"), "--arrivals gamma: accepted are declared, poisson, gamma:CV"),
        (("--arrivals", "ramp:2"), "--arrivals ramp:2: accepted are"),
        (("--duration", "long"), "--duration long: a time above 0 like 90s"),
        (("--rate-scale", "-1"), "--rate-scale -1: a factor above 0 or `declared`"),
        (("--warm-up", "2h"), "--warm-up 2h: less than the run's 3600 s"),
        (("--report", "report.pdf"), "--report report.pdf: a name that ends in .html"),
        (("--report", "nowhere/report.html"), "no such folder nowhere"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_accepted(arguments: tuple[str, ...], message: str) -> None:
    result = run("-f", QUICKSTART, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr


def test_resources_that_cannot_be_simulated_are_named_and_the_others_are(tmp_path: Path) -> None:
    text = (QUICKSTART / "assistant.yaml").read_text()
    pool, deployment = text.split("---")
    broken = deployment.replace("name: assistant", "name: broken").replace("Llama-3.1-8B-Instruct", "Nothing")
    idle = deployment.replace("requestsPerMinute: 120", "requestsPerMinute: 0")
    for documents, message in (
        ([pool, broken], "nothing is planned, so there is no traffic"),
        ([pool, idle], "every class declares 0 requests per minute"),
        ([pool, deployment, broken], "LLMDeployment default/broken: spec.models[0].name: unknown model"),
    ):
        (tmp_path / "all.yaml").write_text("---".join(documents))
        result = run("-f", tmp_path, "--duration", "1m")
        assert result.exit_code == 1
        assert message in result.stderr
    assert "default/assistant" in result.stdout


def test_a_trace_for_what_is_not_there_is_refused_with_what_is(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.csv")
    result = run("-f", QUICKSTART, "--trace", f"{path}:chat/nobody")
    assert result.exit_code == 1
    assert "no planned traffic class chat/nobody; there are: default/assistant/default" in result.stderr


def test_the_report_is_one_file_without_network_and_its_figures_lie_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    found = document("-f", QUICKSTART, "--duration", "5m", "--report", path)
    page = path.read_text()
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert page.count("<svg") == 5
    assert "src=" not in page
    assert "<script" not in page
    assert 'href="http' not in page
    assert "prefers-color-scheme: dark" in page
    assert "default/assistant" in page
    ids = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(ids) == len(set(ids))


def test_the_report_names_the_extra_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plimsoll.cli.report_plots", None)
    result = run("-f", QUICKSTART, "--duration", "1m", "--report", tmp_path / "report.html")
    assert result.exit_code == 1
    assert "pip install 'plimsoll[analysis]'" in result.stderr
