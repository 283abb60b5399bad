"""The example for people who embed the library runs and says what its documentation promises."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "library" / "allocate.py"


def test_the_example_solves_explains_and_asks_what_if(capsys: pytest.CaptureFixture[str]) -> None:
    found = runpy.run_path(str(EXAMPLE))
    said = capsys.readouterr().out
    assert found["solution"].gap == pytest.approx(0.0, abs=1e-3)
    assert found["allocation"].replicas.tolist() == [2, 6]
    assert "turns wholly on small on l40s: dearer" in said
    assert found["sturdy"].replicas.sum() > found["allocation"].replicas.sum()
    assert "Were h100 at 40 % of its price: replicas [4, 1]" in said
