"""Plimsoll's allocation in another program: one deployment, two classes, two pools. Run: `python allocate.py`."""

from dataclasses import replace

from plimsoll.allocation import ProblemBuilder, alternatives, check, solve_adaptive, with_headroom

b = ProblemBuilder(budget_per_hour=100.0)
h100, l40s = b.pool(nodes=[8, 8]), b.pool(nodes=[4, 4])  # free GPUs per node
chat = b.deployment(max_replicas=50)
large = b.add_option(h100, price_per_hour=5.0, gpus=2, deployment=chat, capacity=0.85)
small = b.add_option(l40s, price_per_hour=1.1, gpus=1, deployment=chat, capacity=0.85)
# Load: replicas' time that the whole class takes = its rate / the highest rate of one replica within the objectives.
turns = b.add_class({large: 2.5, small: 6.0}, rate_per_hour=36_000, deployment=chat)
documents = b.add_class({large: 1.2}, rate_per_hour=1_200, deployment=chat)  # the small GPU misses its objective
problem = b.build()
names = {large: "large on h100", small: "small on l40s"}

solution = solve_adaptive(problem)
allocation = solution.allocation
assert not check(problem, allocation)
print(f"{allocation.cost.total:.2f} per hour; a better answer could save {solution.gap:.1%} at most")
for option, count in enumerate(allocation.replicas.tolist()):
    print(f"  {count} × {names[option]}")

print("Why not otherwise:")
for number, others in zip(("turns", "documents"), alternatives(problem, allocation), strict=True):
    for other in others:
        print(f"  {number} wholly on {names[other.option]}: {other.reason}, {other.extra_cost_per_hour:+.2f} per hour")

sturdy = solve_adaptive(with_headroom(problem, demand=0.2)).allocation
print(f"With room for 20 % more demand: {sturdy.cost.rental:.2f} per hour, replicas {sturdy.replicas.tolist()}")

cheaper = replace(problem, option_price_per_hour=problem.option_price_per_hour * [0.4, 1.0])
print(f"Were h100 at 40 % of its price: replicas {solve_adaptive(cheaper).allocation.replicas.tolist()}")
