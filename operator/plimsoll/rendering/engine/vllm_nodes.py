"""vLLM over several nodes: one process per node, started by vLLM's own multi-node launch, without Ray.

The leader (rank 0) answers requests; workers have no HTTP server. Every node reads the weights from its own mount.
"""

from typing import Any

from plimsoll.api.engine import Engine
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.plan import Option
from plimsoll.rendering.engine import vllm

MINIMUM_VERSION = "0.18.0"
"""Multi-node launch with the `mp` executor (vLLM pull 23691) is older; what else is rendered needs this release."""

RANK_PORT = 29500
"""Where the leader's ranks wait for the others. Further ports are chosen as the engine starts."""

_LEADER = "$(LWS_LEADER_ADDRESS)"
_RANK = "$(LWS_WORKER_INDEX)"
"""Filled in by the kubelet from variables that LeaderWorkerSet sets; no shell is needed."""

_REACHES_LEADER = (
    "import os, socket, sys; "
    "socket.create_connection((os.environ['LWS_LEADER_ADDRESS'], int(sys.argv[1])), timeout=5).close()"
)
_PROBE_SECONDS = 10


def leader_arguments(deployment: LLMDeployment, option: Option) -> list[str]:
    """Command line of rank 0."""
    return vllm.arguments(deployment, option, _launch(option, "0"))


def worker_arguments(deployment: LLMDeployment, option: Option) -> list[str]:
    """Command line of the other ranks: the leader's, since all must agree on the engine's settings."""
    return vllm.arguments(deployment, option, [*_launch(option, _RANK), "--headless"])


def environment(engine: Engine) -> list[dict[str, Any]]:
    """As on one node, and the address under which the other ranks reach this pod."""
    address = {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}
    return [*vllm.environment(engine), {"name": "VLLM_HOST_IP", "valueFrom": address}]


def worker_probes(load_seconds: float) -> dict[str, Any]:
    """Probes of a worker: whether the leader's ranks can be reached.

    That the worker's own process is there is what a running container means. Without a probe, a worker that lost its
    leader would look healthy for ever. No readiness probe: nobody sends it requests.
    """
    tries = {"startupProbe": vllm.startup_tries(load_seconds), "livenessProbe": 3}
    return {
        name: {
            "exec": {"command": ["python3", "-c", _REACHES_LEADER, str(RANK_PORT)]},
            "periodSeconds": vllm.PROBE_PERIOD_SECONDS,
            "timeoutSeconds": _PROBE_SECONDS,
            "failureThreshold": count,
        }
        for name, count in tries.items()
    }


def _launch(option: Option, rank: str) -> list[str]:
    return [
        *("--distributed-executor-backend", "mp"),
        *("--nnodes", str(option.nodes)),
        *("--node-rank", rank),
        *("--master-addr", _LEADER),
        *("--master-port", str(RANK_PORT)),
    ]
