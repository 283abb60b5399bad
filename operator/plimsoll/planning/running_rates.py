"""What the replicas that run can take, also of placements that are no option any more."""

from collections.abc import Sequence

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.catalog import Catalog, UnknownName
from plimsoll.performance import LatencyTargets, Parallelism, Question, ReplicaShape
from plimsoll.planning.dominance import key_of_workload
from plimsoll.planning.evaluate import Evaluator
from plimsoll.planning.objectives import ResolvedClass
from plimsoll.planning.options import Choices
from plimsoll.planning.plan import ClassRate, RunningRates
from plimsoll.planning.pools import Pools
from plimsoll.planning.shortlist import USABLE_TIME
from plimsoll.planning.snapshot import Workload
from plimsoll.planning.speeds import Speeds

_LONGEST = 32_768
"""Tokens of a request, where nobody says otherwise (DESIGN section 6)."""


def running_rates(
    deployment: LLMDeployment,
    choices: Choices,
    workloads: Sequence[Workload],
    pools: Pools,
    catalog: Catalog,
    speeds: Speeds,
    evaluator: Evaluator,
) -> tuple[RunningRates, ...]:
    """Of each running placement that says what it is: requests per minute of each class that a replica can take.

    Within the objectives as they are planned for; where it does not meet them at all, as much as it can run.
    """
    found = []
    for item in workloads:
        shape = _shape(deployment, choices, item, pools, catalog, speeds)
        key = key_of_workload(item)
        if shape is not None and key is not None and evaluator.startup(shape).problem is None:
            rates = tuple(
                ClassRate(one.declared.name, _rate(one, shape, key[-1], evaluator)) for one in choices.classes
            )
            found.append(RunningRates(item.name, rates))
    return tuple(found)


def _rate(item: ResolvedClass, shape: ReplicaShape, batch: int, evaluator: Evaluator) -> float:
    for targets in (item.planned_targets, LatencyTargets()):
        (capacity,) = evaluator.answer([Question(shape, item.lengths, targets, batch, item.arrivals)])
        if capacity.max_rate_per_second > 0:
            return capacity.max_rate_per_second * USABLE_TIME * 60
    return 0.0


def _shape(
    deployment: LLMDeployment,
    choices: Choices,
    workload: Workload,
    pools: Pools,
    catalog: Catalog,
    speeds: Speeds,
) -> ReplicaShape | None:
    """None where nobody describes the model, precision or pool any more."""
    key = key_of_workload(workload)
    pool = pools.usable.get(key[2]) if key is not None else None
    if key is None or pool is None:
        return None
    model_name, precision_name, _, tensor, pipeline, _ = key
    for way in choices.ways:
        option = way.option
        same = (option.model, option.precision, option.parallelism) == (
            model_name,
            precision_name,
            Parallelism(tensor, pipeline),
        )
        if same and any(offer.name == pool.name for offer in way.pools):
            return way.shape
    try:
        model, precision = catalog.model(model_name), catalog.precision(precision_name)
    except UnknownName:
        return None
    length = deployment.spec.engine.max_model_length or min(model.context_length, _LONGEST)
    nodes = int(workload.option.get("nodes", 1))
    network = pool.network if nodes > 1 else None
    shape = ReplicaShape(
        model, precision, pool.gpu, Parallelism(tensor, pipeline), length, nodes=nodes, network=network
    )
    return speeds.of(shape)
