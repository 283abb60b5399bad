"""How fast a model variant runs on a GPU with a parallelism: memory, steps, queueing, and the rate that targets allow.

Pure: catalog facts in, figures out. The seam for measured models is `StepModel`.
"""

from plimsoll.performance.capacity import (
    Capacity,
    Prediction,
    candidate_batches,
    capacities,
    capacity,
    predict,
)
from plimsoll.performance.coefficients import Coefficients
from plimsoll.performance.loading import load_seconds
from plimsoll.performance.memory import MemoryFit, memory_fit
from plimsoll.performance.shapes import (
    FloatArray,
    LatencyTarget,
    LatencyTargets,
    Parallelism,
    ReplicaShape,
    TokenLengths,
    parallelism_problem,
)
from plimsoll.performance.steps import RooflineSteps, StepModel
from plimsoll.performance.weights import checkpoint_bytes

__all__ = [
    "Capacity",
    "Coefficients",
    "FloatArray",
    "LatencyTarget",
    "LatencyTargets",
    "MemoryFit",
    "Parallelism",
    "Prediction",
    "ReplicaShape",
    "RooflineSteps",
    "StepModel",
    "TokenLengths",
    "candidate_batches",
    "capacities",
    "capacity",
    "checkpoint_bytes",
    "load_seconds",
    "memory_fit",
    "parallelism_problem",
    "predict",
]
