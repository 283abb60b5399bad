"""Pools: their GPU, their nodes, and what is said about nodes that differ from the declaration."""

from dataclasses import replace

import pytest

from plimsoll.api.gpunodepool import GPUNodePool
from plimsoll.api.parse import parse
from plimsoll.catalog import load_catalog
from plimsoll.planning.facts import pool_gpu
from plimsoll.planning.plan import Severity
from plimsoll.planning.pools import REGION_LABEL, ZONE_LABEL, resolve_pools
from tests.unit.planning.fleets import deployment, finding, manifest, node, nodes, plan, plan_of, pool, snapshot

CATALOG = load_catalog()


def custom(interconnect: str | None = None, per_second: int | None = None) -> GPUNodePool:
    figures = {
        "vendor": "NVIDIA",
        "memory": "48Gi",
        "memoryBandwidthGigabytesPerSecond": 900,
        "peaks": [{"precision": "bf16", "teraflops": 350}],
        **({} if per_second is None else {"intraNodeGigabytesPerSecond": per_second}),
    }
    spec = {
        "custom": figures,
        "nodeSelector": {"matchLabels": {"kind": "special"}},
        "price": {"perHour": "1"},
        **({} if interconnect is None else {"interconnect": {"intraNode": interconnect}}),
    }
    resource = parse(manifest("GPUNodePool", "special", spec))
    assert isinstance(resource, GPUNodePool)
    return resource


def test_the_interconnect_that_the_catalog_knows_keeps_its_figures():
    usual = CATALOG.gpu("A100-SXM-80GB").interconnect
    assert usual.kind == "NVLink"
    declared = pool(accelerator="A100-SXM-80GB", interconnect={"intraNode": "NVLink"})
    assert pool_gpu(declared, CATALOG).interconnect == usual


def test_another_interconnect_than_the_catalog_s_gets_usual_figures():
    declared = pool(accelerator="A100-SXM-80GB", interconnect={"intraNode": "PCIe"})
    found = pool_gpu(declared, CATALOG).interconnect
    assert (found.kind, found.bytes_per_second, found.max_tensor_parallel) == ("PCIe", 32e9, 4)


@pytest.mark.parametrize(
    ("interconnect", "per_second", "expected"),
    [
        (None, None, ("PCIe", 32e9)),
        (None, 100, ("PCIe", 100e9)),
        ("NVLink", None, ("NVLink", 450e9)),
        ("NVLink", 300, ("NVLink", 300e9)),
    ],
)
def test_a_custom_accelerator_keeps_its_own_bandwidth_whatever_its_interconnect(interconnect, per_second, expected):
    found = pool_gpu(custom(interconnect, per_second), CATALOG).interconnect
    assert (found.kind, found.bytes_per_second) == expected


def test_nodes_are_found_by_the_product_label():
    found = resolve_pools([pool()], [*nodes(2), *nodes(2, "L4", 1)], CATALOG).usable["l40s"]
    assert [item.name for item in found.nodes] == ["l40s-0", "l40s-1"]
    assert found.node_selector == {"nvidia.com/gpu.product": "NVIDIA-L40S"}


def test_region_and_zone_are_part_of_the_selector():
    place = {"region": "us-east", "zone": "us-east-1a"}
    here = [node("here", **{REGION_LABEL: "us-east", ZONE_LABEL: "us-east-1a"}), node("there")]
    here = [replace(item, labels={**item.labels}) for item in here]
    found = resolve_pools([pool(location=place)], here, CATALOG).usable["l40s"]
    assert [item.name for item in found.nodes] == ["here"]
    assert found.node_selector[REGION_LABEL] == "us-east"
    assert found.node_selector[ZONE_LABEL] == "us-east-1a"


@pytest.mark.parametrize("label", ["NVIDIA-L40S-SHARED", "NVIDIA-L4", "Unheard-Of"])
def test_nodes_whose_product_contradicts_the_pool_are_not_used(label):
    selector = {"matchLabels": {"pool": "a"}}
    wrong = node("wrong", pool="a")
    wrong = replace(wrong, labels={**wrong.labels, "nvidia.com/gpu.product": label})
    fleet = plan(snapshot(pool(nodeSelector=selector), deployment(), nodes=[node("right", pool="a"), wrong]))
    said = finding(fleet, "ProductMismatch")
    assert label in said.message
    assert "node wrong" in said.message
    assert fleet.pools[0].nodes == 1


def test_nodes_without_a_product_label_are_taken_at_the_selector_s_word():
    bare = replace(node("bare"), labels={"pool": "a"})
    fleet = plan(snapshot(pool(nodeSelector={"matchLabels": {"pool": "a"}}), deployment(), nodes=[bare]))
    assert fleet.all_findings() == ()
    assert plan_of(fleet).gpus > 0


def test_nodes_with_fewer_gpus_than_declared_are_a_warning_and_count_as_they_are():
    fleet = plan(snapshot(pool(gpusPerNode=4), deployment(rate=9000), nodes=[*nodes(1), node("small", gpus=2)]))
    said = finding(fleet, "GPUsPerNodeMismatch")
    assert (said.severity, said.field) == (Severity.WARNING, "spec.gpusPerNode")
    assert "4 declared, but node small report only 2 nvidia.com/gpu" in said.message
    assert plan_of(fleet).gpus == 6


def test_contested_nodes_are_used_by_neither_and_the_others_by_both():
    selector = {"matchLabels": {"pool": "a"}}
    both = node("both", pool="a", kind="x")
    facts = snapshot(
        pool("one", nodeSelector=selector),
        pool("two", nodeSelector={"matchLabels": {"kind": "x"}}),
        deployment(rate=9000),
        nodes=[both, node("first", pool="a"), node("second", kind="x")],
    )
    fleet = plan(facts)
    assert [item.nodes for item in fleet.pools] == [1, 1]
    assert {str(item.object) for item in fleet.all_findings() if item.reason == "NodesContested"} == {
        "GPUNodePool one",
        "GPUNodePool two",
    }


def test_an_alias_names_the_same_accelerator():
    assert pool_gpu(pool(accelerator="h100-sxm"), CATALOG).name == "H100-SXM-80GB"
