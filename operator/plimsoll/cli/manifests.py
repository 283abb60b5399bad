"""Reads folders of manifests for commands that need no cluster."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

from plimsoll.api import KINDS
from plimsoll.api.common import GROUP, Resource
from plimsoll.api.gpunodepool import GPUNodePool
from plimsoll.api.inferenceslo import InferenceSLO
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.modelprofile import ModelProfile
from plimsoll.api.parse import InvalidResource, parse
from plimsoll.api.placementpolicy import PlacementPolicy
from plimsoll.planning import distances
from plimsoll.planning.namespaces import LimitRangeFacts, NamespaceFacts, QuotaFacts, within
from plimsoll.planning.observed import in_force
from plimsoll.planning.recalled import recalled
from plimsoll.planning.snapshot import (
    InvalidObject,
    MeasuredTrip,
    NodeFacts,
    ObjectRef,
    PodFacts,
    Snapshot,
    SpeedCorrection,
    Workload,
)
from plimsoll.rendering.corrections import NAME as CORRECTIONS
from plimsoll.rendering.corrections import learnt_from_config_map
from plimsoll.rendering.observe import metadata_of, node_facts, pod_facts, workload_facts
from plimsoll.rendering.observe_namespaces import limit_range_facts, namespace_facts, quota_facts
from plimsoll.rendering.round_trips import NAME as ROUND_TRIPS
from plimsoll.rendering.round_trips import measurements_from_config_map

Kind = TypeVar("Kind", bound=Resource)

_WORKLOADS = (
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
)
LEADER_WORKER_SET_CRD = "leaderworkersets.leaderworkerset.x-k8s.io"
_NAMESPACED = {kind.__name__ for kind in KINDS if kind.names.scope == "Namespaced"}
_SUFFIXES = {".yaml", ".yml", ".json"}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class FileError(click.ClickException):
    """Input that cannot be used; the message begins with the file."""


@dataclass(slots=True)
class Inputs:
    """What the files describe, by kind."""

    resources: dict[ObjectRef, Resource] = field(default_factory=dict)
    invalid: dict[ObjectRef, InvalidObject] = field(default_factory=dict)
    sources: dict[ObjectRef, Path] = field(default_factory=dict)
    nodes: dict[str, NodeFacts] = field(default_factory=dict)
    pods: list[PodFacts] = field(default_factory=list)
    workloads: list[Workload] = field(default_factory=list)
    corrections: tuple[SpeedCorrection, ...] = ()
    round_trips: tuple[MeasuredTrip, ...] = ()
    namespaces: list[NamespaceFacts] = field(default_factory=list)
    quotas: list[QuotaFacts] = field(default_factory=list)
    limit_ranges: list[LimitRangeFacts] = field(default_factory=list)
    several_nodes: bool = False
    """LeaderWorkerSet's CRD is among them."""

    def snapshot(self, *, gateway_api: bool = False) -> Snapshot:
        """The planner's input. Without nodes the stock is what pools declare, or unlimited."""

        policies = self._of(PlacementPolicy)
        deployments = self._of(LLMDeployment)
        in_use = {item.namespace for item in deployments}
        observed = not policies or policies[0].spec.demand.source == "Observed"
        demand = tuple(part for item in deployments for part in recalled(item.namespace, item.name, item.status))
        return Snapshot(
            deployments=deployments,
            pools=self._of(GPUNodePool),
            slos=self._of(InferenceSLO),
            profiles=self._of(ModelProfile),
            policy=policies[0] if policies else None,
            nodes=tuple(self.nodes[name] for name in sorted(self.nodes)) if self.nodes else None,
            pods=tuple(sorted(self.pods, key=lambda pod: (pod.namespace, pod.name))),
            workloads=tuple(sorted(self.workloads, key=lambda item: (item.namespace, item.name))),
            invalid=tuple(self.invalid[ref] for ref in sorted(self.invalid)),
            corrections=self.corrections,
            gateway_api=gateway_api,
            namespaces=tuple(
                sorted((item for item in self.namespaces if item.name in in_use), key=lambda item: item.name)
            ),
            quotas=within(self.quotas, in_use),
            limit_ranges=within(self.limit_ranges, in_use),
            several_nodes=self.several_nodes,
            demand=demand if observed else (),
            round_trips=self.round_trips,
        )

    def _of(self, kind: type[Kind]) -> tuple[Kind, ...]:
        found = (item for item in self.resources.values() if isinstance(item, kind))
        return tuple(sorted(found, key=lambda item: (item.namespace, item.name)))


def read_inputs(paths: Sequence[Path]) -> Inputs:
    """Read files and folders (recursively).

    Raises:
        FileError: a file is missing or is no YAML, or an object is defined twice.
    """
    inputs = Inputs()
    files = {
        file.resolve(): file for path in paths for file in _files(path)
    }  # `-f DIR --nodes DIR/nodes.yaml` is one file
    for file in files.values():
        for manifest in _documents(file):
            _take(inputs, file, manifest)
    return inputs


def is_empty_folder(path: Path) -> bool:
    """Whether it is a folder without any manifest."""
    return path.is_dir() and not any(file.suffix in _SUFFIXES and file.is_file() for file in path.rglob("*"))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
        if not found:
            raise FileError(f"{path}: no .yaml, .yml or .json file in this folder")
        return found
    if not path.exists():
        raise FileError(f"{path}: no such file or folder")
    return [path]


def _documents(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with file.open(encoding="utf-8") as stream:
            for document in yaml.load_all(stream, Loader=_LOADER):
                yield from _flatten(file, document)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark is not None else str(file)
        raise FileError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{file}: not UTF-8 text") from error
    except OSError as error:
        raise FileError(f"{file}: cannot be read: {error.strerror}") from error


def _flatten(file: Path, document: object) -> Iterator[Mapping[str, Any]]:
    if document is None:
        return
    if not isinstance(document, Mapping) or "kind" not in document:
        raise FileError(f"{file}: a document is not a Kubernetes object: it needs apiVersion and kind")
    if str(document["kind"]).endswith("List") and isinstance(document.get("items"), list):
        for item in document["items"]:
            yield from _flatten(file, item)
    else:
        yield document


def _take(inputs: Inputs, file: Path, manifest: Mapping[str, Any]) -> None:
    kind, api_version = str(manifest["kind"]), str(manifest.get("apiVersion", ""))
    if api_version.partition("/")[0] == GROUP:
        _take_resource(inputs, file, manifest)
    elif (api_version, kind) == ("v1", "Node"):
        node = node_facts(manifest)
        inputs.nodes[node.name] = node
    elif (api_version, kind) == ("v1", "Namespace"):
        inputs.namespaces.append(namespace_facts(manifest))
    elif (api_version, kind) == ("v1", "ResourceQuota"):
        inputs.quotas.append(quota_facts(manifest))
    elif (api_version, kind) == ("v1", "LimitRange"):
        inputs.limit_ranges.append(limit_range_facts(manifest))
    elif (api_version, kind) == ("v1", "Pod"):
        pod = pod_facts(manifest)
        if pod is not None:
            inputs.pods.append(pod)
    elif (kind, metadata_of(manifest).get("name")) == ("CustomResourceDefinition", LEADER_WORKER_SET_CRD):
        inputs.several_nodes = True
    elif (api_version, kind) in _WORKLOADS:
        running = workload_facts(manifest)
        if running is not None:
            inputs.workloads.append(running)
    elif (api_version, kind) == ("v1", "ConfigMap") and metadata_of(manifest).get("name") == CORRECTIONS:
        learnt, problems = learnt_from_config_map(manifest)
        if problems:
            raise FileError(f"{file}: ConfigMap {CORRECTIONS}: {problems[0]}")
        inputs.corrections = in_force(learnt)
    elif (api_version, kind) == ("v1", "ConfigMap") and metadata_of(manifest).get("name") == ROUND_TRIPS:
        measured, problems = measurements_from_config_map(manifest)
        if problems:
            raise FileError(f"{file}: ConfigMap {ROUND_TRIPS}: {problems[0]}")
        inputs.round_trips = distances.in_force((), measured, datetime.now(UTC))


def _take_resource(inputs: Inputs, file: Path, manifest: Mapping[str, Any]) -> None:
    metadata = manifest.get("metadata")
    name = str(metadata.get("name", "?")) if isinstance(metadata, Mapping) else "?"
    try:
        resource = parse(manifest)
    except InvalidResource as error:
        kind = str(manifest["kind"])
        given = str(metadata.get("namespace") or "") if isinstance(metadata, Mapping) else ""
        ref = ObjectRef(kind, given or ("default" if kind in _NAMESPACED else ""), name)
        inputs.invalid[ref] = InvalidObject(ref, "", 0, error.problems, str(file))
    else:
        if resource.kind == "PlacementPlan":
            return
        ref = ObjectRef(resource.kind, resource.namespace, resource.name)
        inputs.resources[ref] = resource
    if ref in inputs.sources:
        first = inputs.sources[ref]
        raise FileError(f"{file}: {ref} is defined twice{'' if first == file else f', also in {first}'}")
    inputs.sources[ref] = file
