"""Planners for the child process of `test_planner_process.py`; the snapshot's policy name says what to do."""

import os
import sys
import time

from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.snapshot import NodeFacts, Snapshot


def ask(what: str) -> Snapshot:
    return Snapshot(nodes=(NodeFacts(what, {}, {}),))


def planner():
    rounds = 0

    def plan(snapshot):
        nonlocal rounds
        what = snapshot.nodes[0].name if snapshot.nodes else "nothing"
        rounds += what == "count"
        if what == "hang":
            time.sleep(600)
        if what in ("grow", "leap"):
            hoard = []
            while True:
                # "leap" asks for more at once than there may ever be, and touches none of it.
                hoard.append(bytearray(2**20) if what == "grow" else bytes(2**34))
        if what == "crash":
            os._exit(3)
        if what == "raise":
            raise ValueError("no idea how to plan this")
        if what == "print":
            print("a library that prints", flush=True)
            sys.stdout.flush()
        return FleetPlan(what, (), (), (), float(rounds))

    return plan


def broken():
    raise RuntimeError("cannot even start")
