"""The operator, made to die or to misread the clock at a chosen place. Run as a module with the operator's arguments.

Kill points are not chosen by hand: every `await`, `async with` and `async for` in the modules of the control loop is
one. While a module is imported each awaited expression is wrapped, so that the process can be killed as by `kill -9`
right after what it waited for has happened and before the operator knows.

    KILL_POINT=apply:Applier._apply:0   where (module, function, number of the await in it)
    KILL_HIT=1                          at the how manieth time
    TRACE_FILE=path                     to be given every kill point that is passed, a line each
    CLOCK_OFFSET_FILE=path              seconds in it are added to the wall clock
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Self, TypeVar

Hook = Callable[[str, Awaitable[Any]], Awaitable[Any]]
Scope = TypeVar("Scope", ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PACKAGE = "plimsoll.controller"
LOOP = ("loop", "guarding", "apply", "plans", "report")
"""Where the loop waits: its turns, the guard, writes of objects, plans and statuses."""
REQUESTS = ("client", "transport", "events")
"""Where the requests beneath them wait."""
_HOOK = "__kill_point__"
_FOLDER = Path(__file__).parents[1] / "operator" / "plimsoll" / "controller"


def kill_points(modules: Sequence[str] = LOOP + REQUESTS) -> list[str]:
    """Every kill point of the modules, as KILL_POINT names them."""
    found: list[str] = []
    for module in modules:
        marker = _Marker(module)
        marker.visit(ast.parse((_FOLDER / f"{module}.py").read_text()))
        found.extend(marker.points)
    return found


class _Marker(ast.NodeTransformer):
    """Wraps each awaited expression of a module in a call that knows its kill point."""

    def __init__(self, module: str) -> None:
        self.points: list[str] = []
        self._module = module
        self._scope: list[str] = []
        self._counts: dict[str, int] = {}

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._inside(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._inside(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._inside(node)

    def visit_Await(self, node: ast.Await) -> ast.AST:
        point = self._point()
        self.generic_visit(node)
        call = ast.Call(ast.Name(_HOOK, ast.Load()), [ast.Constant(point), node.value], [])
        return ast.copy_location(ast.Await(ast.copy_location(call, node)), node)

    def _point(self) -> str:
        scope = ".".join(self._scope)
        number = self._counts.get(scope, 0)
        self._counts[scope] = number + 1
        point = f"{self._module}:{scope}:{number}"
        self.points.append(point)
        return point

    def _inside(self, node: Scope) -> Scope:
        self._scope.append(node.name)
        self.generic_visit(node)
        self._scope.pop()
        return node


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, hook: Hook) -> None:
        super().__init__(name, path)
        self._hook = hook

    def get_code(self, fullname: str) -> CodeType:
        tree = _Marker(fullname.rsplit(".", 1)[-1]).visit(ast.parse(Path(self.path).read_text()))
        return compile(ast.fix_missing_locations(tree), self.path, "exec")

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, _HOOK, self._hook)
        super().exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, hook: Hook) -> None:
        self._hook = hook

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        package, _, module = fullname.rpartition(".")
        if package != PACKAGE or module not in LOOP + REQUESTS:
            return None
        file = str(_FOLDER / f"{module}.py")
        return importlib.util.spec_from_file_location(fullname, file, loader=_Loader(fullname, file, self._hook))


def _killer(point: str, hits: int) -> Hook:
    left = hits

    async def hook(here: str, awaitable: Awaitable[Any]) -> Any:  # noqa: ANN401
        nonlocal left
        result = await awaitable
        if here == point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return result

    return hook


def _tracer(file: Path) -> Hook:
    passed: set[str] = set()

    async def hook(here: str, awaitable: Awaitable[Any]) -> Any:  # noqa: ANN401
        result = await awaitable
        if here not in passed:
            passed.add(here)
            with file.open("a") as trace:
                trace.write(f"{here}\n")
        return result

    return hook


class _Clock:
    """The wall clock as the operator sees it; the file is read each time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._real_time = time.time

    def offset_seconds(self) -> float:
        return float(self._file.read_text() or 0)

    def time(self) -> float:
        return self._real_time() + self.offset_seconds()


def _shift_clock(clock: _Clock) -> None:
    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            real = datetime.fromtimestamp(clock.time(), tz or UTC)
            return cls.fromisoformat(real.isoformat())

    assert Shifted.now(UTC) - datetime.now(UTC) > timedelta(days=-3650)
    time.time = clock.time
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{PACKAGE}.") and getattr(module, "datetime", None) is datetime:
            module.datetime = Shifted  # type: ignore[attr-defined]


def main() -> None:
    """Run `plimsoll` with the faults of the environment."""
    point = os.environ.get("KILL_POINT", "")
    if point:
        sys.meta_path.insert(0, _Finder(_killer(point, int(os.environ.get("KILL_HIT", "1")))))
    elif trace := os.environ.get("TRACE_FILE", ""):
        sys.meta_path.insert(0, _Finder(_tracer(Path(trace))))
    from plimsoll.cli.main import main as run

    if file := os.environ.get("CLOCK_OFFSET_FILE", ""):
        importlib.import_module("plimsoll.controller.run")
        _shift_clock(_Clock(Path(file)))
    run()


if __name__ == "__main__":
    main()
