"""The software bill of materials says what the lock file installs."""

from __future__ import annotations

import json
import re
from importlib import metadata

import pytest

from tools.sbom import ROOT, LockError, bill, read_lock, text_of

LOCK = (ROOT / "requirements.lock").read_text()
BILL = json.loads(text_of())
PROJECT = '[project]\nname = "own"\nversion = "1"\nlicense = "Apache-2.0"\n'
HASH = "0" * 64


def test_every_locked_release_is_in_the_bill_once_with_all_its_hashes() -> None:
    listed = {(item["name"], item["version"]): item for item in BILL["components"]}
    assert sorted(listed) == sorted(re.findall(r"^([\w.-]+)==([^\s;]+)", LOCK, re.MULTILINE))
    assert len(listed) == len(BILL["components"])
    hashes = [entry["content"] for item in BILL["components"] for entry in item["hashes"]]
    assert sorted(hashes) == sorted(re.findall(r"sha256:([0-9a-f]{64})", LOCK))


def test_the_bill_is_the_same_each_time() -> None:
    assert text_of() == text_of()
    assert "timestamp" not in text_of()


def test_the_operator_depends_on_what_its_project_file_names() -> None:
    own = BILL["metadata"]["component"]
    depends = {item["ref"]: item["dependsOn"] for item in BILL["dependencies"]}
    named = {
        re.split(r"[<>=~!\[; ]", text)[0].lower() for text in metadata.requires("plimsoll") or () if "extra" not in text
    }
    assert {ref.removeprefix("pkg:pypi/").partition("@")[0] for ref in depends[own["bom-ref"]]} == named


def test_every_dependency_refers_to_a_component() -> None:
    known = {item["bom-ref"] for item in BILL["components"]} | {BILL["metadata"]["component"]["bom-ref"]}
    assert {item["ref"] for item in BILL["dependencies"]} == known
    assert {ref for item in BILL["dependencies"] for ref in item["dependsOn"]} <= known


def test_every_component_but_the_operator_is_wanted_by_another() -> None:
    wanted = {ref for item in BILL["dependencies"] for ref in item["dependsOn"]}
    assert {item["bom-ref"] for item in BILL["components"]} == wanted


def test_a_package_url_has_the_normal_form_of_the_name() -> None:
    (component,) = bill(f"Some.Name_x==1.0 \\\n    --hash=sha256:{HASH}\n    # via own\n", PROJECT)["components"]
    assert component["purl"] == "pkg:pypi/some-name-x@1.0"


def test_where_an_entry_is_installed_only_somewhere_the_bill_says_so() -> None:
    lock = f"numpy==2.4.6 ; python_full_version < '3.12' \\\n    --hash=sha256:{HASH}\n    # via own\n"
    (component,) = bill(lock, PROJECT)["components"]
    assert component["properties"] == [{"name": "python:marker", "value": "python_full_version < '3.12'"}]


@pytest.mark.parametrize("lock", ["numpy==1.0\n", "numpy>=1.0 \\\n    --hash=sha256:" + HASH, "-e .\n"])
def test_what_is_not_pinned_and_hashed_is_an_error(lock: str) -> None:
    with pytest.raises(LockError):
        read_lock(lock)
