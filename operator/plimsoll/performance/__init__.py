"""How fast a model variant runs on a GPU with a parallelism: memory, steps, queueing, and the rate that targets allow.

Pure: catalog facts in, figures out. The seam for measured models is `StepModel`.
"""

from plimsoll.performance.arrivals import POISSON, Arrivals
from plimsoll.performance.calibration import (
    AnalysisMissing,
    Calibration,
    CalibrationError,
    Prior,
    calibrate,
    prior_for,
)
from plimsoll.performance.capacity import (
    Capacity,
    Question,
    candidate_batches,
    capacities,
    capacity,
    rated,
)
from plimsoll.performance.coefficients import Coefficients, CoefficientSet, Link, coefficient_set, node_hop
from plimsoll.performance.correction import Correction, CorrectionRule, Estimate, Evidence, corrected
from plimsoll.performance.gaps import Gap
from plimsoll.performance.loading import load_seconds
from plimsoll.performance.memory import MemoryFit, memory_fit
from plimsoll.performance.monotone import settled
from plimsoll.performance.observations import Latencies, Observation
from plimsoll.performance.prediction import Operation, Prediction, predict, predict_each
from plimsoll.performance.requests import Stream
from plimsoll.performance.shapes import (
    FloatArray,
    LatencyTarget,
    LatencyTargets,
    Parallelism,
    ReplicaShape,
    TokenLengths,
    parallelism_problem,
)
from plimsoll.performance.steps import ANALYTIC_STEPS, RooflineSteps, StepModel
from plimsoll.performance.terms import StepTerms
from plimsoll.performance.timer import StepTimer, step_timer
from plimsoll.performance.weights import checkpoint_bytes

__all__ = [
    "ANALYTIC_STEPS",
    "POISSON",
    "AnalysisMissing",
    "Arrivals",
    "Calibration",
    "CalibrationError",
    "Capacity",
    "CoefficientSet",
    "Coefficients",
    "Correction",
    "CorrectionRule",
    "Estimate",
    "Evidence",
    "FloatArray",
    "Gap",
    "Latencies",
    "LatencyTarget",
    "LatencyTargets",
    "Link",
    "MemoryFit",
    "Observation",
    "Operation",
    "Parallelism",
    "Prediction",
    "Prior",
    "Question",
    "ReplicaShape",
    "RooflineSteps",
    "StepModel",
    "StepTerms",
    "StepTimer",
    "Stream",
    "TokenLengths",
    "calibrate",
    "candidate_batches",
    "capacities",
    "capacity",
    "checkpoint_bytes",
    "coefficient_set",
    "corrected",
    "load_seconds",
    "memory_fit",
    "node_hop",
    "parallelism_problem",
    "predict",
    "predict_each",
    "prior_for",
    "rated",
    "settled",
    "step_timer",
]
