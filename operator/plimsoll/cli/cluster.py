"""The cluster as the commands see it: read and written with the rights of the person who asks, and nothing more."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config

from plimsoll.api.common import GROUP
from plimsoll.controller import records
from plimsoll.controller.client import ApiError, Client, load_configuration
from plimsoll.controller.kinds import CONFIG_MAP, RESOURCES, Kind
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.records import Record
from plimsoll.planning.archive import ArchiveError, restored
from plimsoll.planning.plan import FleetPlan
from plimsoll.rendering.details import details_content

FIELD_MANAGER = "kubectl-plimsoll"
PLAN = RESOURCES["PlacementPlan"]
Manifest = Mapping[str, Any]
T = TypeVar("T")


class ClusterError(click.ClickException):
    """The cluster refuses, or lacks what was asked for."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which cluster, and where in it, as kubectl's flags say it."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None


class Cluster:
    """A cluster to ask. Made by `asked`."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self.namespace = namespace
        """The given one, else that of the context."""

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Manifest:
        """One object.

        Raises:
            ClusterError: there is none.
        """
        try:
            return await self._client.request("GET", kind.path(namespace, name), {}, verb="get")
        except ApiError as error:
            if error.status != 404:
                raise
            place = f" in namespace {namespace}" if namespace else ""
            raise ClusterError(f"there is no {kind.name} {name}{place}") from error

    async def all(self, kind: Kind, namespace: str = "") -> list[Manifest]:
        """All objects of a kind, in one namespace or everywhere."""
        try:
            answer = await self._client.request("GET", kind.path(namespace), {}, verb="list")
        except ApiError as error:
            if error.status == 404 and kind.group == GROUP:
                raise ClusterError(
                    f"the cluster has no {kind.plural}.{kind.group}: Plimsoll's custom resource definitions are "
                    "missing (plimsoll crds | kubectl apply --server-side -f -)"
                ) from error
            raise
        items: list[Manifest] = answer.get("items") or []
        return items

    async def patch(self, kind: Kind, name: str, patch: Manifest, namespace: str = "") -> None:
        """A merge patch in the person's name.

        Raises:
            ClusterError: there is no such object.
        """
        try:
            await self._client.request(
                "PATCH",
                kind.path(namespace, name),
                {"fieldManager": FIELD_MANAGER},
                body=patch,
                content_type="application/merge-patch+json",
                verb="patch",
            )
        except ApiError as error:
            if error.status != 404:
                raise
            place = f" in namespace {namespace}" if namespace else ""
            raise ClusterError(f"there is no {kind.name} {name}{place}") from error

    # --- Plans -------------------------------------------------------------------------------------------------------

    async def plans(self) -> list[Record]:
        """The kept plans, oldest first."""
        return records.records(await self.all(PLAN))

    async def plan(self, name: str = "") -> Record:
        """The plan of that name, or the newest.

        Raises:
            ClusterError: there is none; names those that there are.
        """
        found = await self.plans()
        wanted = [record for record in found if name in ("", record.name)]
        if wanted:
            return wanted[-1]
        if name and found:
            raise ClusterError(f"there is no PlacementPlan {name}; kept are {found[0].name} to {found[-1].name}")
        raise ClusterError("there is no PlacementPlan yet: see `kubectl get llmdeployments,placementpolicies`")

    async def details(self, record: Record) -> FleetPlan:
        """The whole decision.

        Raises:
            ClusterError: it was not kept, is not what was recorded, or may not be read.
        """
        if not record.details:
            raise ClusterError(f"{record.name}: its details were not kept")
        try:
            parts = [await self.get(CONFIG_MAP, name, namespace) for namespace, name in record.details]
            fleet = restored(details_content(parts, record.details_digest))
        except ArchiveError as error:
            raise ClusterError(f"{record.name}: its details cannot be trusted: {error}") from error
        if records.decision_digest(fleet) != record.decision:
            raise ClusterError(f"{record.name}: its details are of another decision than its decisionDigest")
        return fleet


def asked(target: Target, work: Callable[[Cluster], Awaitable[T]]) -> T:
    """What `work` finds out from the cluster.

    Raises:
        ClusterError: no way to log in, no answer, no right, no such object.
    """
    return asyncio.run(_asked(target, work))


async def _asked(target: Target, work: Callable[[Cluster], Awaitable[T]]) -> T:
    try:
        configuration = await _configuration(target)
        async with Client(configuration, Metrics()) as client:
            return await work(Cluster(client, target.namespace or _namespace(target)))
    except ApiError as error:
        if error.status == 401:
            raise ClusterError(f"the API server does not know you: {error}") from error
        if error.status == 403:
            raise ClusterError(f"you may not do that: {error}") from error
        raise ClusterError(str(error)) from error


async def _configuration(target: Target) -> k8s.Configuration:
    if target.kubeconfig is None and target.context is None:
        return await load_configuration()
    configuration = k8s.Configuration()
    file = str(target.kubeconfig) if target.kubeconfig is not None else None
    try:
        await k8s_config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=file, context=target.context, client_configuration=configuration
        )
    except (k8s_config.ConfigException, OSError) as error:
        raise ClusterError(f"the kubeconfig cannot be used: {error}") from error
    return configuration


def _namespace(target: Target) -> str:
    """The namespace of the context; `default` where none is named, or where there is no kubeconfig."""
    file = str(target.kubeconfig) if target.kubeconfig is not None else None
    try:
        contexts, active = k8s_config.list_kube_config_contexts(file)  # type: ignore[no-untyped-call]
    except (k8s_config.ConfigException, OSError):
        return "default"
    chosen = next((item for item in contexts if item["name"] == target.context), active)
    return str(chosen["context"].get("namespace") or "default")
