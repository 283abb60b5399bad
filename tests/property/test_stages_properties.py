"""Changes in stages on a cluster of bare numbers: always served as promised, never over the limit, always at an end."""

from dataclasses import dataclass, field, replace
from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.performance import Parallelism
from plimsoll.planning import step_for
from plimsoll.planning.plan import (
    ClassPlan,
    ClassRate,
    DeploymentPlan,
    DeploymentState,
    HostDemand,
    InPlace,
    Option,
    Placement,
    Room,
    RunningRates,
    Share,
)
from plimsoll.planning.shortlist import USABLE_TIME
from plimsoll.planning.snapshot import Made, Workload
from plimsoll.planning.stages import allows, stage_for
from plimsoll.planning.transition import ObservedRouting, RoutingTable
from tests.unit.planning.fleets import deployment, traffic

PROPAGATION_SECONDS = 10.0
HEADROOM = 0.1
TURNS = 400


def option(gpus: int) -> Option:
    return Option(
        model="meta-llama/Llama-3.1-8B-Instruct",
        precision="bf16",
        checkpoint="meta-llama/Llama-3.1-8B-Instruct",
        pool="l40s",
        parallelism=Parallelism(gpus, 1),
        max_num_seqs=64,
        max_model_length=16384,
        image="vllm/vllm-openai",
        gpu_resource="nvidia.com/gpu",
        engine_args=(),
        host=HostDemand(2, 9 * 2**30, 2**30),
        load_seconds=60,
        gated=True,
    )


@dataclass
class Replica:
    """A pod that holds GPUs."""

    left: int
    """Turns until it is Ready."""
    going: int = 0
    """Turns that it still holds its GPUs, once it was asked to go."""


@dataclass
class World:
    """One LLMDeployment that changes from `old` to `new`, each replica able to take `rate[name]` requests."""

    old: int
    new: int
    gpus: dict[str, int]
    rates: dict[str, float]
    demand: float
    limit: float
    free: int
    """GPUs beyond those that run at the start."""
    surge: float | None
    shift: float
    pods: dict[str, list[Replica]] = field(default_factory=dict)
    gone: list[tuple[str, Replica]] = field(default_factory=list)
    routing: RoutingTable | None = None
    age: float = 1e6
    most: int = 0

    def __post_init__(self) -> None:
        self.pods["old"] = [Replica(0) for _ in range(self.old)]
        self.total = self.old * self.gpus["old"] + self.free
        whole = replace(self.plan(), placements=(self.placement("old", self.old),), in_place=None)
        self.routing = step_for(whole, self.workloads(), None, PROPAGATION_SECONDS).routing

    def placement(self, name: str, replicas: int) -> Placement:
        used = USABLE_TIME * self.demand * (1 + HEADROOM) / (replicas * self.rates[name])
        return Placement(name, option(self.gpus[name]), replicas, (Share("default", 1.0),), 1.0, used, "")

    def held(self) -> int:
        kept = [(name, pod) for name, own in self.pods.items() for pod in own]
        return sum(self.gpus[name] for name, _ in (*kept, *self.gone))

    def plan(self) -> DeploymentPlan:
        resource = deployment(traffic=[traffic(rate=max(1, round(self.demand)))])
        figures = ClassPlan("default", self.demand, 0.0, (), (), HEADROOM, self.limit)
        rates = tuple(RunningRates(name, (ClassRate("default", rate),)) for name, rate in self.rates.items())
        fits = self.surge is not None or self.new * self.gpus["new"] <= self.free
        room = min(self.new, max(0, self.total - self.held()) // self.gpus["new"])
        in_place = None if fits else InPlace(0.25, (Room("new", room),), len(self.gone))
        new = (self.placement("new", self.new),)
        return DeploymentPlan(resource, DeploymentState.PLANNED, new, (figures,), (), 0.0, in_place, rates)

    def workloads(self) -> list[Workload]:
        made = Made("0", "", "image", "checkpoint", 2.0, 9 * 2**30)
        return [
            Workload(
                "chat",
                name,
                name,
                "assistant",
                len(own),
                sum(pod.left == 0 for pod in own),
                {"tensor": str(self.gpus[name]), "pipeline": "1", "max-num-seqs": "64", "pool": "l40s"},
                made,
            )
            for name, own in self.pods.items()
        ]

    def turn(self, stop: int) -> None:
        """One turn of an operator that is killed after so many of its actions."""
        plan, workloads = self.plan(), self.workloads()
        if plan.in_place is not None and allows(plan, workloads):
            plan = replace(plan, state=DeploymentState.SHORT, placements=())
        observed = None if self.routing is None else ObservedRouting(self.routing, self.age)
        stage = stage_for(plan, workloads, self.surge)
        step = step_for(stage.plan, workloads, observed, PROPAGATION_SECONDS, max_shift=self.shift)
        for number, (name, count) in enumerate([*step.replicas.items(), ("", 0), *((name, 0) for name in step.prune)]):
            if number == stop:
                break
            if not name:
                if step.routing != self.routing:
                    self.routing, self.age = step.routing, 0.0
            elif number > len(step.replicas):
                self.gone += [(name, Replica(0, 2)) for _ in self.pods.pop(name)]
            else:
                self.scale(name, count)
        self.most = max(self.most, self.held())
        self.age += 5.0
        self.gone = [(name, replace(pod, going=pod.going - 1)) for name, pod in self.gone if pod.going > 1]
        for own in self.pods.values():
            for pod in own:
                pod.left = max(0, pod.left - 1)

    def scale(self, name: str, count: int) -> None:
        own = self.pods.setdefault(name, [])
        own.sort(key=lambda pod: pod.left)
        self.gone += [(name, Replica(0, 2)) for _ in own[count:]]
        del own[count:]
        own.extend(Replica(3) for _ in range(count - len(own)))

    def able(self) -> float:
        """Requests per minute that Ready replicas of routed placements can take."""
        assert self.routing is not None
        routed = {backend.placement for item in self.routing.classes for backend in item.backends}
        return sum(
            sum(pod.left == 0 for pod in own) * self.rates[name] for name, own in self.pods.items() if name in routed
        )

    def at_rest(self) -> bool:
        own = self.pods.get("new", [])
        return self.pods.keys() == {"new"} and len(own) == self.new and all(pod.left == 0 for pod in own)


@st.composite
def worlds(draw: st.DrawFn, *, in_place: bool) -> World:
    old, new = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    gpus = {"old": draw(st.sampled_from([1, 2, 4])), "new": 1}
    gpus["new"] = draw(st.sampled_from([size for size in (1, 2, 4) if not in_place or size <= gpus["old"]]))
    demand = 1000.0
    planned = demand * (1 + HEADROOM)
    free = draw(st.integers(0, 2)) if in_place else 100
    new = min(new, (old * gpus["old"] + free) // gpus["new"])
    slack = st.floats(1.0, 1.6)
    new = max(1, new)
    rates = {"old": planned / old * draw(slack), "new": planned / new * draw(slack)}
    surge = None if in_place else draw(st.floats(0.0, 1.0))
    limit = draw(st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0])) if in_place else 0.0
    return World(old, new, gpus, rates, demand, limit, free, surge, draw(st.sampled_from([0.25, 0.5, 1.0])))


def run(world: World, stops: list[int], least: float) -> bool:
    """Whether it comes to rest; `least` requests per minute must be served at every moment."""
    for number in range(TURNS):
        world.turn(stops[number] if number < len(stops) else 10_000)
        assert world.able() >= least - 1e-6, (world.able(), world.pods)
        if world.at_rest() and world.age > 2 * PROPAGATION_SECONDS:
            return True
    return False


@given(worlds(in_place=False), st.lists(st.integers(0, 3), max_size=60))
@settings(max_examples=25, deadline=None)
def test_under_a_surge_limit_all_is_served_and_the_limit_holds(world, stops):
    planned = world.demand * (1 + HEADROOM)
    base = max(world.new * world.gpus["new"], world.old * world.gpus["old"])
    most = max(
        ceil(base * (1 + world.surge) - 1e-6),
        # One new replica may always start beside what cannot go yet.
        world.old * world.gpus["old"] + world.gpus["new"],
        base + world.gpus["new"],
    )
    assert run(world, stops, planned)
    gone = 2 * world.old * world.gpus["old"]  # pods that go hold their GPUs for two turns
    assert world.most <= most + gone
    assert world.most - gone <= most


@given(worlds(in_place=True), st.lists(st.integers(0, 3), max_size=60))
@settings(max_examples=40, deadline=None)
def test_in_place_no_more_is_missing_than_the_slo_allows(world, stops):
    begins = not allows(world.plan(), world.workloads()) if world.plan().in_place is not None else True
    before = {name: len(own) for name, own in world.pods.items()}
    ended = run(world, stops, world.demand * (1 - world.limit))
    assert world.most <= world.total
    if begins:
        assert ended, (world.pods, world.routing)
    else:
        assert {name: len(own) for name, own in world.pods.items()} == before
