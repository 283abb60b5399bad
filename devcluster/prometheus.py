"""A Prometheus that scrapes what it is told to, by file discovery, as often as it can tell apart."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable, Mapping
from math import nan
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

from devcluster.binaries import binary
from devcluster.cluster import free_ports
from devcluster.process import Process, answers

SCRAPE_SECONDS = 1
_START_SECONDS = 30.0


class Prometheus:
    """One server on a loopback port. Use as a context manager, or `start`, `stop`; its data outlive a stop."""

    def __init__(self, directory: Path, scrape_seconds: int = SCRAPE_SECONDS) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._targets = directory / "targets.json"
        configuration = {
            "global": {"scrape_interval": f"{scrape_seconds}s", "scrape_timeout": f"{scrape_seconds}s"},
            "scrape_configs": [
                {
                    "job_name": "vllm",
                    "file_sd_configs": [{"files": [str(self._targets)], "refresh_interval": "1s"}],
                }
            ],
        }
        self._targets.write_text("[]")
        path = directory / "prometheus.json"
        path.write_text(json.dumps(configuration))
        command = [
            binary("prometheus"),
            f"--config.file={path}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        self.process = Process(command, directory / "prometheus.log")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Starts it and waits until it answers.

        Raises:
            RuntimeError: with the end of its log.
        """
        self.process.start()
        self.process.wait("Prometheus", lambda: answers(f"{self.url}/-/ready"), _START_SECONDS)
        return self

    def stop(self) -> None:
        """Ends it."""
        self.process.stop()

    def value(self, expression: str) -> float:
        """What an expression of one series is now; NaN where there is none."""
        with urllib.request.urlopen(
            f"{self.url}/api/v1/query?{urlencode({'query': expression})}", timeout=10
        ) as answer:
            found = json.load(answer)["data"]["result"]
        return float(found[0]["value"][1]) if found else nan

    def scrape(self, targets: Iterable[tuple[str, Mapping[str, str]]]) -> None:
        """Scrape these from now on, and nothing else: `host:port`, and labels."""
        groups = [{"targets": [address], "labels": dict(labels)} for address, labels in targets]
        partial = self._targets.with_suffix(".tmp")
        partial.write_text(json.dumps(groups))
        partial.rename(self._targets)
