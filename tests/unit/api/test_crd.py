from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from plimsoll.api import KINDS
from plimsoll.api.common import APIModel, Integer
from plimsoll.api.crd import custom_resource_definitions, file_name, main, render
from plimsoll.api.rules import VALIDATIONS
from plimsoll.api.schema import SchemaError, structural_schema

CRDS = Path(__file__).parents[3] / "crds"


def test_the_committed_files_are_up_to_date() -> None:
    wanted = {file_name(definition): render(definition) for definition in custom_resource_definitions()}
    found = {path.name: path.read_text() for path in CRDS.iterdir()}
    assert found == wanted, "run: python -m plimsoll.api.crd crds"


def test_the_command_writes_one_file_per_kind(tmp_path: Path) -> None:
    assert main([str(tmp_path / "crds")]) == 0
    names = {yaml.safe_load(path.read_text())["spec"]["names"]["kind"] for path in (tmp_path / "crds").iterdir()}
    assert names == {kind.__name__ for kind in KINDS}
    assert main([]) == 2


@pytest.mark.parametrize("definition", custom_resource_definitions(), ids=lambda d: d["spec"]["names"]["kind"])
def test_conventions(definition: dict[str, Any]) -> None:
    version = definition["spec"]["versions"][0]
    assert definition["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert definition["spec"]["names"]["categories"] == ["plimsoll"]
    assert version["subresources"] == {"status": {}}
    narrow = [c for c in version["additionalPrinterColumns"] if not c.get("priority")]
    assert 3 <= len(narrow) <= 8
    root = version["schema"]["openAPIV3Schema"]["properties"]
    assert root["status"]["properties"]["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert "observedGeneration" in root["status"]["properties"]
    assert "default" not in yaml.safe_dump(root["status"]["properties"]).split()
    assert ("default" in root["status"]) == (definition["spec"]["names"]["kind"] != "PlacementPlan")
    for column in version["additionalPrinterColumns"]:
        assert _exists(root, column["jsonPath"]), column


def _exists(properties: dict[str, Any], path: str) -> bool:
    first, *rest = path.split("[")[0].removeprefix(".").split(".")
    if first == "metadata":
        return True
    node = properties[first]
    for part in rest:
        node = node.get("properties", {}).get(part)
        if node is None:
            return False
    return True


def test_names_and_short_names_are_unique() -> None:
    short = [kind.names.short_name for kind in KINDS]
    assert short == ["llmdep", "gnp", "islo", "mprof", "ppol", "pplan"]
    assert len({kind.names.plural for kind in KINDS}) == len(KINDS)


class _Inner(APIModel):
    size: Annotated[Integer, Field(gt=0, lt=10, description="Size.")] = 3


class _Spec(APIModel):
    inner: Annotated[_Inner, Field(description="Inner.")] = _Inner()
    maybe: Annotated[Literal["A"] | None, Field(description="May be absent.")] = None


def test_translation() -> None:
    properties = structural_schema(_Spec)["properties"]
    size = {"type": "integer", "format": "int32", "description": "Size.", "default": 3, "minimum": 1, "maximum": 9}
    assert properties["inner"] == {
        "type": "object",
        "description": "Inner.",
        "default": {},
        "properties": {"size": size},
    }
    assert properties["maybe"] == {"type": "string", "description": "May be absent.", "enum": ["A"]}


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Annotated[str, Field(description="d")], "_Bad.field: a string needs max_length"),
        (Annotated[int, Field(ge=0, description="d")], "_Bad.field: an integer needs ge and le"),
        (Annotated[tuple[Literal["a"], ...], Field(description="d")], "_Bad.field: a list needs max_length"),
        (Annotated[dict[str, Literal["a"]], Field(description="d")], "_Bad.field: a map needs max_length"),
        (Annotated[Literal["a"], Field()], "_Bad.field: needs a description"),
        (Annotated[float, Field(description="d")], "_Bad.field: type number has no place"),
        (Annotated[int | str, Field(description="d")], "_Bad.field: a union of 2 types"),
        (
            Annotated[float, Field(gt=0, description="d")],
            "_Bad.field: exclusiveMinimum is translated for integers only",
        ),
        (Annotated[Literal["a"], Field(examples=["a"])], "_Bad.field: unknown to the API server: examples"),
    ],
)
def test_what_the_api_server_would_refuse_is_refused_first(annotation: Any, message: str) -> None:
    bad = type("_Bad", (APIModel,), {"__annotations__": {"field": annotation}, "__module__": __name__})
    with pytest.raises(SchemaError, match=message.replace(".", r"\.")):
        structural_schema(bad)


def test_a_model_that_contains_itself_is_refused() -> None:
    with pytest.raises(SchemaError, match="refers to itself by way of _Loop"):
        structural_schema(_Loop)


class _Loop(APIModel):
    again: Annotated[_Loop | None, Field(description="d")] = None


def test_every_rule_of_the_models_is_in_a_definition() -> None:
    def rules(model: type[APIModel]) -> set[str]:
        own = {rule.cel for rule in model.rules} if model.__module__.startswith("plimsoll.") else set()
        return own.union(*(rules(child) for child in model.__subclasses__()))

    def written(node: object) -> set[str]:
        if isinstance(node, list):
            return set().union(*(written(item) for item in node))
        if not isinstance(node, dict):
            return set()
        here = {rule["rule"] for rule in node.get(VALIDATIONS, [])}
        return here.union(*(written(child) for child in node.values()))

    assert len(rules(APIModel)) >= 20
    assert rules(APIModel) <= written(custom_resource_definitions())
