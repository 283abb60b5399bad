"""All knobs of the operator process, from the environment. The chart sets it; the defaults suit most clusters."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from plimsoll.telemetry.prometheus import Access, PrometheusError

_NAME = re.compile(r"(?=.{0,253}$)([a-z0-9]([-.a-z0-9]*[a-z0-9])?)?")
_LABEL_LENGTH = 63


class SettingsError(ValueError):
    """An environment variable holds something that does not fit."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Knobs. `PLIMSOLL_<NAME>` in the environment overrides each."""

    namespace: str = "plimsoll-system"
    """Where the operator itself runs."""
    identity: str = ""
    """Which of several operators this is, such as the name of its pod; empty: the host's name and a random part."""
    lease_name: str = ""
    """Lease in that namespace which elects the one operator that acts; empty: there is only this one."""
    watch_namespaces: tuple[str, ...] = ()
    """Where LLMDeployments are looked after, comma-separated; empty: in all namespaces. Pods are read in all of them in
    any case, since everybody's pods take GPUs from the same nodes."""
    health_host: str = "0.0.0.0"  # noqa: S104  (probes and Prometheus come from outside the pod)
    """Where the health port listens; "::" on IPv6-only clusters."""
    health_port: int = 8080
    """Serves /healthz, /readyz and /metrics; 0 picks a free port."""
    debounce_idle_seconds: float = 0.5
    """Planning starts when nothing has changed for that long …"""
    debounce_cap_seconds: float = 3.0
    """… or that long after the first change."""
    plan_deadline_seconds: float = 120.0
    """A planning round that takes longer is killed; the previous plan stays."""
    planner_memory_megabytes: int = 1024
    """A planning round whose process grows beyond that is killed; the previous plan stays."""
    audit_interval_seconds: float = 300.0
    """How often the operator's view is compared with the API server: objects, and which APIs there are."""
    in_flight: int = 16
    """Writes that may be under way at once."""
    rate_per_second: float = 200.0
    """Writes per second …"""
    rate_burst: int = 300
    """… and at once."""
    prometheus_url: str = ""
    """Where to read what the replicas show; empty: demand is as declared, and predictions are not corrected."""
    prometheus_token_file: str = ""
    """Bearer token for it; goes over https only."""
    prometheus_ca_file: str = ""
    """Certificates to trust for it, in PEM form, in place of the system's."""
    prometheus_certificate_file: str = ""
    """Certificate to show it, in PEM form; with its key."""
    prometheus_key_file: str = ""
    """Key of that certificate."""
    arrivals_query: str = ""
    """PromQL: requests per second that reach a gateway, with labels namespace, deployment and traffic; empty: demand is
    what reaches the engines."""
    demand_interval_seconds: float = 15.0
    """How often demand is read, each time over four times as long; at least the scrape interval."""
    correction_interval_seconds: float = 300.0
    """How often they are read, each time what was counted since; at least four times the scrape interval."""
    slo_interval_seconds: float = 60.0
    """How often attainment is read, over 5 minutes, an hour and a day; the day less often."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR"""
    log_format: str = "json"
    """json or text."""

    def __post_init__(self) -> None:
        positive = (
            "debounce_idle_seconds",
            "debounce_cap_seconds",
            "plan_deadline_seconds",
            "planner_memory_megabytes",
            "audit_interval_seconds",
            "in_flight",
            "rate_per_second",
            "rate_burst",
        )
        for name in ("correction_interval_seconds", "demand_interval_seconds", "slo_interval_seconds"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{variable(name)}={getattr(self, name)}: must be at least 1")
        if bool(self.prometheus_certificate_file) != bool(self.prometheus_key_file):
            raise SettingsError(
                f"{variable('prometheus_certificate_file')}={self.prometheus_certificate_file}: must go together with "
                f"{variable('prometheus_key_file')}"
            )
        if self.prometheus_url:
            try:
                self.prometheus.check()
            except PrometheusError as error:
                raise SettingsError(f"{variable('prometheus_url')}: {error}") from error
        for name in self.watch_namespaces:
            if len(name) > _LABEL_LENGTH or not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name):
                raise SettingsError(
                    f"{variable('watch_namespaces')}={','.join(self.watch_namespaces)}: {name!r} is not the name of a "
                    "namespace; names are separated by commas"
                )
        for name in positive:
            if getattr(self, name) <= 0:
                raise SettingsError(f"{variable(name)}={getattr(self, name)}: must be above 0")
        if not 0 <= self.health_port <= 65535:
            raise SettingsError(f"{variable('health_port')}={self.health_port}: must be a port, 0 to 65535")
        for name in ("identity", "lease_name"):
            value = getattr(self, name)
            if not _NAME.fullmatch(value):
                raise SettingsError(f"{variable(name)}={value}: must be a DNS name: a-z, 0-9, '-' and '.', at most 253")
        if self.log_level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise SettingsError(f"{variable('log_level')}={self.log_level}: must be DEBUG, INFO, WARNING or ERROR")
        if self.log_format not in {"json", "text"}:
            raise SettingsError(f"{variable('log_format')}={self.log_format}: must be json or text")

    @property
    def prometheus(self) -> Access:
        """How Prometheus is read."""
        token, authorities, certificate, key = (
            Path(name) if name else None
            for name in (
                self.prometheus_token_file,
                self.prometheus_ca_file,
                self.prometheus_certificate_file,
                self.prometheus_key_file,
            )
        )
        return Access(self.prometheus_url, token, ca_file=authorities, certificate_file=certificate, key_file=key)

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Settings from environment variables.

        Raises:
            SettingsError: names the variable, its value and what would be accepted.
        """
        source = os.environ if environment is None else environment
        values: dict[str, object] = {}
        for item in fields(cls):
            text = source.get(variable(item.name), "")
            if not text:
                continue
            convert = _CONVERSIONS.get(type(item.default), str)
            try:
                values[item.name] = convert(text)
            except ValueError:
                what = "a whole number" if convert is int else "a number"
                raise SettingsError(f"{variable(item.name)}={text}: must be {what}") from None
        return cls(**values)  # type: ignore[arg-type]  # the conversion above follows the defaults' types

    def __str__(self) -> str:
        return " ".join(f"{item.name}={getattr(self, item.name)}" for item in fields(self))


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",")))


_CONVERSIONS: Mapping[type, Callable[[str], object]] = {int: int, float: float, tuple: _names}


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"PLIMSOLL_{name.upper()}"
