"""Leaves out options that another option of the same pool beats for every class: fewer than a tenth remain.

Of a pool's options, `a` beats `b` when as many replicas of `a` as fit into the GPUs of one `b` serve every class at
least as fast, at no greater task error and, where latency costs money, no greater delay. GPUs of a pool have one price,
so `a` is never dearer, and its smaller replicas waste less. CPU cores are not compared: two small replicas ask for one
core more than a large one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plimsoll.performance import Capacity
from plimsoll.planning.objectives import ResolvedClass
from plimsoll.planning.plan import Option
from plimsoll.planning.snapshot import Workload
from plimsoll.planning.variants import Variant

OptionKey = tuple[str, str, str, int, int, int]
"""Model, precision, pool, tensor, pipeline, operating point."""
TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Offering:
    """An option with what it offers to each class that it may serve."""

    variant: Variant
    option: Option
    capacities: Mapping[str, Capacity]
    task_errors: Mapping[str, float]


def beaten(
    offerings: Sequence[Offering], classes: Sequence[ResolvedClass], *, whole_replicas: bool
) -> frozenset[OptionKey]:
    """Keys of the offerings that another one beats.

    Args:
        whole_replicas: the number of replicas is limited, so several small replicas do not stand for a large one.
    """
    lost = _beaten(offerings, classes, whole_replicas=whole_replicas)
    return frozenset(option_key(offering.option) for offering, out in zip(offerings, lost, strict=True) if out)


def option_key(option: Option) -> OptionKey:
    """What a running placement of the option says of itself."""
    degrees = option.parallelism
    return (option.model, option.precision, option.pool, degrees.tensor, degrees.pipeline, option.max_num_seqs)


def key_of_workload(workload: Workload) -> OptionKey | None:
    """What a running placement says of itself; None when somebody has edited that beyond reading."""
    said = workload.option
    try:
        degrees = (int(said["tensor"]), int(said["pipeline"]), int(said["max-num-seqs"]))
        return (said["model"], said["precision"], said["pool"], *degrees)
    except (KeyError, ValueError):
        return None  # the placement counts as obsolete, and a new one is made before it goes


def _beaten(group: Sequence[Offering], classes: Sequence[ResolvedClass], *, whole_replicas: bool) -> NDArray[np.bool_]:
    gpus = np.array([offering.option.gpus_per_pod for offering in group], dtype=np.int64)
    pods = np.array([offering.option.nodes for offering in group], dtype=np.int64)
    fits = gpus[None, :] // gpus[:, None] * pods[None, :] // pods[:, None]
    """(a, b): replicas of a in the GPUs of one b, wherever its pods are."""
    if whole_replicas:
        fits = np.minimum(fits, 1)
    names = {name: number for number, name in enumerate(sorted({offering.option.pool for offering in group}))}
    pool = np.array([names[offering.option.pool] for offering in group])
    beats = (fits >= 1) & (pool[:, None] == pool[None, :])
    for item in classes:
        name = item.declared.name
        found = [offering.capacities.get(name) for offering in group]
        rates = np.array([0.0 if capacity is None else capacity.max_rate_per_second for capacity in found])
        beats &= fits * rates[:, None] >= rates[None, :] * (1 - TOLERANCE)
        errors = np.array([offering.task_errors.get(name, 0.0) for offering in group])
        beats &= (errors[:, None] <= errors[None, :] + TOLERANCE) | (rates[None, :] <= 0)
        if item.slo.latency_penalty_per_thousand_request_seconds > 0:
            delays = np.array([np.inf if one is None else one.unloaded.mean_end_to_end_seconds for one in found])
            beats &= (delays[:, None] <= delays[None, :]) | (rates[None, :] <= 0)
    # Of two that beat each other the first stays.
    order = np.arange(len(group))
    beats &= ~beats.T | (order[:, None] < order[None, :])
    np.fill_diagonal(beats, val=False)
    lost: NDArray[np.bool_] = beats.any(axis=0)
    return lost
