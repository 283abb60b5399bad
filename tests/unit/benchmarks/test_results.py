"""The result files and the report made of them."""

import json

from benchmarks import report, results
from benchmarks.results import Figure


def test_the_committed_report_is_the_generated_one():
    assert report.REPORT.read_text(encoding="utf-8") == report.generate(), "run `python -m benchmarks.report`"


def test_figures_are_kept_to_three_digits_and_judged_before():
    figure = Figure("time", 1.0004, "s", 1.0)
    assert figure.document() == {"name": "time", "value": 1.0, "unit": "s", "target": 1.0, "met": False}
    assert str(figure) == "time: 1 s  (target ≤ 1: MISSED)"
    assert Figure("time", 12.3456, "s").document()["value"] == 12.3
    assert Figure("writes", 67949, "").document()["value"] == 67949
    assert Figure("time", 3.0, "s").met is None


def test_a_missed_target_is_reported_as_missed(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    path = results.write("speed", [Figure("time", 3.0, "s", 2.0), Figure("writes", 0, "", 0)], ["On one machine."])
    document = json.loads(path.read_text(encoding="utf-8"))
    assert set(document["machine"]) == {"cpu", "cores", "memory", "os", "python"}
    text = report.generate(tmp_path)
    assert "## speed" in text
    assert "On one machine." in text
    assert "| time | 3 s | ≤ 2 s | **missed** |" in text
    assert "| writes | 0 | ≤ 0 | met |" in text
