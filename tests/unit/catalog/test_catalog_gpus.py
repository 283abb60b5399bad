"""GPU products: complete, sourced, consistent, and found by the labels that nodes carry."""

import pytest

from plimsoll.catalog import GPU, UnknownName, load_catalog

CATALOG = load_catalog()
EVERY_GPU = pytest.mark.parametrize("gpu", CATALOG.gpus.values(), ids=lambda gpu: gpu.name)
GIBIBYTE = 2**30


def test_there_are_many_products_of_both_vendors():
    assert len(CATALOG.gpus) >= 24
    assert {gpu.vendor for gpu in CATALOG.gpus.values()} == {"nvidia", "amd"}


@EVERY_GPU
def test_every_figure_has_a_source(gpu: GPU):
    figures = {"memory_bytes", "memory_bandwidth_bytes_per_second", "interconnect", "list_price_per_gpu_hour"}
    figures |= {f"peak_flops_per_second.{precision}" for precision in gpu.peak_flops_per_second}
    assert set(gpu.sources) == figures
    assert all(gpu.sources.values())


@EVERY_GPU
def test_figures_are_plausible(gpu: GPU):
    assert 12 * GIBIBYTE < gpu.memory_bytes < 512 * GIBIBYTE
    assert 0.15e12 < gpu.memory_bandwidth_bytes_per_second < 10e12
    assert all(10e12 < peak < 6e15 for peak in gpu.peak_flops_per_second.values())
    assert gpu.interconnect.kind in {"NVLink", "PCIe", "InfinityFabric"}
    assert gpu.interconnect.max_tensor_parallel in {2, 4, 8}
    assert 0 < gpu.list_price_per_gpu_hour < 20
    assert gpu.resource_name == f"{gpu.vendor}.com/gpu"
    assert gpu.product_label_key.startswith(f"{gpu.vendor}.com/")
    assert gpu.product_labels


@EVERY_GPU
def test_memory_agrees_with_the_size_in_the_name(gpu: GPU):
    sizes = [int(word.removesuffix("GB")) for word in gpu.name.split("-") if word.endswith("GB")]
    assert all(0.9 < gpu.memory_bytes / (size * 1e9) < 1.1 for size in sizes)


@EVERY_GPU
def test_peaks_are_dense(gpu: GPU):
    """A peak with sparsity in one row and a dense one in the other would show as a factor of four or one."""
    peaks = gpu.peak_flops_per_second
    if gpu.architecture in {"hopper", "ada", "blackwell", "cdna3", "cdna4"}:
        assert peaks["fp8"] == pytest.approx(2 * peaks["bf16"], rel=0.05)
    if gpu.architecture in {"hopper", "ada"} and gpu.name != "RTX-4090":  # fp32 accumulation halves its fp8, not int8
        assert peaks["int8"] == pytest.approx(peaks["fp8"], rel=0.05)
    if gpu.architecture == "ampere" and gpu.name != "RTX-3090":  # fp32 accumulation halves its bf16
        assert peaks["int8"] == pytest.approx(2 * peaks["bf16"], rel=0.05)


def test_the_hardware_table_of_the_paper():
    """Memory in GB, bandwidth in GB/s, bf16 and int8 in 10^12 per second: vendors' data sheets."""
    rows = {
        "RTX-A6000": (48, 768, 155, 310),
        "RTX-4090": (24, 1008, 165, 660),
        "A100-SXM-40GB": (40, 1555, 312, 624),
        "H100-SXM-80GB": (80, 3350, 989, 1979),
    }
    for name, (gigabytes, gigabytes_per_second, bf16, int8) in rows.items():
        gpu = CATALOG.gpu(name)
        assert gpu.memory_bytes == pytest.approx(gigabytes * GIBIBYTE, rel=0.02)
        assert gpu.memory_bandwidth_bytes_per_second == pytest.approx(gigabytes_per_second * 1e9)
        assert gpu.peak_flops_per_second["bf16"] == pytest.approx(bf16 * 1e12, rel=0.01)
        assert gpu.peak_flops_per_second["int8"] == pytest.approx(int8 * 1e12, rel=0.01)


def test_reported_memory_of_an_h100():
    assert CATALOG.gpu("H100-SXM-80GB").memory_bytes / GIBIBYTE == pytest.approx(79.65, abs=0.01)


def test_consumer_and_workstation_cards_stay_at_tensor_parallel_two():
    for name in ("RTX-4090", "RTX-3090", "RTX-5090", "RTX-A6000", "RTX-6000-Ada"):
        assert CATALOG.gpu(name).interconnect.max_tensor_parallel == 2


def test_names_aliases_and_labels_are_distinct():
    names = [text.lower() for gpu in CATALOG.gpus.values() for text in (gpu.name, *gpu.aliases)]
    labels = [label.lower() for gpu in CATALOG.gpus.values() for label in gpu.product_labels]
    assert len(set(names)) == len(names)
    assert len(set(labels)) == len(labels)


@EVERY_GPU
def test_every_product_label_finds_its_gpu_in_any_spelling(gpu: GPU):
    for label in gpu.product_labels:
        for spelling in (label, label.lower(), label.replace("-", " "), label.replace("_", "-")):
            assert CATALOG.gpu_by_product_label(spelling) is gpu


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("NVIDIA-H100-80GB-HBM3", "H100-SXM-80GB"),
        ("H100-SXM5-80GB", "H100-SXM-80GB"),
        ("NVIDIA-H200-141GB-HBM3e", "H200-SXM-141GB"),
        ("NVIDIA-A100-PCIE-80GB", "A100-PCIe-80GB"),
        ("Tesla-V100-SXM3-32GB", "V100-SXM-32GB"),
        ("NVIDIA-L40", "L40"),
        ("NVIDIA-L40S", "L40S"),
        ("NVIDIA-A10", "A10"),
        ("AMD-MI300X-192GB", "MI300X"),
        ("Instinct-MI300X", "MI300X"),
    ],
)
def test_odd_labels_are_recognised(label: str, name: str):
    found = CATALOG.gpu_by_product_label(label)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "label",
    [
        "NVIDIA-H100-80GB-HBM3-SHARED",  # time-sliced: its memory is shared
        "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb",
        "NVIDIA-A100-SXM4-40GB-MIG-3g.20gb-SHARED",
        "NVIDIA-A10-24Q",  # vGPU
        "GRID-A100-10C",
        "NVIDIA-GeForce-RTX-4090-D",
        "NVIDIA-L40G",
        "NVIDIA-A100-80GB",  # SXM or PCIe
        "NVIDIA-A100-SXM4-160GB",
        "NVIDIA-H100",
        "NVIDIA",
        "",
    ],
)
def test_parts_and_ambiguous_products_are_not_recognised(label: str):
    assert CATALOG.gpu_by_product_label(label) is None


def test_gpus_are_found_by_alias_and_in_any_case():
    assert CATALOG.gpu("l40s").name == "L40S"
    assert CATALOG.gpu("h100_sxm_80gb").name == "H100-SXM-80GB"
    assert CATALOG.gpu("H100-PCIe").name == "H100-PCIe-80GB"
    assert CATALOG.gpu("RTX4090").name == "RTX-4090"


def test_an_ambiguous_gpu_name_lists_the_candidates():
    with pytest.raises(UnknownName) as caught:
        CATALOG.gpu("A100")
    assert set(caught.value.nearest) == {"A100-SXM-80GB", "A100-SXM-40GB", "A100-PCIe-80GB", "A100-PCIe-40GB"}
    assert str(caught.value).startswith('unknown accelerator "A100"; nearest: "A100-')
