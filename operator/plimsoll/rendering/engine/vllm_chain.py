"""vLLM over the servers of a chain: one process per server, with as many layers in each as was planned.

The first server (rank 0) answers requests; the others have no HTTP server. Ranks find the first one by its pod's own
name, which the chain's headless Service publishes before it is Ready.
"""

from collections.abc import Sequence
from typing import Any

from plimsoll.api.engine import Engine
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.plan import Option, Stage
from plimsoll.rendering.engine import vllm
from plimsoll.rendering.engine.vllm_nodes import RANK_PORT

MINIMUM_VERSION = "0.18.0"
"""`VLLM_PP_LAYER_PARTITION` is older; multi-node launch with the `mp` executor needs this release."""

PARTITION = "VLLM_PP_LAYER_PARTITION"
_REACHES_FIRST = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).close()"
_PROBE_SECONDS = 10


def arguments(deployment: LLMDeployment, option: Option, stage: Stage, first: str) -> list[str]:
    """Command line of a server; `first` is the address of the first one."""
    servers = len(stage.partition)
    launch: Sequence[str] = ()
    if servers > 1:
        launch = [
            *("--distributed-executor-backend", "mp"),
            *("--nnodes", str(servers)),
            *("--node-rank", str(stage.number)),
            *("--master-addr", first),
            *("--master-port", str(RANK_PORT)),
            *(["--headless"] if stage.number else []),
        ]
    return vllm.arguments(deployment, option, launch, pipeline=servers)


def environment(engine: Engine, stage: Stage) -> list[dict[str, Any]]:
    """As on one node, the address under which the other ranks reach this pod, and the layers of each server."""
    found = vllm.environment(engine)
    if len(stage.partition) == 1:
        return found
    address = {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}
    return [
        *found,
        {"name": "VLLM_HOST_IP", "valueFrom": address},
        {"name": PARTITION, "value": ",".join(map(str, stage.partition))},
    ]


def probes(load_seconds: float, first: str) -> dict[str, Any]:
    """Probes of a server that is not the first: whether the first one's ranks can be reached.

    Ranks cannot join a running engine again. When one stops, so does the first, and the others' probes then fail: the
    whole chain starts anew without anybody's help. They count as Ready as soon as they have joined.
    """
    tries = {"startupProbe": vllm.startup_tries(load_seconds), "readinessProbe": 3, "livenessProbe": 3}
    return {
        name: {
            "exec": {"command": ["python3", "-c", _REACHES_FIRST, first, str(RANK_PORT)]},
            "periodSeconds": vllm.PROBE_PERIOD_SECONDS,
            "timeoutSeconds": _PROBE_SECONDS,
            "failureThreshold": count,
        }
        for name, count in tries.items()
    }
