"""Progress lines with the seconds since the start."""

from __future__ import annotations

import time

_BEGAN = time.monotonic()


def say(text: str) -> None:
    """Print one line."""
    print(f"  [{time.monotonic() - _BEGAN:6.1f} s] {text}", flush=True)
