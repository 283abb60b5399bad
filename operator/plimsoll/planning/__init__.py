"""Snapshot → placement plan → transition. Pure: values in, values out."""

from plimsoll.planning.chain_transition import step_for
from plimsoll.planning.decide import PlanRejectedError
from plimsoll.planning.evaluate import Evaluator
from plimsoll.planning.planner import plan_fleet

__all__ = ["Evaluator", "PlanRejectedError", "plan_fleet", "step_for"]
