"""The ConfigMap that keeps what observation has taught of the speed of replicas, over restarts and for files. Pure.

Estimates are finer than the factors in force, and belong to kinds of replicas that several LLMDeployments may share, so
no status is the place for them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from typing import Any

from plimsoll.performance import Estimate
from plimsoll.performance.correction import CAUTIOUS
from plimsoll.planning.observed import Learnt, ReplicaKind

NAME = "plimsoll-corrections"
"""Of the ConfigMap, in the operator's namespace."""
KEY = "corrections.json"
_VERSION = 1


def corrections_config_map(learnt: Mapping[ReplicaKind, Learnt], namespace: str) -> dict[str, Any]:
    """All that rests on requests.

    Without the label by which the operator finds what it renders: this object must not wake the planner.
    """
    kinds = [
        {**asdict(kind), "basis": item.basis, "prefill": _part(item.prefill), "decode": _part(item.decode)}
        for kind, item in sorted(learnt.items(), key=lambda pair: pair[0])
        if item.rests_on_requests
    ]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": "plimsoll"}},
        "data": {KEY: json.dumps({"version": _VERSION, "kinds": kinds}, indent=1)},
    }


def learnt_from_config_map(manifest: Mapping[str, Any]) -> tuple[dict[ReplicaKind, Learnt], tuple[str, ...]]:
    """The other way: what can be read and is within bounds, and what is wrong with the rest."""
    try:
        document = json.loads(manifest["data"][KEY])
        if document["version"] != _VERSION:
            return {}, (f"{KEY}: version {document['version']}, this release reads {_VERSION}",)
        entries = list(document["kinds"])
    except (KeyError, TypeError, ValueError) as error:
        return {}, (f"{KEY}: it is not what the operator writes: {error!r}",)
    found: dict[ReplicaKind, Learnt] = {}
    problems: list[str] = []
    for number, entry in enumerate(entries):
        try:
            model, precision, accelerator = (str(entry[name]) for name in ("model", "precision", "accelerator"))
            kind = ReplicaKind(model, precision, accelerator, int(entry["tensor"]), int(entry["pipeline"]))
            found[kind] = Learnt(_estimate(entry["prefill"]), _estimate(entry["decode"]), str(entry["basis"]))
        except (KeyError, TypeError, ValueError) as error:
            problems.append(f"{KEY}: kinds[{number}]: {error!r}")
    return found, tuple(problems)


def _part(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "inForce": estimate.in_force, "requests": round(estimate.requests)}


def _estimate(part: Mapping[str, Any]) -> Estimate:
    value, used, requests = (float(part[name]) for name in ("value", "inForce", "requests"))
    for factor in (value, used):
        if not (isfinite(factor) and CAUTIOUS.lowest <= factor <= CAUTIOUS.highest):
            raise ValueError(f"a factor of {factor}; {CAUTIOUS.lowest} to {CAUTIOUS.highest} are possible")
    return Estimate(value, used, max(0.0, requests))
