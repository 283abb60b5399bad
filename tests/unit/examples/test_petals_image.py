"""How the servers of a PETALS chain find their swarm. What needs PETALS itself is not run here."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[3] / "examples" / "petals" / "image" / "plimsoll_petals.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plimsoll_petals", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plimsoll_petals"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def asked(program: ModuleType, joined: Callable[[], bool]) -> Any:
    member = program.Member("/ip4/127.0.0.1/tcp/31330/p2p/Qm", 7)
    with program.Listener(("127.0.0.1", 0), member, joined) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        found = program.ask("127.0.0.1", listener.server_address[1])
        listener.shutdown()
        thread.join()
    assert program.ask("127.0.0.1", listener.server_address[1]) is None, "nobody is there any more"
    return found


def test_a_server_says_how_to_join_once_it_takes_connections(program: ModuleType) -> None:
    assert asked(program, lambda: True) == program.Member("/ip4/127.0.0.1/tcp/31330/p2p/Qm", 7)
    assert asked(program, lambda: False) is None


def test_of_two_swarms_the_older_is_joined(program: ModuleType) -> None:
    young, old, other = program.Member("a", 9), program.Member("b", 3), program.Member("c", 3)
    assert program.oldest([young, None, old, other]) == [old, other]
    assert program.oldest([None]) == []


def test_the_founder_begins_alone_and_the_others_wait(program: ModuleType) -> None:
    member = program.Member("a", 1)
    assert program.look_for_swarm(list, founder=True) == []
    assert program.look_for_swarm(lambda: [member], founder=True) == [member]
    answers = iter([[], [], [member]])
    assert program.look_for_swarm(lambda: next(answers), founder=False, pause=0.0) == [member]


def test_a_server_does_not_ask_itself(program: ModuleType) -> None:
    assert program.addresses(["127.0.0.1", "127.0.0.2", "no-such-host.invalid"], "127.0.0.1") == ["127.0.0.2"]
