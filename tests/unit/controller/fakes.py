"""Stand-ins for the client: they record what is written and fail on demand."""

import itertools

from plimsoll.controller.client import ApiError, Listed
from plimsoll.telemetry.prometheus import PrometheusError


class FakeCluster:
    """Takes writes like the API server: gives uids and versions, keeps the applying manager's fields."""

    def __init__(self):
        self.writes = []
        self.refuse = {}
        self.listed = {}
        self.objects = {}
        self.numbers = itertools.count(1)

    def _may(self, verb, kind, name):
        error = self.refuse.get((verb, kind, name)) or self.refuse.get((verb, kind, "*"))
        if error:
            raise ApiError(error, "Refused", f"{kind} {name} is refused")

    async def apply(self, manifest, manager, *, force=True):  # noqa: ARG002
        name = manifest["metadata"]["name"]
        self._may("apply", manifest["kind"], name)
        version = manifest["metadata"].get("resourceVersion")
        known = self.objects.get(f"uid-{manifest['kind']}-{name}")
        if version and known and version != known["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", f"{name} has been modified")
        self.writes.append(("apply", manifest["kind"], name, manager))
        answer = stored(manifest, manager, next(self.numbers))
        if known is not None and "status" in known:
            answer["status"] = known["status"]
        self.objects[answer["metadata"]["uid"]] = answer
        return answer

    async def apply_status(self, manifest, manager):
        name = manifest["metadata"]["name"]
        self._may("status", manifest["kind"], name)
        self.writes.append(("status", manifest["kind"], name, manager))
        whole = self.objects[manifest["metadata"]["uid"]]
        metadata = {**whole["metadata"], "resourceVersion": str(next(self.numbers))}
        answer = {**whole, "metadata": metadata, "status": manifest["status"]}
        self.objects[metadata["uid"]] = answer
        return answer

    async def create(self, kind, manifest, manager):  # noqa: ARG002
        self._may("create", kind.name, manifest["metadata"]["name"])
        self.writes.append(("create", kind.name, manifest["reason"], manifest["type"]))
        return manifest

    async def delete(self, kind, namespace, name, uid, version=""):  # noqa: ARG002
        self._may("delete", kind.name, name)
        self.writes.append(("delete", kind.name, name, uid))

    async def find(self, kind, namespace, name):  # noqa: ARG002
        self._may("find", kind.name, name)
        found = [
            item for item in self.objects.values() if (item["kind"], item["metadata"]["name"]) == (kind.name, name)
        ]
        return found[-1] if found else None

    async def list_metadata(self, kind):
        listed = self.listed.get(kind.name, ())
        return [Listed(uid, "", uid, listed[uid] if isinstance(listed, dict) else "1") for uid in listed]


def stored(manifest, manager, number):
    """`manifest` as the API server keeps it after an apply."""
    metadata = {
        "uid": f"uid-{manifest['kind']}-{manifest['metadata']['name']}",
        **manifest["metadata"],
        "resourceVersion": str(number),
        "managedFields": [{"manager": manager, "operation": "Apply", "fieldsV1": fields_of(manifest)}],
    }
    return {**manifest, "metadata": metadata}


def fields_of(value):
    """A `fieldsV1` tree that owns every map key; lists are taken as atomic."""
    return {
        f"f:{key}": fields_of(item) if isinstance(item, dict) else {}
        for key, item in value.items()
        if key not in ("apiVersion", "kind", "name", "namespace", "resourceVersion")
    }


def prometheus(trouble):
    """In place of `Prometheus`: it can be entered, unless `trouble()` says why not. What is read there is given."""

    class Given:
        instant = None

        def __init__(self, access):
            assert access.url

        async def __aenter__(self):
            if trouble():
                raise PrometheusError(trouble())
            return self

        async def __aexit__(self, *error):
            return None

    return Given
