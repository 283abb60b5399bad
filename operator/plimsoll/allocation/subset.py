"""A part of a problem: some deployments, while all others keep what an answer gives them."""

from dataclasses import dataclass, replace

import numpy as np

from plimsoll.allocation.evaluate import cost_of, stored_gigabytes
from plimsoll.allocation.limits import of_options, use_of
from plimsoll.allocation.problem import Allocation, AllocationProblem, Bools, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Subset:
    """The problem of the chosen deployments, beside the others' replicas; their running replicas are the answer's."""

    problem: AllocationProblem
    _whole: AllocationProblem
    _answer: Allocation
    _classes: Ints
    _options: Ints
    _pairs: Ints

    def merged(self, part: Allocation) -> Allocation:
        """The whole answer with the chosen deployments' part replaced."""
        answer = self._answer
        replicas, share, unserved = answer.replicas.copy(), answer.share.copy(), answer.unserved.copy()
        replicas[self._options] = part.replicas
        share[self._pairs] = part.share
        unserved[self._classes] = part.unserved
        others = answer.packing[~np.isin(answer.packing[:, 0], self._options)]
        own = part.packing.copy()
        own[:, 0] = self._options[own[:, 0]]
        packing = np.concatenate([others, own])
        packing = packing[np.lexsort((packing[:, 1], packing[:, 0]))]
        return Allocation(replicas, share, unserved, packing, cost_of(self._whole, replicas, share, unserved))


def subset(problem: AllocationProblem, answer: Allocation, chosen: Bools) -> Subset:
    """The part of `problem` that belongs to the chosen deployments (mask, D), once `answer` has been applied."""
    classes = np.flatnonzero(chosen[problem.class_deployment])
    options = np.flatnonzero(chosen[problem.option_deployment])
    pairs = np.flatnonzero(chosen[problem.class_deployment[problem.pair_class]])
    own = np.isin(answer.packing[:, 0], options)
    others = answer.packing[~own]
    free = problem.node_free.copy()
    np.subtract.at(free, others[:, 1], problem.option_demand[others[:, 0]] * others[:, 2:3])
    left_out = answer.replicas.copy()
    left_out[options] = 0
    left_out_share = answer.share.copy()
    left_out_share[pairs] = 0.0
    left_out_cost = cost_of(problem, left_out, left_out_share, np.zeros(problem.classes))
    gpus = np.bincount(problem.option_pool, left_out * problem.replica_gpus(), minlength=len(problem.pool_gpu_limit))
    class_number = np.searchsorted(classes, problem.pair_class[pairs])
    option_number = np.searchsorted(options, problem.pair_option[pairs])
    part = replace(
        problem,
        **{name: getattr(problem, name)[classes] for name in problem.__slots__ if name.startswith("class_")},
        **{name: getattr(problem, name)[options] for name in problem.__slots__ if name.startswith("option_")},
        pair_class=class_number,
        pair_option=option_number,
        pair_load=problem.pair_load[pairs],
        pair_delay_seconds=problem.pair_delay_seconds[pairs],
        pair_error=problem.pair_error[pairs],
        pair_storage_cost_per_hour=problem.pair_storage_cost_per_hour[pairs],
        node_free=np.maximum(free, 0.0),
        pool_gpu_limit=np.maximum(problem.pool_gpu_limit - gpus, 0.0),
        limit_capacity=np.maximum(problem.limit_capacity - use_of(problem, left_out), 0.0),
        **of_options(problem, options),
        running=_running(answer, options, problem.option_nodes),
        budget_per_hour=problem.budget_per_hour - left_out_cost.spending,
        storage_limit_gigabytes=problem.storage_limit_gigabytes - stored_gigabytes(problem, left_out),
    )
    return Subset(part, problem, answer, classes, options, pairs)


def _running(answer: Allocation, options: Ints, pieces: Ints) -> Ints:
    """Running rows (T, 3) of the chosen options once the answer is applied; node -1 where the stock is not known."""
    rows = answer.packing[np.isin(answer.packing[:, 0], options)]
    packed = np.zeros(len(answer.replicas), dtype=np.int64)
    np.add.at(packed, rows[:, 0], rows[:, 2])
    rest = answer.replicas[options] * pieces[options] - packed[options]
    unknown = np.array([(options[number], -1, rest[number]) for number in np.flatnonzero(rest > 0)], dtype=np.int64)
    running = np.concatenate([rows, unknown.reshape(-1, 3)])
    running[:, 0] = np.searchsorted(options, running[:, 0])
    return running
