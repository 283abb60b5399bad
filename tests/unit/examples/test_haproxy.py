"""What the example router makes of a routing document."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = Path("/run/haproxy")


def _follow() -> ModuleType:
    spec = importlib.util.spec_from_file_location("follow", ROOT / "examples" / "routers" / "haproxy" / "follow.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FOLLOW = _follow()
DOCUMENT: dict[str, Any] = {
    "apiVersion": "plimsoll.dev/routing/v1",
    "deployment": "chat/assistant",
    "epoch": 3,
    "classes": [
        {
            "name": "default",
            "admittedRequestsPerMinute": 1200,
            "unserved": "0",
            "overload": "Reject",
            "backends": [
                {
                    "placement": f"assistant-{name}",
                    "service": f"http://assistant-{name}.chat.svc.cluster.local:8000",
                    "servedModel": "m",
                    "weight": weight,
                    "maxConcurrency": 64,
                }
                for name, weight in (("a", 620), ("b", 379), ("c", 1))
            ],
        },
        {
            "name": "long",
            "match": {"headers": [{"name": "x-traffic-class", "value": "long"}]},
            "admittedRequestsPerMinute": 60,
            "unserved": "0",
            "overload": "Reject",
            "backends": [],
        },
        {
            "name": "longest",
            "match": {"headers": [{"name": "x-traffic-class", "value": "it's"}, {"name": "x-team", "value": "a b"}]},
            "admittedRequestsPerMinute": 60,
            "unserved": "0",
            "overload": "Reject",
            "backends": [],
        },
    ],
    "chains": [],
}


def _lines(document: dict[str, Any] = DOCUMENT) -> list[str]:
    text: str = FOLLOW.configuration(document, 8080, FOLDER)
    return [line.strip() for line in text.splitlines()]


def test_shares_become_weights_and_the_least_one_still_gets_some() -> None:
    servers = [line.split() for line in _lines() if line.startswith("server ")]
    weights = {words[1]: int(words[words.index("weight") + 1]) for words in servers}
    assert weights == {"assistant-a": 256, "assistant-b": 156, "assistant-c": 1}
    shares = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    assert all(
        abs(shares[backend["placement"]] - backend["weight"] / 1000) < 0.005
        for backend in DOCUMENT["classes"][0]["backends"]
    )


def test_the_class_that_matches_with_most_headers_is_asked_first() -> None:
    rules = [line for line in _lines() if line.startswith(("use_backend", "default_backend"))]
    assert [rule.split()[1] for rule in rules] == ["longest", "long", "default"]
    assert "{ req.hdr(x-traffic-class) -m str 'it'\\''s' } { req.hdr(x-team) -m str 'a b' }" in rules[0]


def test_a_class_takes_its_admitted_rate_and_one_without_backends_says_so() -> None:
    lines = _lines()
    assert "http-request deny deny_status 429 if { sc0_gpc0_rate ge 1200 }" in lines
    assert sum(line.startswith("http-request return status 503") for line in lines) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [("apiVersion", "plimsoll.dev/routing/v2"), ("classes", None), ("classes", [{"name": "default"}])],
)
def test_what_is_no_routing_document_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"apiVersion|routing document"):
        FOLLOW.configuration({**DOCUMENT, field: value}, 8080, FOLDER)


def test_a_header_value_cannot_write_configuration() -> None:
    document = copy.deepcopy(DOCUMENT)
    document["classes"][1]["match"]["headers"][0]["value"] = "x\n    http-request deny"
    with pytest.raises(ValueError, match="control character"):
        FOLLOW.configuration(document, 8080, FOLDER)
