"""The ConfigMap in which people's probes upload round trips between regions. Pure."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from plimsoll.planning.distances import Measurement

NAME = "plimsoll-round-trips"
"""Of the ConfigMap, in the operator's namespace."""
KEY = "round-trips.json"
MOST = 1000
_MOST_MILLISECONDS = 10_000.0


def measurements_from_config_map(manifest: Mapping[str, Any]) -> tuple[tuple[Measurement, ...], tuple[str, ...]]:
    """What can be read and is within bounds, and what is wrong with the rest."""
    try:
        entries = list(json.loads(manifest["data"][KEY])["measured"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        return (), (f'{KEY}: must be JSON such as {{"measured": [{{"region": …, "peer": …}}]}}: {error!r}',)
    found: list[Measurement] = []
    problems = [f"{KEY}: measured has {len(entries)} entries; the first {MOST} count"] if len(entries) > MOST else []
    for number, entry in enumerate(entries[:MOST]):
        try:
            found.append(_measurement(entry))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            problems.append(f"{KEY}: measured[{number}]: {error!r}")
    return tuple(found), tuple(problems)


def _measurement(entry: Mapping[str, Any]) -> Measurement:
    milliseconds, time = float(entry["milliseconds"]), datetime.fromisoformat(str(entry["time"]))
    if not (isfinite(milliseconds) and 0 <= milliseconds <= _MOST_MILLISECONDS):
        raise ValueError(f"milliseconds {milliseconds}; 0 to {_MOST_MILLISECONDS:g} are possible")
    if time.tzinfo is None:
        raise ValueError(f"time {time} has no time zone, such as Z at its end")
    return Measurement(str(entry["region"]), str(entry["peer"]), milliseconds, time.astimezone(UTC))
