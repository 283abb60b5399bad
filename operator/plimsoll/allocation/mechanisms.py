"""Which mechanisms the heuristics use; all of them, but for experiments."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mechanisms:
    """For ablation experiments: what an answer loses without one of the mechanisms of GH.

    Without M1 answers can break limits of mean delay. M1 and M2 are told apart only where a problem allows one replica
    of one option per pair; elsewhere switching them off is refused with a ValueError.
    """

    feasible_configurations: bool = True
    """M1: of every pair the cheapest option that keeps the class's limits. Off: the smallest, whatever its delay."""
    effective_coverage: bool = True
    """M2: rank by cost per share that is really served. Off: rank by added cost alone."""
    upgrades: bool = True
    """M3: replace an option in use by one of larger tensor degree instead of opening another pair."""
    clean_up: bool = True
    """Drop what is not needed and try smaller and cheaper options at the end."""


ALL = Mechanisms()
