#!/usr/bin/env python3
"""Runs HAProxy by the routing document of one LLMDeployment: `follow.py /etc/plimsoll/routing.json`.

HAProxy runs as a child in master-worker mode. Whenever the document changes, its configuration is written anew,
checked with `haproxy -c`, and reloaded: the listening sockets stay open, and old workers end when their last request
has. A document or configuration that is refused changes nothing. SIGTERM lets running requests finish. Needs
HAProxy 2.4 and Python 3.9, nothing else.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

DOCUMENT_VERSION = "plimsoll.dev/routing/v1"
MAXIMUM_WEIGHT = 256
"""HAProxy's."""

SETTINGS = """\
global
    maxconn {maxconn}
    stats socket {folder}/haproxy.sock mode 600 level admin expose-fd listeners
    # Prompts are buffered up to this, so that a request which no engine has begun can go to another one.
    tune.bufsize 131072
defaults
    mode http
    log stdout format raw local0
    option httplog
    timeout connect 2s
    timeout client 1h
    timeout server 1h
    timeout queue 30s
    timeout http-request 30s
    timeout http-keep-alive 60s
    # Each request gets a connection of its own: it is then kube-proxy that picks a Ready pod, for every one.
    http-reuse never
    option http-server-close
    # A reload ends idle connections of clients only with their next answer.
    option idle-close-on-response
    # A client that leaves takes its request along: no engine goes on for nobody, and no router waits for that to end.
    option abortonclose
    # An engine whose node is gone closes nothing; it is noticed within half a minute.
    option srvtcpka
    srvtcpka-idle 10s
    srvtcpka-intvl 5s
    srvtcpka-cnt 3
    default-server tcp-ut 25s
    # Safe to send again: no engine has answered. An engine that drains answers 503.
    retries 5
    retry-on conn-failure empty-response 503
    option redispatch 1
resolvers cluster
    parse-resolv-conf
    hold valid 10s
    resolve_retries 5
    timeout resolve 1s
    timeout retry 1s
"""


def configuration(document: dict[str, Any], port: int, folder: Path, maxconn: int = 4096) -> str:
    """HAProxy's configuration for a routing document.

    Weights go up to 256 instead of 1000, so shares are right to about half a percent. A class takes at most its
    admitted rate, counted over a minute by each router process; requests beyond it get 429. A class without backends
    answers 503.

    Raises:
        ValueError: the document is of another version, or lacks something.
    """
    if document.get("apiVersion") != DOCUMENT_VERSION:
        raise ValueError(f"apiVersion: {document.get('apiVersion')!r}; {DOCUMENT_VERSION!r} is accepted")
    try:
        classes = list(document["classes"])
        # The class that matches with the most headers wins, the first among equals; the default comes last.
        ordered = sorted(classes, key=lambda item: -len(_headers(item)))
        text = SETTINGS.format(maxconn=maxconn, folder=folder)
        text += f"frontend requests\n    bind :{port}\n    monitor-uri /healthz\n"
        for item in ordered:
            conditions = [f"{{ req.hdr({name}) -m str {_quoted(value)} }}" for name, value in _headers(item)]
            rule = (
                f"use_backend {item['name']} if {' '.join(conditions)}"
                if conditions
                else f"default_backend {item['name']}"
            )
            text += f"    {rule}\n"
        return text + "".join(_backend(item) for item in classes)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a routing document: {type(error).__name__}: {error}") from error


def _headers(item: dict[str, Any]) -> list[tuple[str, str]]:
    return [(header["name"], header["value"]) for header in item.get("match", {}).get("headers", [])]


def _quoted(text: str) -> str:
    if "\n" in text or "\r" in text or "\0" in text:
        raise ValueError(f"match: {text!r} has a control character")
    return "'" + text.replace("'", "'\\''") + "'"


def _backend(item: dict[str, Any]) -> str:
    name, backends = item["name"], item["backends"]
    lines = [f"backend {name}"]
    if not backends:
        lines.append("    http-request return status 503 content-type text/plain string 'no replica is ready'")
    else:
        admitted = item["admittedRequestsPerMinute"]
        lines += [
            "    balance roundrobin",
            "    stick-table type integer size 1 expire 2m store gpc0,gpc0_rate(1m)",
            "    http-request track-sc0 int(1)",
            f"    http-request deny deny_status 429 if {{ sc0_gpc0_rate ge {admitted} }}",
            "    http-request sc-inc-gpc0(0)",
        ]
        scale = MAXIMUM_WEIGHT / max(backend["weight"] for backend in backends)
        for backend in backends:
            address = urlsplit(backend["service"])
            weight = max(1, round(backend["weight"] * scale))
            lines.append(
                f"    server {backend['placement']} {address.hostname}:{address.port} weight {weight}"
                " resolvers cluster init-addr last,libc,none"
            )
    return "\n".join(lines) + "\n"


class Proxy:
    """HAProxy as a child process, and what it runs by."""

    def __init__(self, port: int, folder: Path) -> None:
        self._port, self._folder = port, folder
        self._file = folder / "haproxy.cfg"
        self._current = ""
        self._process: subprocess.Popen[bytes] | None = None

    def follow(self, text: str) -> bool:
        """Runs by this document from now on; False when it is refused, and everything stays as it is."""
        try:
            document = json.loads(text)
            wanted = configuration(document, self._port, self._folder)
        except ValueError as error:
            _say(f"document refused: {error}")
            return False
        if wanted == self._current:
            return True
        candidate = self._folder / "candidate.cfg"
        candidate.write_text(wanted)
        checked = subprocess.run(["haproxy", "-c", "-q", "-f", candidate], capture_output=True, text=True, check=False)
        if checked.returncode != 0:
            _say(f"configuration refused by haproxy: {checked.stderr}")
            return False
        candidate.replace(self._file)
        self._current = wanted
        if self._process is None:
            self._process = subprocess.Popen(["haproxy", "-W", "-db", "-f", self._file])
        else:
            self._process.send_signal(signal.SIGUSR2)
        _say(f"runs by epoch {document.get('epoch')}")
        return True

    @property
    def ended(self) -> int | None:
        """The exit status of HAProxy, None while it runs or was not started."""
        return self._process.poll() if self._process is not None else None

    def finish(self) -> int:
        """Lets running requests finish."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGUSR1)
        return self._process.wait()


def _say(line: str) -> None:
    print(f"follow: {line}", file=sys.stderr, flush=True)


def main() -> int:
    """Follows a mounted document until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("document", type=Path, help="routing.json, as the ConfigMap is mounted")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--folder", type=Path, default=Path("/run/haproxy"), help="for the configuration and the socket"
    )
    options = parser.parse_args()
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    signal.signal(signal.SIGINT, lambda number, _frame: stopping.append(number))
    proxy, seen = Proxy(options.port, options.folder), None
    while not stopping:
        try:
            text = options.document.read_text()
        except OSError as error:
            text = seen
            if seen is None:
                _say(f"no document yet: {error}")
        if text is not None and text != seen:
            seen = text
            proxy.follow(text)
        if proxy.ended is not None:
            return proxy.ended or 1
        time.sleep(1)
    return proxy.finish()


if __name__ == "__main__":
    sys.exit(main())
