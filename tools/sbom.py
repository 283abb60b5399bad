"""Writes the software bill of materials: what requirements.lock installs, as CycloneDX 1.6 JSON.

Deterministic: no time, no serial number, sorted. The hashes are those of the lock file, one for each file of a release
that pip may choose.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_ENTRY = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]*?))?\s*\\?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Entry:
    """One entry of a lock file."""

    name: str
    version: str
    marker: str
    """Where it is installed, such as `python_full_version < '3.12'`; empty: everywhere."""
    hashes: tuple[str, ...]
    wanted_by: tuple[str, ...]

    @property
    def purl(self) -> str:
        """Package URL, which is also its reference in the bill."""
        return f"pkg:pypi/{re.sub('[-_.]+', '-', self.name).lower()}@{self.version}"


class LockError(ValueError):
    """A line of a lock file means nothing to this program."""


def read_lock(text: str) -> list[Entry]:
    """The entries of a lock file with hashes.

    Raises:
        LockError: names the line.
    """
    entries: list[Entry] = []
    block: list[str] = []
    for number, line in enumerate([*text.splitlines(), "end==0"], 1):
        if not line.strip():
            continue
        if line[0].isspace():
            block.append(line.strip())
            continue
        if _ENTRY.fullmatch(line) is None:
            raise LockError(f"line {number}: {line!r} is no entry NAME==VERSION")
        if block:
            entries.append(_entry(block))
        block = [line]
    return entries


def _entry(block: list[str]) -> Entry:
    head = _ENTRY.fullmatch(block[0])
    hashes = sorted(found[1] for line in block[1:] if (found := _HASH.match(line)))
    if head is None or not hashes:
        raise LockError(f"{block[0]!r} has no hash")
    comments = [line.lstrip("# ").removeprefix("via").strip() for line in block[1:] if line.startswith("#")]
    wanted_by = sorted(comment.partition(" ")[0] for comment in comments if comment)
    return Entry(head["name"], head["version"], (head["marker"] or "").strip(), tuple(hashes), tuple(wanted_by))


def bill(lock: str, project: str) -> dict[str, Any]:
    """The bill of materials of a lock file (text) for a project (text of its pyproject.toml)."""
    about = tomllib.loads(project)["project"]
    entries = sorted(read_lock(lock), key=lambda entry: (entry.name, entry.version))
    own = f"pkg:pypi/{about['name']}@{about['version']}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": about["name"],
                "version": about["version"],
                "purl": own,
                "licenses": [{"license": {"id": about["license"]}}],
            }
        },
        "components": [_component(entry) for entry in entries],
        "dependencies": [
            {"ref": ref, "dependsOn": sorted(entry.purl for entry in entries if name in entry.wanted_by)}
            for ref, name in [(own, about["name"]), *((entry.purl, entry.name) for entry in entries)]
        ],
    }


def _component(entry: Entry) -> dict[str, Any]:
    component = {
        "type": "library",
        "bom-ref": entry.purl,
        "name": entry.name,
        "version": entry.version,
        "purl": entry.purl,
        "hashes": [{"alg": "SHA-256", "content": value} for value in entry.hashes],
    }
    return component | ({"properties": [{"name": "python:marker", "value": entry.marker}]} if entry.marker else {})


def text_of(lock: Path = ROOT / "requirements.lock", project: Path = ROOT / "pyproject.toml") -> str:
    """The bill as text: equal inputs give equal bytes."""
    return json.dumps(bill(lock.read_text(), project.read_text()), indent=1) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text_of())
    print(target)
