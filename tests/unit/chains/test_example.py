"""The example for people who embed the library runs and says what its documentation promises."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "library" / "chains.py"


def test_the_example_places_routes_repairs_and_prices(capsys: pytest.CaptureFixture[str]) -> None:
    found = runpy.run_path(str(EXAMPLE))
    said = capsys.readouterr().out
    assert found["placed"].carries
    assert "request 0: servers (0, 1, 2, 3), waits 0.0 s" in said
    assert "7.70 per hour: [7, 0] servers" in said
    repaired = found["repaired"]
    assert repaired.moved == 3
    assert repaired.score < repaired.present_score
