"""The reference says everything that there is."""

from plimsoll.api import KINDS
from plimsoll.cli.reference import ANNOTATIONS, CONDITIONS, reasons, reference
from plimsoll.controller.settings import Settings, variable
from tests.states import states

TEXT = reference()


def test_every_kind_field_setting_and_annotation_is_there() -> None:
    for kind in KINDS:
        assert f"### {kind.__name__}\n" in TEXT
    assert "| `spec.traffic[].tokens.input` | integer | **required** |" in TEXT
    for name in Settings.__dataclass_fields__:
        assert f"| `{variable(name)}` |" in TEXT
    for name in ANNOTATIONS:
        assert f"| `{name}` |" in TEXT


def test_every_condition_and_reason_that_the_controller_writes_is_told() -> None:
    found = [item for state in states() for item in state.manifest["status"].get("conditions", [])]
    assert {item["type"] for item in found} <= CONDITIONS.keys()
    assert {item["reason"] for item in found} <= set(reasons())
    assert "SLOUnattainable" in TEXT


def test_a_line_stays_a_line() -> None:
    tables = [line for line in TEXT.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
