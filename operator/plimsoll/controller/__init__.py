"""The operator itself: gathers facts from the API server, lets the pure core decide, applies the difference, reports.

    feed ─► store ─► loop: debounce ─► snapshot ─► planner process ─► steps ─► apply ─► report

Only this package talks to Kubernetes. It decides nothing about placements: it is level-triggered plumbing that a
restart rebuilds completely. `plimsoll.controller.run.main(Settings.from_env())` runs it.
"""

from plimsoll.controller.settings import Settings, SettingsError

__all__ = ["Settings", "SettingsError"]
