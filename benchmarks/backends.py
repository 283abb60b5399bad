"""`python -m benchmarks.backends` compares solver back ends on the exact program of the scaling family.

HiGHS by highspy (what Plimsoll uses), and HiGHS, SCIP and CP-SAT as they come with OR-Tools, which has to be installed
for this alone (`pip install ortools`) and runs in processes of its own: it cannot be imported beside highspy. Every
back end gets the same model file, one thread and the same time. The options that another option dominates are left out.
CP-SAT knows integers only: it is given shares in thousandths.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.scaling import instance

INSTANCES = (((6, 6, 10), 0), ((10, 10, 10), 0), ((20, 20, 20), 1))
"""Size and seed; high demand."""
BACK_ENDS = ("highspy", "ortools highs", "ortools scip", "ortools sat")
ROWS = {"weak": False, "strong": True}
"""Whether a share is bounded by the replicas of its option in a row of its own."""
RELATIVE_GAP = 1e-4
SHARE_PARTS = 1000
"""CP-SAT's continuous variables are multiples of one over this."""


def write_model(size: tuple[int, int, int], seed: int, strong: bool, path: Path) -> float:
    """Write the program of an instance as MPS; the hours by which its hourly cost counts."""
    from plimsoll.allocation.formulation import formulate
    from plimsoll.allocation.milp import write_mps
    from plimsoll.allocation.paper import from_paper_instance
    from plimsoll.allocation.reduce import restrict, undominated

    paper = from_paper_instance(instance(size, seed, high=True))
    problem = restrict(paper.problem, undominated(paper.problem)).problem
    write_mps(formulate(problem, strong=strong).model, path)
    return paper.period_hours


def solve(back_end: str, path: Path, seconds: float) -> dict[str, Any]:
    """Solve a model file in this process; objective and bound are None where there is none."""
    return _highspy(path, seconds) if back_end == "highspy" else _ortools(back_end.split()[1], path, seconds)


def _highspy(path: Path, seconds: float) -> dict[str, Any]:
    import highspy

    highs = highspy.Highs()
    for name, value in (
        ("output_flag", False),
        ("threads", 1),
        ("mip_rel_gap", RELATIVE_GAP),
        ("time_limit", seconds),
    ):
        highs.setOptionValue(name, value)
    highs.readModel(str(path))
    began = time.monotonic()
    highs.run()
    info = highs.getInfo()
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    return {
        "seconds": time.monotonic() - began,
        "objective": info.objective_function_value if found else None,
        "bound": info.mip_dual_bound,
        "status": highs.modelStatusToString(highs.getModelStatus()).lower(),
    }


def _ortools(name: str, path: Path, seconds: float) -> dict[str, Any]:
    from ortools.linear_solver.python import model_builder

    model = model_builder.Model()
    if not model.import_from_mps_file(str(path)):
        raise ValueError(f"OR-Tools cannot read {path}")
    solver = model_builder.Solver(name)
    solver.set_time_limit_in_seconds(seconds)
    solver.set_solver_specific_parameters(
        {
            "sat": f"num_workers:1, mip_var_scaling:{SHARE_PARTS}, relative_gap_limit:{RELATIVE_GAP}",
            "scip": f"limits/gap = {RELATIVE_GAP}\n",
            "highs": "",
        }[name]
    )
    began = time.monotonic()
    status = solver.solve(model)
    found = status in (model_builder.SolveStatus.OPTIMAL, model_builder.SolveStatus.FEASIBLE)
    return {
        "seconds": time.monotonic() - began,
        "objective": solver.objective_value if found else None,
        "bound": solver.best_objective_bound if found else None,
        "status": status.name.lower().replace("_", " "),
    }


def compare(seconds: float) -> None:
    """Print one row of a table for each instance, kind of rows and back end."""
    print("| instance | rows | back end | seconds | objective, $ | bound, $ | gap | status |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | --- |")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.mps"
        for size, seed in INSTANCES:
            for rows, strong in ROWS.items():
                hours = write_model(size, seed, strong, path)
                for back_end in BACK_ENDS:
                    result = _apart(back_end, path, seconds)
                    print(f"| {size} | {rows} | {back_end} | {_cells(result, hours)} |", flush=True)


def _apart(back_end: str, path: Path, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.backends", "--solve", back_end, "--seconds", str(seconds), str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10 * seconds + 60)
    if done.returncode:
        return {"seconds": None, "objective": None, "bound": None, "status": f"failed with {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _cells(result: dict[str, Any], hours: float) -> str:
    objective, bound = (None if result[key] is None else result[key] * hours for key in ("objective", "bound"))
    seconds = "" if result["seconds"] is None else f"{result['seconds']:.1f}"
    gap = "" if objective is None or bound is None else f"{max(0.0, 1 - bound / objective):.1%}"
    money = ["" if value is None else f"{value:,.2f}" for value in (objective, bound)]
    return " | ".join([seconds, *money, gap, result["status"]])


def main() -> None:
    """Compare all, or solve one model file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backends", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each solve")
    parser.add_argument("--solve", choices=BACK_ENDS, metavar="BACK_END", help="solve MODEL alone, answer in JSON")
    parser.add_argument("model", nargs="?", type=Path, help="an MPS file")
    arguments = parser.parse_args()
    if arguments.solve:
        print(json.dumps(solve(arguments.solve, arguments.model, arguments.seconds)))
    else:
        compare(arguments.seconds)


if __name__ == "__main__":
    main()
