"""PETALS over the servers of a chain, which is a private swarm: each serves its blocks. Beside the first one, in its
container and on its GPU, a front end answers requests.

The image has to bring PETALS and the program `plimsoll-petals` (examples/petals/image). Peer IDs are not known before
the pods exist: the servers tell them each other, found by the chain's headless Service.
"""

from typing import Any

from plimsoll.api.engine import Engine
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.plan import Option, Stage
from plimsoll.rendering.engine import vllm

PEER_PORT = 31330
"""Of libp2p."""
SWARM_PORT = 31331
"""Where a server says how to join the swarm. Both ports are those of `plimsoll-petals`."""

LIVE_PATH = "/live"
"""Whether the front end runs, whatever the other servers do."""

_QUANTISATION = {"bf16": "none", "int8": "int8", "int4": "nf4"}
_UPDATE_SECONDS = 60
"""How often servers say in the swarm that they are there; they are forgotten after twice that."""


def command() -> list[str]:
    """The program that starts PETALS, and the front end beside it."""
    return ["plimsoll-petals"]


def arguments(owner: LLMDeployment, option: Option, stage: Stage, peers: str) -> list[str]:
    """Command line of a server; `peers` is the name under which all servers of the chain are found."""
    tensor = option.parallelism.tensor
    devices = ["--tensor_parallel_devices", *(f"cuda:{number}" for number in range(tensor))] if tensor > 1 else []
    return [
        option.checkpoint,
        *("--peers", peers),
        *("--dht_prefix", stage.chain),
        *(_front_end(owner, option) if stage.number == 0 else []),
        *("--block_indices", f"{stage.first_layer}:{stage.first_layer + stage.layers}"),
        *("--inference_max_length", str(option.max_model_length)),
        *("--attn_cache_tokens", str(option.cache_tokens)),
        *("--torch_dtype", "bfloat16"),
        *("--quant_type", _QUANTISATION[option.precision]),
        *devices,
        # A number, so that nothing is measured against servers elsewhere; a chain has one route, whatever it says.
        *("--throughput", "1"),
        *("--update_period", str(_UPDATE_SECONDS)),
    ]


def _front_end(owner: LLMDeployment, option: Option) -> list[str]:
    """A server that is told a port founds the swarm and answers requests."""
    return [
        *("--served-model-name", *vllm.served_names(owner, option.model)),
        *("--port", str(vllm.PORT)),
        *("--max-model-len", str(option.max_model_length)),
        *("--max-num-seqs", str(option.max_num_seqs)),
    ]


def environment(engine: Engine) -> list[dict[str, Any]]:
    """As for vLLM, where PETALS keeps weights, and the pod's address, under which peers reach it."""
    address = {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}
    return [
        *(item for item in vllm.environment(engine) if not item["name"].startswith("VLLM_")),
        {"name": "PETALS_CACHE", "value": f"{vllm.CACHE_PATH}/petals"},
        {"name": "PLIMSOLL_POD_IP", "valueFrom": address},
    ]


def behaviour(stage: Stage, load_seconds: float) -> dict[str, Any]:
    """Probes and hooks of a server.

    The first one is Ready when all blocks of the chain have a server. That it is restarted depends on itself alone:
    it serves on as soon as a lost server is back.
    """
    if stage.number == 0:
        probes = vllm.probes(load_seconds)
        for name in ("startupProbe", "livenessProbe"):
            probes[name]["httpGet"]["path"] = LIVE_PATH
        return {**probes, "lifecycle": vllm.lifecycle()}
    tries = {"startupProbe": vllm.startup_tries(load_seconds), "readinessProbe": 3, "livenessProbe": 3}
    return {
        name: {
            "tcpSocket": {"port": PEER_PORT},
            "periodSeconds": vllm.PROBE_PERIOD_SECONDS,
            "timeoutSeconds": 5,
            "failureThreshold": count,
        }
        for name, count in tries.items()
    }
