"""Asking a Prometheus, guarded: TLS is verified, no redirect is followed, answers are limited in time and size."""

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

Labels = frozenset[tuple[str, str]]
_TIMEOUT_SECONDS = 30.0
_LARGEST_BYTES = 64 * 2**20
_CHUNK_BYTES = 64 * 2**10
_LOCAL = ("localhost", "127.0.0.1", "::1")


class PrometheusError(Exception):
    """It cannot be asked, or its answer is none; the message names the address and what is wrong."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where a Prometheus is and how to be let in."""

    url: str
    """Its address, with a path where a proxy needs one; `/api/v1/...` is added."""
    token_file: Path | None = None
    """Bearer token, read anew for every connection."""
    token: str = ""
    """Where there is no file."""
    ca_file: Path | None = None
    """Certificates to trust in place of the system's."""
    certificate_file: Path | None = None
    key_file: Path | None = None
    """What to show a server that asks for a certificate: chain and key in PEM form, read anew for every connection."""
    proxy: str | None = None

    def check(self) -> None:
        """Look at the address alone; nothing is asked.

        Raises:
            PrometheusError: it is none, or would give the token away.
        """
        try:
            parts = urlsplit(self.url)
            parts.port  # noqa: B018  (raises for what is none)
        except ValueError as error:
            raise PrometheusError(f"{self.url}: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PrometheusError(f"{self.url}: an address that begins with https:// or http:// is needed")
        if parts.username or parts.password:
            raise PrometheusError(f"no credentials in the address of {parts.hostname}; give a bearer token")
        if (self.token or self.token_file) and parts.scheme == "http" and parts.hostname not in _LOCAL:
            raise PrometheusError(f"{self.url}: a token goes over https only (or to localhost)")


@dataclass(frozen=True, slots=True)
class Sample:
    """A finite value of a series at a moment (Unix seconds)."""

    labels: Labels
    """Without the metric's name and without bucket bounds."""
    moment: float
    value: float


class Prometheus:
    """A connection. Use as an async context manager.

    Raises:
        PrometheusError: the address is none, or token or certificates cannot be read.
    """

    def __init__(self, access: Access) -> None:
        access.check()
        self._access = access
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if token := _token(access):
            headers["Authorization"] = f"Bearer {token}"
        self._headers = headers
        try:
            self._tls = ssl.create_default_context(cafile=access.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise PrometheusError(f"{access.ca_file}: no certificates in PEM form: {error}") from error
        if access.certificate_file is not None:
            try:
                self._tls.load_cert_chain(access.certificate_file, access.key_file)
            except (OSError, ssl.SSLError) as error:
                raise PrometheusError(f"{access.certificate_file}: no certificate with its key: {error}") from error

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        self._session = aiohttp.ClientSession(
            headers=self._headers, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def instant(self, expression: str) -> list[Sample]:
        """The expression's values now, by the server's clock.

        Raises:
            PrometheusError: there is no answer.
        """
        return await self._ask("query", {"query": expression})

    async def range(self, expression: str, start: float, end: float, step_seconds: float) -> list[Sample]:
        """The expression's values at steps from `start` to `end` (Unix seconds).

        Raises:
            PrometheusError: there is no answer.
        """
        fields = {"query": expression, "start": str(start), "end": str(end), "step": str(step_seconds)}
        return await self._ask("query_range", fields)

    async def _ask(self, what: str, fields: Mapping[str, str]) -> list[Sample]:
        url, access = f"{self._access.url.rstrip('/')}/api/v1/{what}", self._access
        try:
            async with self._session.post(
                url, data=fields, ssl=self._tls, allow_redirects=False, proxy=access.proxy
            ) as answer:
                if answer.status != 200:
                    said = (await answer.content.read(300)).decode("utf-8", "replace").strip()
                    raise PrometheusError(
                        f"{access.url}: HTTP {answer.status} to {fields['query']}: {said or answer.reason or ''}"
                    )
                text = bytearray()
                async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                    text += chunk
                    if len(text) > _LARGEST_BYTES:
                        raise PrometheusError(f"{access.url}: an answer above {_LARGEST_BYTES // 2**20} MiB")
        except TimeoutError as error:
            raise PrometheusError(f"{access.url}: no answer within {_TIMEOUT_SECONDS:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise PrometheusError(f"{access.url}: {error}") from error
        try:
            return [sample for series in json.loads(text)["data"]["result"] for sample in _samples(series)]
        except (KeyError, TypeError, ValueError) as error:
            raise PrometheusError(f"{access.url}: not an answer of Prometheus' {what}") from error


def _samples(series: Mapping[str, Any]) -> list[Sample]:
    labels = frozenset(
        (str(name), str(value)) for name, value in series["metric"].items() if name not in ("__name__", "le")
    )
    values = series["values"] if "values" in series else [series["value"]]
    found = (Sample(labels, float(moment), float(text)) for moment, text in values)
    return [sample for sample in found if isfinite(sample.value)]


def _token(access: Access) -> str:
    if access.token_file is None:
        return access.token.strip()
    try:
        return access.token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PrometheusError(f"{access.token_file}: the token cannot be read") from error
