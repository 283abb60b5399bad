"""Where the measured and published data lie that some benchmarks and tests compare with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def data_folder() -> Path:
    """`PLIMSOLL_DATA`, or `shared/data` beside the repository."""
    return Path(os.environ.get("PLIMSOLL_DATA", ROOT.parent / "shared" / "data"))


def load_json(name: str) -> Any:  # noqa: ANN401
    """A document of the data folder, by its path there.

    Raises:
        FileNotFoundError: the data are not there.
    """
    return json.loads((data_folder() / name).read_text(encoding="utf-8"))
