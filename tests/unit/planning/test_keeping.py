"""What runs and is still what people ask for stays, although today another choice, or another name, would be made."""

from plimsoll import __version__
from plimsoll.planning import Evaluator, plan_fleet
from plimsoll.planning.digest import inputs_digest
from plimsoll.planning.renewal import RENEW
from tests.unit.planning.fleets import (
    applied,
    deployment,
    exchanged,
    nodes,
    objective,
    plan,
    plan_of,
    policy,
    pool,
    replicas,
    snapshot,
)


def test_a_batch_limit_that_would_not_be_chosen_any_more_moves_nothing_that_serves_as_well():
    strict = snapshot(pool(), objective(tpot=80), deployment(slo="interactive"), nodes=nodes(8))
    running = plan(strict)
    relaxed = exchanged(applied(strict, running), objective(tpot=100))
    anew = plan(snapshot(pool(), objective(tpot=100), deployment(slo="interactive"), nodes=nodes(8)))
    batch = plan_of(anew).placements[0].option.max_num_seqs
    assert batch != plan_of(running).placements[0].option.max_num_seqs, "the objective should matter here"
    assert replicas(plan(relaxed)) == replicas(running)


def test_what_is_remembered_of_a_round_does_not_hide_what_runs():
    evaluator = Evaluator()
    strict = snapshot(pool(), objective(tpot=80), deployment(slo="interactive"), nodes=nodes(8))
    running = plan_fleet(strict, evaluator)
    relaxed = exchanged(strict, objective(tpot=100))
    plan_fleet(relaxed, evaluator)
    assert replicas(plan_fleet(exchanged(applied(strict, running), objective(tpot=100)), evaluator)) == replicas(
        running
    )


def test_the_wish_for_renewal_is_an_input_of_the_plan_and_one_for_another_release_is_not():
    def with_annotation(value: str):
        plain = deployment()
        metadata = plain.metadata.model_copy(update={"annotations": {RENEW: value}})
        return snapshot(pool(), policy(), plain.model_copy(update={"metadata": metadata}), nodes=nodes(1))

    usual = inputs_digest(snapshot(pool(), policy(), deployment(), nodes=nodes(1)))
    assert inputs_digest(with_annotation(__version__)) != usual
    assert inputs_digest(with_annotation("0.0.1")) == usual
