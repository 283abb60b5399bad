"""Which options serve which traffic, in how many replicas: the allocation problem, its solvers and its checker.

A public library that needs numpy and HiGHS only; nothing in it knows Kubernetes, a network or a clock. Write a problem
with `ProblemBuilder` (or fill `AllocationProblem`'s arrays), solve it, check the answer:

>>> from plimsoll.allocation import ProblemBuilder, check, solve_adaptive
>>> b = ProblemBuilder()
>>> large, small = b.pool(nodes=[8, 2]), b.pool(nodes=[4])  # free GPUs per node
>>> chat = b.deployment(max_replicas=100)
>>> fast = b.add_option(large, price_per_hour=5.0, gpus=2, deployment=chat, capacity=0.85)
>>> cheap = b.add_option(small, price_per_hour=1.1, gpus=1, deployment=chat, capacity=0.85)
>>> turns = b.add_class({fast: 2.5, cheap: 6.0}, rate_per_hour=36_000, deployment=chat)
>>> problem = b.build()
>>> solution = solve_adaptive(problem)
>>> allocation = solution.allocation
>>> allocation.replicas.tolist(), float(allocation.share.sum())
([2, 3], 1.0)
>>> round(allocation.cost.total, 2), solution.gap < 0.1
(13.3, True)
>>> allocation.packing.tolist()  # option, node, pieces
[[0, 0, 1], [0, 1, 1], [1, 2, 3]]
>>> check(problem, allocation)
()

The solvers: `solve_greedy` (GH: one pass, milliseconds), `solve_agh` (AGH: many starts and local search),
`solve_adaptive` (the production default: AGH or a decomposition by deployment, then a search with exact parts, and a
lower bound) and `solve_exact` (mixed-integer program with bound and gap). `route` finds the best shares for given
replicas, `with_headroom` tightens a problem so that its answer stands disturbance, `stressed` disturbs it.
docs/allocation.md tells more.
"""

from plimsoll.allocation.adaptive import solve_adaptive
from plimsoll.allocation.bound import lower_bound
from plimsoll.allocation.builder import ProblemBuilder
from plimsoll.allocation.check import Violation, check
from plimsoll.allocation.decomposition import Memory
from plimsoll.allocation.evaluate import cost_of
from plimsoll.allocation.exact import solve_exact
from plimsoll.allocation.explain import alternatives, full_pools, room, with_node, worth
from plimsoll.allocation.greedy import solve as solve_greedy
from plimsoll.allocation.limits import Limit, limited
from plimsoll.allocation.paper import PaperInstance, from_paper_instance
from plimsoll.allocation.problem import Allocation, AllocationProblem, Cost, Solution
from plimsoll.allocation.robust import priced, restage, shed, stressed, with_headroom
from plimsoll.allocation.routing import route
from plimsoll.allocation.search import solve_agh
from plimsoll.allocation.subset import Subset, subset
from plimsoll.allocation.validate import validate

__all__ = [
    "Allocation",
    "AllocationProblem",
    "Cost",
    "Limit",
    "Memory",
    "PaperInstance",
    "ProblemBuilder",
    "Solution",
    "Subset",
    "Violation",
    "alternatives",
    "check",
    "cost_of",
    "from_paper_instance",
    "full_pools",
    "limited",
    "lower_bound",
    "priced",
    "restage",
    "room",
    "route",
    "shed",
    "solve_adaptive",
    "solve_agh",
    "solve_exact",
    "solve_greedy",
    "stressed",
    "subset",
    "validate",
    "with_headroom",
    "with_node",
    "worth",
]
