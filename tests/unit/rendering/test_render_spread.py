"""A placement's limit of pods per node, as the scheduler is told it."""

from dataclasses import replace
from typing import Any

from plimsoll.planning.plan import Option
from plimsoll.rendering.workload import render_workload
from tests.unit.rendering.plans import SMALL, llm_deployment, placement, pool, small_option


def constraints(option: Option, **pod_template: Any) -> list[dict[str, Any]]:
    owner = llm_deployment(**({"engine": {"podTemplate": pod_template}} if pod_template else {}))
    manifest = render_workload(owner, placement(SMALL, option, 3), pool(option.pool, "X"), 3)
    found: list[dict[str, Any]] = manifest["spec"]["template"]["spec"].get("topologySpreadConstraints", [])
    return found


def test_the_skew_is_a_limit_per_node_because_there_are_never_so_many_nodes() -> None:
    (constraint,) = constraints(replace(small_option(), pods_per_node=2))
    assert constraint["maxSkew"] == 2
    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    assert constraint["whenUnsatisfiable"] == "DoNotSchedule"
    assert constraint["minDomains"] > 100_000
    assert constraint["labelSelector"] == {"matchLabels": {"plimsoll.dev/placement": SMALL}}


def test_without_a_limit_nothing_is_said() -> None:
    assert constraints(small_option()) == []


def test_what_people_ask_for_stays_beside_it() -> None:
    zones = {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
    first, second = constraints(replace(small_option(), pods_per_node=1), topologySpreadConstraints=[zones])
    assert first["topologyKey"] == "topology.kubernetes.io/zone"
    assert second["topologyKey"] == "kubernetes.io/hostname"
