"""How long a session is on its route once it has begun."""

from plimsoll.chains import ChainProblem, Route, session_seconds
from plimsoll.chains.routes import prefill_seconds


class ServiceTimes:
    """Seconds of sessions of any length on the routes of one problem."""

    def __init__(self, problem: ChainProblem) -> None:
        self._problem = problem
        self._known: dict[tuple[Route, int], tuple[float, float]] = {}

    def parts(self, route: Route, client: int) -> tuple[float, float]:
        """From the begin to the first token, setup included; and of each further token."""
        known = self._known.get((route, client))
        if known is None:
            problem = self._problem
            prefill = prefill_seconds(problem, route, client)
            later = problem.output_tokens - 1
            per_token = (session_seconds(problem, route, client) - prefill) / later if later else 0.0
            known = self._known[route, client] = problem.setup_seconds + prefill, per_token
        return known

    def seconds(self, route: Route, client: int, output_tokens: int) -> float:
        """From the begin to the last token."""
        first, per_token = self.parts(route, client)
        return first + (output_tokens - 1) * per_token
