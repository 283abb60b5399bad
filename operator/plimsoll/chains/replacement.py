"""When servers join, leave or slow down: whether blocks move, which, and in which order.

Loading blocks takes a server out for minutes. So a running server moves only if the mean response falls by more than a
threshold, and if what is saved over a horizon exceeds what is lost while servers load; it moves in waves that leave
enough servers to carry the load. Servers that host nothing yet lose nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from plimsoll.chains.problem import ChainError, ChainProblem, Ints, Placement
from plimsoll.chains.repair import dealt_out, fill
from plimsoll.chains.search import MOVED_SHARE, OVERLOADED, QUALITY, Candidate, best_placement, few_moves, gains, scored

MOST_WAVES = 16


@dataclass(frozen=True, slots=True)
class MovePolicy:
    """What a move of running servers must be worth.

    Raises:
        ChainError: for values that make no sense.
    """

    quality: float = QUALITY
    """A placement that moves running servers must answer in this part of the present mean response at most. PETALS asks
    for 0.75 of the worst block's throughput."""
    horizon_seconds: float = 3600.0
    """Time over which a move has to pay."""
    load_bytes_per_second: float = 1e9
    start_seconds: float = 60.0
    """Of a server's process, beside loading."""
    moved_share: float = MOVED_SHARE
    """Of the servers, moved in a first repair; more where the load is not carried, and all by a new placement."""

    def __post_init__(self) -> None:
        if not 0 < self.quality <= 1:
            raise ChainError(f"quality is {self.quality}; it must be above 0 and at most 1")
        for name in ("horizon_seconds", "load_bytes_per_second"):
            if not getattr(self, name) > 0:
                raise ChainError(f"{name} is {getattr(self, name)}; it must be above 0")


@dataclass(frozen=True, slots=True, eq=False)
class Replacement:
    """What to run now."""

    placement: Placement
    name: str
    score: float
    """As `Candidate.score`, once everything is loaded."""
    present_score: float
    """Of what runs now; infinite when it has no route."""
    started: tuple[int, ...]
    """Servers that hosted nothing and now load blocks."""
    waves: tuple[tuple[int, ...], ...]
    """Running servers that load other blocks, wave after wave."""
    load_seconds: float
    """Of all waves together."""

    @property
    def moved(self) -> int:
        """Running servers that load other blocks."""
        return sum(map(len, self.waves))

    def stages(self, running: Placement) -> list[Placement]:
        """What is hosted or loads in each wave. Servers that host nothing load in the first, and are given up in the
        last."""
        now, found = running, list[Placement]()
        for wave in ((*self.started, *(self.waves[0] if self.waves else ())), *self.waves[1:]):
            first, count = now.first.copy(), now.count.copy()
            first[list(wave)], count[list(wave)] = self.placement.first[list(wave)], self.placement.count[list(wave)]
            now = Placement(first, count)
            found.append(now)
        return [*found[:-1], self.placement]


def surviving(running: Placement, kept: Ints) -> Placement:
    """The running placement in a new problem's numbers; `kept` (S): each server's old number, -1 for a new one."""
    fresh = kept < 0
    return Placement(np.where(fresh, 0, running.first[kept]), np.where(fresh, 0, running.count[kept]))


def replace_servers(
    problem: ChainProblem,
    running: Placement,
    arrivals_per_second: float,
    policy: MovePolicy = MovePolicy(),
    client: int = 0,
) -> Replacement | None:
    """What to run on the servers of a problem that run this already; None where no placement hosts all blocks.

    Tried in the order of how much they disturb: nothing, blocks for servers without any, a few moves, a new placement.
    """
    present = scored(problem, "as it runs", running, arrivals_per_second, client)
    chosen = None if present is None else _settled(problem, running, present, arrivals_per_second, policy, client)
    present_score = np.inf if present is None else present.score
    for candidate in _candidates(problem, running, arrivals_per_second, policy, client):
        option = _settled(problem, running, candidate, arrivals_per_second, policy, client)
        if chosen is None or _pays(option, chosen, policy):
            chosen = option
    if chosen is None:
        return None
    score, placement = chosen.candidate.score, chosen.candidate.placement
    started = np.flatnonzero((running.count == 0) & (placement.count > 0))
    return Replacement(
        placement=placement,
        name=chosen.candidate.name,
        score=score,
        present_score=float(present_score),
        started=tuple(started.tolist()),
        waves=chosen.waves,
        load_seconds=chosen.load_seconds,
    )


def _candidates(
    problem: ChainProblem, running: Placement, arrivals_per_second: float, policy: MovePolicy, client: int
) -> Iterator[Candidate]:
    like_others = fill(problem, running, like_others=True)
    found = scored(problem, "idle servers filled like others", like_others, arrivals_per_second, client)
    if found is not None:
        yield found
    placement = fill(problem, running)
    found = scored(problem, "idle servers filled", placement, arrivals_per_second, client)
    if found is not None:
        yield found
    yield from few_moves(problem, placement, arrivals_per_second, client, policy.moved_share)
    best = best_placement(problem, arrivals_per_second, client)
    if best is not None:
        near = scored(problem, best.name, dealt_out(problem, best.placement, running), arrivals_per_second, client)
        yield best if near is None or near.score > best.score / policy.quality else near


@dataclass(frozen=True, slots=True, eq=False)
class _Option:
    candidate: Candidate
    waves: tuple[tuple[int, ...], ...]
    load_seconds: float
    lost_seconds: float
    """Mean response while servers load, less that afterwards, times the seconds that it takes."""

    @property
    def hosting(self) -> int:
        """Servers with blocks."""
        return int(np.count_nonzero(self.candidate.placement.count))


def _settled(
    problem: ChainProblem,
    running: Placement,
    candidate: Candidate,
    arrivals_per_second: float,
    policy: MovePolicy,
    client: int,
) -> _Option:
    """A candidate with the fewest waves of moves that leave enough servers; all at once where no number does."""
    target = candidate.placement
    loading = _loaded_blocks(running, target)
    moved = np.flatnonzero((running.count > 0) & (loading > 0))
    if not len(moved):
        return _Option(candidate, (), 0.0, 0.0)
    seconds = policy.start_seconds + loading[moved] * (problem.block_bytes / policy.load_bytes_per_second)
    waves = 1
    while waves <= min(MOST_WAVES, len(moved)):
        parts = [moved[number::waves] for number in range(waves)]
        during = scored(problem, "", _without(running, parts[0]), arrivals_per_second, client)
        if during is not None and during.carries:
            load = float(sum(seconds[number::waves].max() for number in range(waves)))
            lost = load * max(0.0, during.score - candidate.score)
            return _Option(candidate, tuple(tuple(part.tolist()) for part in parts), load, lost)
        waves *= 2
    load = float(seconds.max())
    return _Option(candidate, (tuple(moved.tolist()),), load, np.inf)


def _loaded_blocks(running: Placement, target: Placement) -> Ints:
    """(S): blocks of the target that a server does not host yet. An engine loads its whole interval anew."""
    same = (running.first == target.first) & (running.count == target.count)
    return np.where(same, 0, target.count)


def _without(running: Placement, servers: Ints) -> Placement:
    count = running.count.copy()
    count[servers] = 0
    return Placement(running.first, count)


def _pays(option: _Option, chosen: _Option, policy: MovePolicy) -> bool:
    new, old = option.candidate.score, chosen.candidate.score
    if not option.waves:
        # The score does not see losses to come: on a tie whoever has nothing to do hosts blocks.
        return new < old or (new == old and option.hosting > chosen.hosting)
    if not gains(new, old, policy.quality):
        return False
    return old >= OVERLOADED or policy.horizon_seconds * (old - new) > option.lost_seconds
