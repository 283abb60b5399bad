"""What all tests share: CI draws the same examples every time; people draw new ones, or fewer in a hurry."""

from __future__ import annotations

import math
import os

import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI") == "true":
    settings.load_profile("ci")
_SETTINGS = "_hypothesis_internal_use_settings"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`EXAMPLES_SHARE`: this part of the examples that each property test asks for."""
    share = float(os.environ.get("EXAMPLES_SHARE", "1"))
    for item in items:
        test = getattr(item, "function", None)
        asked = getattr(test, _SETTINGS, None)
        if share < 1 and asked is not None:
            setattr(test, _SETTINGS, settings(asked, max_examples=math.ceil(share * asked.max_examples)))
