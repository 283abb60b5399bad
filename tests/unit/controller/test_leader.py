"""Who leads: never two at once, whatever the clocks, the network and the scheduler do."""

import asyncio
import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.controller.client import ApiError
from plimsoll.controller.election_thread import ElectionThread
from plimsoll.controller.leader import Election
from plimsoll.controller.lease import Record, Step, Timing, decide, seen
from plimsoll.controller.metrics import Metrics


class Ended(BaseException):
    """What ending the process stands for."""


def end(reason):
    raise Ended(reason)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Leases:
    """One Lease, kept as an API server does: a write over an old version is refused."""

    def __init__(self):
        self.stored = None
        self.versions = itertools.count(1)
        self.fails = None
        self.loses_answers = False

    def _check(self):
        if self.fails:
            raise ApiError(self.fails, "Failed", "the API server fails")

    async def read(self, kind, namespace, name):  # noqa: ARG002
        self._check()
        return self.stored

    async def create(self, kind, manifest, manager):  # noqa: ARG002
        self._check()
        if self.stored is not None:
            raise ApiError(409, "AlreadyExists", "it exists")
        return self._store(manifest)

    async def replace(self, kind, manifest, manager):  # noqa: ARG002
        self._check()
        if self.stored is None:
            raise ApiError(404, "NotFound", "it is gone")
        if manifest["metadata"]["resourceVersion"] != self.stored["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        return self._store(manifest)

    def _store(self, manifest):
        metadata = {**manifest["metadata"], "uid": "u1", "resourceVersion": str(next(self.versions))}
        self.stored = {**manifest, "metadata": metadata}
        if self.loses_answers:
            raise ApiError(0, "Unreachable", "the connection was cut")
        return self.stored

    @property
    def holder(self):
        return (self.stored or {}).get("spec", {}).get("holderIdentity")

    @property
    def term(self):
        return self.stored["spec"]["leaseTransitions"]


def election(leases, name, clock):
    return Election(leases, "plimsoll-system", "plimsoll", name, Metrics(), end=end, clock=clock)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def leases():
    return Leases()


@pytest.fixture
def pair(leases, clock):
    return election(leases, "a", clock), election(leases, "b", clock)


def record(holder="a", term=3, age=0.0, now=1000.0):
    return Record(holder, term, 15.0, "7", now - age)


@pytest.mark.parametrize(
    ("known", "identity", "term", "step"),
    [
        (None, "a", None, Step.CREATE),
        (None, "a", 3, Step.CREATE),
        (record(), "a", 3, Step.RENEW),
        (record(), "b", None, Step.WAIT),
        (record(age=14.9), "b", None, Step.WAIT),
        (record(age=15), "b", None, Step.TAKE),
        (record(holder=""), "b", None, Step.TAKE),
        (record(holder="b"), "a", 3, Step.LOST),
        (record(term=4), "a", 3, Step.LOST),
        (record(holder=""), "a", 3, Step.LOST),
        (record(), "a", None, Step.TAKE),
    ],
)
def test_what_is_done_about_a_lease(known, identity, term, step):
    assert decide(known, identity, term, 1000.0) is step


def test_a_lease_is_as_old_as_its_last_change_was_seen_whatever_times_it_states():
    manifest = {
        "metadata": {"resourceVersion": "1"},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "1999-01-01T00:00:00.000000Z"},
    }
    first = seen(None, manifest, 50.0)
    assert seen(first, manifest, 60.0).seen_at == 50.0
    changed = {**manifest, "metadata": {"resourceVersion": "2"}}
    assert seen(first, changed, 60.0).seen_at == 60.0


async def test_the_first_one_leads_and_the_second_waits(pair, leases):
    first, second = pair
    await first.turn()
    await second.turn()
    assert (first.holds(), second.holds(), leases.holder, leases.term) == (True, False, "a", 0)
    first.check()
    with pytest.raises(ApiError, match="does not lead"):
        second.check()


async def test_a_lease_that_is_renewed_is_never_taken(pair, clock):
    first, second = pair
    for _ in range(50):
        await first.turn()
        await second.turn()
        clock.now += 2
    assert first.holds()
    assert not second.holds()


async def test_a_lease_that_nobody_renews_is_taken_after_its_time_and_the_change_is_counted(pair, leases, clock):
    first, second = pair
    await first.turn()
    await second.turn()
    clock.now += 14.9
    await second.turn()
    assert not second.holds()
    clock.now += 0.1
    await second.turn()
    assert (second.holds(), leases.holder, leases.term) == (True, "b", 1)
    await second.turn()
    assert leases.term == 1, "a renewal is no change of hands"


async def test_the_old_leader_has_given_up_before_the_new_one_may_begin(pair, clock):
    first, second = pair
    await first.turn()
    await second.turn()
    clock.now += 10.1
    await second.turn()
    assert not second.holds()
    with pytest.raises(Ended):
        first.check()


async def test_a_leader_that_wakes_after_its_lease_ends_before_it_writes(pair, clock):
    first, second = pair
    await first.turn()
    await second.turn()
    clock.now += 60
    await second.turn()
    assert second.holds()
    with pytest.raises(Ended, match="another operator may lead"):
        first.check()
    with pytest.raises(Ended):
        await first.turn()
    assert second.holds()


async def test_a_leader_whose_lease_was_taken_ends_at_its_next_renewal(pair, leases, clock):
    first, _ = pair
    await first.turn()
    stolen = {**leases.stored["spec"], "holderIdentity": "somebody"}
    leases.stored = {"metadata": {**leases.stored["metadata"], "resourceVersion": "99"}, "spec": stolen}
    with pytest.raises(Ended, match="another operator leads: somebody"):
        await first.turn()


async def test_an_api_server_that_is_away_for_a_moment_costs_no_leadership(pair, leases, clock):
    first, _ = pair
    await first.turn()
    leases.fails = 503
    for _ in range(4):
        clock.now += 2
        await first.turn()
    leases.fails = None
    await first.turn()
    assert first.holds()
    clock.now += 9
    assert first.holds()


async def test_an_api_server_that_stays_away_ends_the_leader_in_time(pair, leases, clock):
    first, _ = pair
    await first.turn()
    leases.fails = 503
    clock.now += 10
    with pytest.raises(Ended):
        await first.turn()


async def test_a_renewal_whose_answer_is_lost_is_recognised_as_its_own(pair, leases, clock):
    first, _ = pair
    await first.turn()
    leases.loses_answers = True
    clock.now += 2
    await first.turn()
    leases.loses_answers = False
    clock.now += 2
    await first.turn()
    clock.now += 9
    assert first.holds()


async def test_a_candidate_whose_taking_lost_its_answer_leads_from_the_next_turn_on(pair, leases):
    first, _ = pair
    leases.loses_answers = True
    await first.turn()
    assert not first.holds()
    leases.loses_answers = False
    await first.turn()
    assert (first.holds(), leases.holder) == (True, "a")


async def test_a_released_lease_is_taken_at_once(pair, leases):
    first, second = pair
    await first.turn()
    await second.turn()
    await first.release()
    assert leases.holder is None
    with pytest.raises(ApiError):
        first.check()
    await second.turn()
    assert (second.holds(), leases.term) == (True, 1)


async def test_a_lease_that_another_holds_by_now_is_not_released(pair, leases, clock):
    first, second = pair
    await first.turn()
    await second.turn()
    clock.now += 60
    await second.turn()
    await first.release()
    assert leases.holder == "b"


async def test_the_next_process_of_the_same_pod_leads_at_once_and_the_one_before_is_out(pair, leases, clock):
    first, _ = pair
    await first.turn()
    again = election(leases, "a", clock)
    await again.turn()
    assert (again.holds(), again.term) == (True, 1)
    with pytest.raises(Ended):
        await first.turn()


async def test_a_lease_that_a_person_deletes_is_made_again_with_a_higher_term(pair, leases):
    first, _ = pair
    await first.turn()
    leases.stored = None
    await first.turn()
    assert (first.holds(), first.term, leases.term) == (True, 1, 1)


async def test_what_people_write_on_the_lease_stays(pair, leases):
    first, _ = pair
    await first.turn()
    leases.stored["metadata"]["annotations"] = {"example.com/note": "ours"}
    leases.stored["metadata"]["resourceVersion"] = "77"
    await first.turn()
    assert first.holds()
    assert leases.stored["metadata"]["annotations"] == {"example.com/note": "ours"}


async def test_a_process_that_may_not_read_the_lease_does_not_count_as_ready(pair, leases):
    first, _ = pair
    leases.fails = 403
    await first.turn()
    assert not first.known.is_set()
    leases.fails = None
    await first.turn()
    assert first.known.is_set()


async def test_winning_wakes_who_waits_for_it(pair, clock):
    first, second = pair
    waiting = asyncio.create_task(second.won.wait())
    await first.turn()
    await second.turn()
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.now += 1
    await first.release()
    await second.turn()
    await asyncio.wait_for(waiting, 1)


# --- Whatever happens ------------------------------------------------------------------------------------------------

SECONDS = st.sampled_from([0.0, 0.0, 0.0, 2.0, 9.0, 15.5])
"""Of the length of what matters: a retry, the deadline, the Lease."""
MOVES = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["turn", "turn", "fail", "lose", "restart", "release"]), SECONDS),
    min_size=20,
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(MOVES)
def test_two_never_hold_the_lease_at_the_same_time(moves):
    asyncio.run(play(moves))


async def play(moves):
    """Three processes take turns in any order; in between any time passes, so each may be frozen for long."""
    leases, clock = Leases(), Clock()
    names = "abc"
    runs = [election(leases, name, clock) for name in names]
    terms = []
    for number, move, seconds in moves:
        leases.fails, leases.loses_answers = (500 if move == "fail" else None), move == "lose"
        try:
            if move == "release":
                await runs[number].release()
            elif move == "restart":
                runs[number] = election(leases, names[number], clock)
            else:
                await runs[number].turn()
        except Ended:
            runs[number] = election(leases, names[number], clock)
        clock.now += seconds
        assert sum(run.holds() for run in runs) <= 1
        if leases.stored is not None:
            terms.append(leases.term)
    assert terms == sorted(terms)


class Wire:
    """One process's way to the Lease, on which a write can be held up before it arrives or before its answer does."""

    def __init__(self, leases):
        self.leases = leases
        self.hold = ""
        self.waiting = None

    async def pause(self, where):
        if self.hold == where:
            self.waiting = asyncio.get_running_loop().create_future()
            await self.waiting

    async def read(self, *arguments):
        return await self.leases.read(*arguments)

    async def create(self, *arguments):
        await self.pause("request")
        answer = await self.leases.create(*arguments)
        await self.pause("answer")
        return answer

    async def replace(self, *arguments):
        await self.pause("request")
        answer = await self.leases.replace(*arguments)
        await self.pause("answer")
        return answer


class Process:
    """An election whose turns can be held up for any time; it starts anew where it ends."""

    def __init__(self, leases, name, clock):
        self.leases, self.name, self.clock = leases, name, clock
        self.task = None
        self.begin()

    def begin(self):
        self.wire = Wire(self.leases)
        self.election = election(self.wire, self.name, self.clock)

    async def go_on(self, hold):
        """Take a turn, or go on with the one that is held up."""
        self.wire.hold = hold
        if self.task is None:
            self.task = asyncio.create_task(self.election.turn())
        elif self.wire.waiting is not None and not self.wire.waiting.done():
            self.wire.waiting.set_result(None)
        for _ in range(20):
            await asyncio.sleep(0)
        if self.task.done():
            task, self.task = self.task, None
            if isinstance(task.exception(), Ended):
                self.begin()

    def may_write(self):
        try:
            self.election.check()
        except (ApiError, Ended):
            return False
        return True


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["", "", "request", "answer"]), SECONDS), min_size=20, max_size=60
    )
)
def test_two_may_never_write_at_the_same_time_although_requests_take_any_time(moves):
    asyncio.run(interleave(moves))


async def interleave(moves):
    leases, clock = Leases(), Clock()
    processes = [Process(leases, name, clock) for name in "ab"]
    for number, hold, seconds in moves:
        await processes[number].go_on(hold)
        clock.now += seconds
        assert sum(process.may_write() for process in processes) <= 1
    for process in processes:
        if process.task is not None:
            process.task.cancel()
            await asyncio.gather(process.task, return_exceptions=True)


async def test_a_busy_event_loop_does_not_hold_up_a_renewal():
    leases, timing = Leases(), Timing(lease_seconds=0.6, renew_deadline_seconds=0.4, retry_seconds=0.1)

    async def make(stack):
        return Election(leases, "plimsoll-system", "plimsoll", "a", Metrics(), end=end, timing=timing)

    async with ElectionThread(make) as apart:
        keeping = asyncio.create_task(apart.run())
        await asyncio.wait_for(apart.won.wait(), 10)
        assert apart.known.is_set()
        time.sleep(1.5)  # noqa: ASYNC251  (the point of it)
        apart.check()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await apart.release()
        assert leases.holder is None
        with pytest.raises(ApiError, match="does not lead"):
            apart.check()


async def test_what_keeps_an_election_from_beginning_is_raised():
    async def make(stack):
        raise ApiError(0, "NoCredentials", "no way to log in")

    with pytest.raises(ApiError, match="no way to log in"):
        async with ElectionThread(make):
            pass
