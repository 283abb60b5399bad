"""The annotation by which a person releases a held plan."""

import pytest

from plimsoll.api.parse import parse
from plimsoll.controller.guarding import RELEASE, _release
from tests.unit.planning.fleets import manifest, snapshot


def annotated(text):
    written = manifest("PlacementPolicy", "default", {})
    written["metadata"]["annotations"] = {RELEASE: text}
    return snapshot(parse(written))


@pytest.mark.parametrize("text", ["yes", "true", "plan-000412", "ABCDEF0123456789", "0" * 65])
def test_what_is_no_digest_releases_nothing_and_is_named(text):
    digest, (finding,) = _release(annotated(text))
    assert digest == ""
    assert finding.reason == "ReleaseInvalid"
    assert f'"{text[:64]}": must be the digest' in finding.message


@pytest.mark.parametrize("text", ["0123456789abcdef", "0" * 64])
def test_a_digest_or_its_beginning_releases(text):
    assert _release(annotated(text)) == (text, ())
