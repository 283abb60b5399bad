"""Figures as they stand in statuses."""

from datetime import datetime
from decimal import Decimal

from plimsoll.api.llmdeployment_status import (
    ObservedLatency,
)


def money(amount: float) -> Decimal:
    """An amount with two decimals."""
    return Decimal(f"{max(0.0, amount):.2f}")


def ratio(value: float) -> Decimal:
    """A share with three decimals, without trailing zeros."""
    text = f"{min(1.0, max(0.0, value)):.3f}".rstrip("0").rstrip(".")
    return Decimal(text)


def observed_latency(ttft_seconds: float | None, tpot_seconds: float | None, now: datetime) -> ObservedLatency:
    """Latencies as they stand in status."""
    ttft, tpot = (
        None if seconds is None else rounded_milliseconds(1000.0 * seconds) for seconds in (ttft_seconds, tpot_seconds)
    )
    return ObservedLatency(ttft_milliseconds=ttft, tpot_milliseconds=tpot, time=now)


def rounded_milliseconds(value: float) -> int:
    """Rounded to two digits: predictions are no better than that, and status is no metrics stream."""
    return max(0, int(float(f"{min(value, 1_000_000.0):.2g}")))
