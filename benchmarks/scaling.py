"""The scaling family: the reference instance R1 grown to any number of query types, models and tiers.

Types, models and tiers repeat cyclically; every copy gets its own seeded factors. Two levels of demand: "low" keeps the
total demand about that of R1 (a few active pairs), "high" lets it grow with the number of types (dozens of them).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

REFERENCE = Path(__file__).parents[1] / "tests" / "oracles" / "R1.json"
SIZES: tuple[tuple[int, int, int], ...] = (
    (4, 4, 5),
    (6, 6, 10),
    (8, 8, 10),
    (10, 10, 10),
    (15, 15, 15),
    (20, 20, 20),
    (50, 30, 20),
    (200, 50, 20),
)
"""Query types, models, tiers."""

LEAST_FACTOR, MOST_FACTOR = 0.8, 1.25


def instance(size: tuple[int, int, int], seed: int, high: bool) -> dict[str, Any]:
    """An instance document for `plimsoll.allocation.paper.from_paper_instance`.

    Every type's arrivals, input tokens and output tokens, every model's parameters and every tier's price are
    multiplied by a factor of their own, uniform in 0.8..1.25. What depends on them goes along: a type's delay limit
    with its output tokens, a model's weights and KV memory with its parameters. Low demand divides the arrivals by
    the number of types over R1's, so that the total stays about R1's. The budget follows total demand;
    the storage limit stays R1's, since even large instances store far less.

    Args:
        size: query types, models, tiers, each at least 1.
        seed: of the factors; the same seed gives the same document, and both levels of demand share the factors.
        high: True for high demand.
    """
    document: dict[str, Any] = json.loads(REFERENCE.read_text(encoding="utf-8"))
    types, models, tiers = size
    generator = np.random.default_rng(seed)

    def factors(count: int) -> list[float]:
        return [float(value) for value in generator.uniform(LEAST_FACTOR, MOST_FACTOR, count)]

    before = _arrivals(document)
    level = 1.0 if high else len(document["query_types"]) / types
    document["query_types"] = _repeated(document["query_types"], types)
    for item, arrivals, inputs, outputs in zip(
        document["query_types"], factors(types), factors(types), factors(types), strict=True
    ):
        item["arrivals_per_hour"] *= arrivals * level
        item["input_tokens"] *= inputs
        item["output_tokens"] *= outputs
        item["delay_slo_s"] *= outputs
    document["models"] = _repeated(document["models"], models)
    for item, parameters in zip(document["models"], factors(models), strict=True):
        for key in ("params_B", "weight_GB_fp16", "kv_KiB_per_token"):
            item[key] *= parameters
    document["tiers"] = _repeated(document["tiers"], tiers)
    for item, price in zip(document["tiers"], factors(tiers), strict=True):
        item["price_usd_per_h"] *= price
    document["constants"]["budget_usd"] *= _arrivals(document) / before
    document["name"] = f"R1 as {size} {'high' if high else 'low'}, seed {seed}"
    document.pop("expected")
    return document


def _arrivals(document: dict[str, Any]) -> float:
    return float(sum(item["arrivals_per_hour"] for item in document["query_types"]))


def _repeated(items: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """`count` items, cyclically; each copy's name tells its round."""
    result = []
    for number in range(count):
        item = copy.deepcopy(items[number % len(items)])
        if number >= len(items):
            item["name"] = f"{item['name']} #{number // len(items) + 1}"
        result.append(item)
    return result
