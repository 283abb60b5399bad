"""What a workload says of how it was rendered, so that a later release can go on with it instead of rendering anew.

The spec stands on the workload a second time, as JSON: server-side apply takes away what an apply leaves out, so a
release that cannot render a template must be able to send it as it was, and to put back what others changed.
"""

import json
from collections.abc import Mapping
from typing import Any

from plimsoll import __version__
from plimsoll.api.units import parse_quantity
from plimsoll.planning.plan import Placement
from plimsoll.planning.snapshot import Made
from plimsoll.rendering import labels
from plimsoll.rendering.manifest import Manifest, RenderError


def recorded(workload: Manifest, placement: Placement) -> Manifest:
    """A workload that this release renders, with the record of that."""
    spec = {key: value for key, value in workload["spec"].items() if key != "replicas"}
    return _annotated(
        workload,
        {
            labels.MADE_BY: __version__,
            labels.ASKED: placement.asked,
            labels.RENDERED: json.dumps(spec, sort_keys=True, separators=(",", ":")),
        },
    )


def as_made(workload: Manifest, live: Mapping[str, Any] | None) -> Manifest:
    """A workload that another release rendered, with its spec of then. Only its replicas are this release's.

    Raises:
        RenderError: the running workload is gone, or its record is.
    """
    record = _record(live or {})
    if record is None:
        kind, name = workload["kind"], workload["metadata"]["name"]
        message = f"annotation {labels.RENDERED} is missing or no JSON object, or the object is gone"
        raise RenderError(f"{kind} {workload['metadata']['namespace']}/{name}: {message}; planned again at once")
    kept = (labels.MADE_BY, labels.ASKED, labels.RENDERED)
    annotations = (live or {})["metadata"]["annotations"]
    result = _annotated(workload, {key: annotations[key] for key in kept if key in annotations})
    return {**result, "spec": {**record, "replicas": workload["spec"]["replicas"]}}


def made_of(live: Mapping[str, Any]) -> Made | None:
    """How a running workload was made; None where it does not say, or not in a form that is known."""
    annotations = (live.get("metadata") or {}).get("annotations") or {}
    record = _record(live)
    release, asked = annotations.get(labels.MADE_BY), annotations.get(labels.ASKED)
    if record is None or not release or not asked:
        return None
    try:
        template = record["template"] if "template" in record else record["leaderWorkerTemplate"]["leaderTemplate"]
        container = template["spec"]["containers"][0]
        requests = container["resources"]["requests"]
        return Made(
            release=str(release),
            asked=str(asked),
            image=str(container["image"]),
            checkpoint=str(container["args"][0]),
            cpu_cores=float(parse_quantity(requests["cpu"])),
            memory_bytes=int(parse_quantity(requests["memory"])),
        )
    except (KeyError, IndexError, TypeError, ValueError):
        return None  # somebody edited it: the placement counts as obsolete, and a new one is made before it goes


def made_elsewhere(live: Mapping[str, Any] | None) -> bool:
    """Whether another release made a running workload. A plan that was approved under that release does not say so."""
    made = made_of(live) if live is not None else None
    return made is not None and made.release != __version__


def _record(live: Mapping[str, Any]) -> dict[str, Any] | None:
    text = ((live.get("metadata") or {}).get("annotations") or {}).get(labels.RENDERED)
    try:
        record = json.loads(text) if text else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _annotated(workload: Manifest, added: Mapping[str, str]) -> Manifest:
    own = workload["metadata"]
    return {**workload, "metadata": {**own, "annotations": {**own.get("annotations", {}), **added}}}
