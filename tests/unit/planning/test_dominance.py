"""Options that another option of their pool beats for every class are left out, and nothing else."""

from types import SimpleNamespace

import pytest

from plimsoll.performance import Parallelism
from plimsoll.planning.dominance import Offering, beaten, option_key


def offering(pool="l40s", tensor=1, batch=8, errors=None, delay=1.0, **rates):
    option = SimpleNamespace(
        model="m",
        precision="bf16",
        pool=pool,
        parallelism=Parallelism(tensor, 1),
        max_num_seqs=batch,
        nodes=1,
        gpus_per_pod=tensor,
    )
    unloaded = SimpleNamespace(mean_end_to_end_seconds=delay)
    capacities = {name: SimpleNamespace(max_rate_per_second=rate, unloaded=unloaded) for name, rate in rates.items()}
    return Offering(None, option, capacities, errors or dict.fromkeys(rates, 0.0))


def classes(*names, penalty=0):
    slo = SimpleNamespace(latency_penalty_per_thousand_request_seconds=penalty)
    return [SimpleNamespace(declared=SimpleNamespace(name=name), slo=slo) for name in names]


def left(offerings, names=("chat",), *, penalty=0, whole_replicas=False):
    lost = beaten(offerings, classes(*names, penalty=penalty), whole_replicas=whole_replicas)
    return [number for number, item in enumerate(offerings) if option_key(item.option) not in lost]


def test_two_small_replicas_beat_a_large_one_that_serves_no_more():
    assert left([offering(tensor=2, chat=2.0), offering(tensor=1, chat=1.0)]) == [1]


def test_a_large_replica_that_serves_more_stays():
    assert left([offering(tensor=2, chat=2.1), offering(tensor=1, chat=1.0)]) == [0, 1]


def test_small_replicas_do_not_stand_for_a_large_one_where_their_number_is_limited():
    assert left([offering(tensor=2, chat=2.0), offering(tensor=1, chat=1.0)], whole_replicas=True) == [0, 1]


def test_options_of_other_pools_are_not_compared():
    assert left([offering(pool="l40s", chat=1.0), offering(pool="h100", chat=9.0)]) == [0, 1]


def test_an_option_that_alone_serves_some_class_stays():
    assert left([offering(chat=2.0), offering(chat=1.0, report=1.0)], ("chat", "report")) == [0, 1]


def test_a_smaller_task_error_keeps_a_slower_option():
    worse, better = offering(chat=2.0, errors={"chat": 0.2}), offering(chat=1.0, errors={"chat": 0.1})
    assert left([worse, better]) == [0, 1]


@pytest.mark.parametrize(("penalty", "kept"), [(0, [0]), (1, [0, 1])])
def test_a_shorter_delay_counts_where_latency_costs_money(penalty, kept):
    assert left([offering(chat=2.0, delay=2.0), offering(chat=1.0, delay=1.0, batch=16)], penalty=penalty) == kept


def test_of_equal_options_the_first_stays():
    assert left([offering(chat=1.0), offering(chat=1.0, batch=16)]) == [0]
