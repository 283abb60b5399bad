"""Speed and quality of the planner and the operator; not part of the shipped wheel."""
