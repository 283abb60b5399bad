"""Read the catalog's data files."""

from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from plimsoll.catalog.catalog import Catalog
from plimsoll.catalog.gpus import GPU, Interconnect
from plimsoll.catalog.models import ModelArchitecture
from plimsoll.catalog.precisions import PRECISIONS

_Loader: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C parser reads the files about eight times as fast; it is missing where PyYAML was built without libyaml."""
_MEBIBYTE = 2**20
_SHAPE = ("layers", "hidden_size", "attention_heads", "kv_heads", "head_size", "intermediate_size")
_FROM_CONFIG = (
    *_SHAPE,
    "experts",
    "experts_per_token",
    "vocabulary_size",
    "context_length",
    "tied_embeddings",
    "kv_elements_per_token_per_layer",
    "latent_attention",
    "native_precision",
)


@cache
def load_catalog() -> Catalog:
    """The catalog that comes with Plimsoll. Read once per process."""
    gpus, models = _read("gpus.yaml"), _read("models.yaml")
    return Catalog(
        gpus={name: _gpu(name, entry, gpus) for name, entry in gpus["gpus"].items()},
        models={name: _model(name, entry, models["sources"]) for name, entry in models["models"].items()},
        precisions=dict(PRECISIONS),
    )


def _read(file: str) -> Mapping[str, Any]:
    text = files("plimsoll.catalog").joinpath(file).read_text(encoding="utf-8")
    data: Mapping[str, Any] = yaml.load(text, Loader=_Loader)  # noqa: S506  (a safe loader, of our own file)
    return data


def _gpu(name: str, entry: Mapping[str, Any], shared: Mapping[str, Any]) -> GPU:
    vendor = "amd" if entry["arch"].startswith("cdna") else "nvidia"
    kind, gigabytes_per_second, max_tensor_parallel = entry["link"]
    peaks = {precision: teraflops * 1e12 for precision, teraflops in entry["peaks"].items()}
    if "bf16" in peaks:
        peaks.setdefault("fp16", peaks["bf16"])
    source = entry["source"]
    return GPU(
        name=name,
        vendor=vendor,
        architecture=entry["arch"],
        memory_bytes=entry["mib"] * _MEBIBYTE,
        memory_bandwidth_bytes_per_second=entry["bandwidth"] * 1e9,
        peak_flops_per_second=peaks,
        interconnect=Interconnect(kind, gigabytes_per_second * 1e9, max_tensor_parallel),
        resource_name=f"{vendor}.com/gpu",
        product_labels=tuple(entry["labels"]),
        product_label_key="amd.com/gpu.product-name" if vendor == "amd" else "nvidia.com/gpu.product",
        list_price_per_gpu_hour=Decimal(entry["price"]),
        sources={
            "memory_bytes": shared["memories"][vendor],
            "memory_bandwidth_bytes_per_second": source,
            **{f"peak_flops_per_second.{precision}": source for precision in peaks},
            "interconnect": source,
            "list_price_per_gpu_hour": shared["prices"][entry.get("priced", "usual")],
        },
        aliases=tuple(entry.get("aliases", ())),
    )


def _model(name: str, entry: Mapping[str, Any], shared: Mapping[str, str]) -> ModelArchitecture:
    layers, hidden_size, attention_heads, kv_heads, head_size, intermediate_size = entry["shape"]
    experts, experts_per_token = entry.get("experts", (0, 0))
    latent = entry.get("mla")
    cited = {kind: text.replace("{name}", name) for kind, text in shared.items()}
    sources = dict.fromkeys(_FROM_CONFIG, cited["architecture"])
    sources["parameters"] = _noted(cited["counted" if entry.get("counted") else "parameters"], entry.get("note"))
    sources["active_parameters"] = cited["active"] if experts else sources["parameters"]
    sources["license"] = sources["gated"] = cited["license"]
    sources["native_precision"] = _noted(cited["architecture"], entry.get("precision_note"))
    if "checkpoints" in entry:
        sources["checkpoints"] = cited["checkpoints"]
    if "unquantised" in entry:
        sources["unquantised_parameters"] = sources["native_precision"]
    return ModelArchitecture(
        name=name,
        parameters=entry["n"],
        active_parameters=entry.get("active", entry["n"]),
        layers=layers,
        hidden_size=hidden_size,
        attention_heads=attention_heads,
        kv_heads=kv_heads,
        head_size=head_size,
        experts=experts,
        experts_per_token=experts_per_token,
        vocabulary_size=entry["vocab"],
        context_length=entry["context"],
        tied_embeddings=entry.get("tied", False),
        kv_elements_per_token_per_layer=latent or 2 * kv_heads * head_size,
        latent_attention=latent is not None,
        native_precision=entry.get("native", "bf16"),
        license=entry["license"],
        gated=entry.get("gated", False),
        checkpoints=dict(entry.get("checkpoints", {})),
        sources=sources,
        intermediate_size=intermediate_size,
        unquantised_parameters=entry.get("unquantised"),
    )


def _noted(source: str, note: str | None) -> str:
    return f"{source}; {note}" if note else source
