"""Snapshot → placement plan → transition. Pure: values in, values out."""

from plimsoll.planning.decide import PlanRejectedError
from plimsoll.planning.evaluate import Evaluator
from plimsoll.planning.planner import plan_fleet
from plimsoll.planning.transition import step_for

__all__ = ["Evaluator", "PlanRejectedError", "plan_fleet", "step_for"]
