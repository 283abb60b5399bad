"""`python -m benchmarks [NAME...]` runs benchmarks (all by default), writes results/NAME.json and RESULTS.md."""

from __future__ import annotations

import argparse
import importlib
import time

from benchmarks import report, results

NAMES = ("allocation", "forecast", "operator", "performance", "trust")
"""Modules of this package with `run() -> (figures, notes, tables)`."""


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or several of: {', '.join(NAMES)}")
    parser.add_argument("--resume", action="store_true", help="go on with the rows of results/scaling.csv")
    parser.add_argument("--part", choices=("fleet", "scale"), help="of the benchmark operator, only this part")
    options = parser.parse_args()
    names = options.names or NAMES
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"unknown benchmark {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    for name in names:
        print(f"benchmark {name}", flush=True)
        began = time.monotonic()
        keywords = {"resume": True} if options.resume and name == "allocation" else {}
        if options.part and name == "operator":
            keywords = {"part": options.part}
        figures, notes, tables = importlib.import_module(f"benchmarks.{name}").run(**keywords)
        path = results.write(name, figures, notes, tables)
        for figure in figures:
            print(f"  {figure}")
        print(f"  results/{path.name} written after {time.monotonic() - began:.0f} s", flush=True)
    report.main()


if __name__ == "__main__":
    main()
