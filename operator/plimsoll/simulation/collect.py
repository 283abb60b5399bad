"""Counts and latencies of one traffic class while a simulation runs."""

import math

from plimsoll.performance import LatencyTargets
from plimsoll.simulation.generation import Generation
from plimsoll.simulation.latencies import LatencyRecorder
from plimsoll.simulation.report import ClassInterval, ClassReport, target_results
from plimsoll.simulation.routing import ShareRouter
from plimsoll.simulation.traffic import Request


class ClassTally:
    """What happened to the requests of a class; memory does not grow with their number."""

    __slots__ = (
        "_interval_base",
        "_limits",
        "_targets",
        "_warm_up",
        "arrived",
        "arrived_input_tokens",
        "arrived_output_tokens",
        "completed",
        "end_to_end",
        "input_tokens",
        "lost",
        "measured",
        "output_tokens",
        "preemptions",
        "refused",
        "retried",
        "router",
        "too_long",
        "tpot",
        "ttft",
        "unroutable",
        "within",
        "within_all",
    )

    def __init__(self, router: ShareRouter, targets: LatencyTargets, warm_up_seconds: float) -> None:
        self.router = router
        self._targets = targets
        self._limits = tuple(
            math.inf if target is None else target.seconds
            for target in (targets.ttft, targets.tpot, targets.end_to_end)
        )
        self._warm_up = warm_up_seconds
        self.ttft, self.tpot, self.end_to_end = LatencyRecorder(), LatencyRecorder(), LatencyRecorder()
        self.arrived = self.completed = self.refused = self.too_long = self.unroutable = self.lost = self.retried = 0
        self.preemptions = self.input_tokens = self.output_tokens = self.measured = 0
        self.within = 0  # of those measured
        self.within_all = 0  # warm-up included
        self.arrived_input_tokens = self.arrived_output_tokens = 0
        self._interval_base = (0, 0, 0, 0, 0, 0)

    def arrive(self, request: Request) -> None:
        """A request reached the fleet."""
        self.arrived += 1
        self.arrived_input_tokens += request.input_tokens
        self.arrived_output_tokens += request.output_tokens

    def complete(self, generation: Generation) -> None:
        """A request got its last token."""
        request = generation.request
        self.completed += 1
        self.preemptions += generation.preemptions
        self.input_tokens += request.input_tokens
        self.output_tokens += request.output_tokens
        ttft, end_to_end, tpot = generation.ttft_seconds, generation.end_to_end_seconds, generation.tpot_seconds
        limits = self._limits
        within = ttft <= limits[0] and end_to_end <= limits[2] and (tpot is None or tpot <= limits[1])
        self.within_all += within
        if request.arrival_seconds >= self._warm_up:
            self.measured += 1
            self.within += within
            self.ttft.add(ttft)
            self.end_to_end.add(end_to_end)
            if tpot is not None:
                self.tpot.add(tpot)

    @property
    def not_served(self) -> int:
        """Requests that were turned away or lost."""
        return self.refused + self.too_long + self.unroutable + self.lost

    def close_interval(self) -> ClassInterval:
        """What happened since the last call."""
        now = (
            self.arrived,
            self.completed,
            self.not_served,
            self.within_all,
            self.arrived_input_tokens,
            self.arrived_output_tokens,
        )
        arrived, completed, not_served, within, inputs, outputs = (
            after - before for after, before in zip(now, self._interval_base, strict=True)
        )
        self._interval_base = now
        return ClassInterval(
            arrived=arrived,
            completed=completed,
            not_served=not_served,
            within_targets=within,
            input_tokens=inputs,
            output_tokens=outputs,
            ttft=self.ttft.close_interval(),
            tpot=self.tpot.close_interval(),
            end_to_end=self.end_to_end.close_interval(),
        )

    def report(self, in_flight: int) -> ClassReport:
        """The whole run."""
        ttft, tpot, end_to_end = self.ttft.summary(), self.tpot.summary(), self.end_to_end.summary()
        return ClassReport(
            arrived=self.arrived,
            completed=self.completed,
            refused=self.refused,
            too_long=self.too_long,
            unroutable=self.unroutable,
            lost=self.lost,
            in_flight=in_flight,
            retried=self.retried,
            preemptions=self.preemptions,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            measured=self.measured,
            ttft=ttft,
            tpot=tpot,
            end_to_end=end_to_end,
            within_targets=self.within,
            targets=target_results(self._targets, ttft, tpot, end_to_end),
        )
