"""`python -m benchmarks [NAME...]` runs benchmarks (all by default), writes results/NAME.json and RESULTS.md."""

from __future__ import annotations

import argparse
import importlib
import time

from benchmarks import report, results

NAMES = ("allocation", "chains", "closed_loop", "forecast", "operator", "performance", "trust")
"""Modules of this package with `run() -> (figures, notes, tables)`."""
PARTS = {
    "chains": ("reproduction", "comparison", "losses", "decisions", "optimum"),
    "operator": ("fleet", "scale", "reaction"),
}
"""Those whose parts can be run alone."""


def main() -> None:
    """Run and report."""
    parts = "; ".join(f"{name}: {', '.join(own)}" for name, own in PARTS.items())
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or several of: {', '.join(NAMES)}")
    parser.add_argument("--resume", action="store_true", help="go on with what is there (allocation, closed_loop)")
    parser.add_argument("--part", help=f"only this part ({parts})")
    options = parser.parse_args()
    names = options.names or NAMES
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"unknown benchmark {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    if options.part and not any(options.part in PARTS.get(name, ()) for name in names):
        parser.error(f"--part {options.part}: no part of {', '.join(names)}; there are: {parts}")
    for name in names:
        print(f"benchmark {name}", flush=True)
        began = time.monotonic()
        keywords = {"resume": True} if options.resume and name in ("allocation", "closed_loop") else {}
        if options.part and options.part in PARTS.get(name, ()):
            keywords = {"part": options.part}
        figures, notes, tables = importlib.import_module(f"benchmarks.{name}").run(**keywords)
        path = results.write(name, figures, notes, tables)
        for figure in figures:
            print(f"  {figure}")
        print(f"  results/{path.name} written after {time.monotonic() - began:.0f} s", flush=True)
    report.main()


if __name__ == "__main__":
    main()
