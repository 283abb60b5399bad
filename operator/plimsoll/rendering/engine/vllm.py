"""vLLM: its command line, environment, ports, probes and metric names. Nothing else in Plimsoll knows them."""

import math
from collections.abc import Sequence
from typing import Any

from plimsoll.api.common import to_wire
from plimsoll.api.engine import Engine
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.plan import Option

MINIMUM_VERSION = "0.18.0"
"""First release with `--shutdown-timeout` (vLLM pull 34730) beside `vllm serve`, `/health` and the metrics below."""

PORT = 8000
PORT_NAME = "http"
HEALTH_PATH = "/health"
METRICS_PATH = "/metrics"

GPU_MEMORY_UTILIZATION = "0.9"
"""vLLM's own default in most releases, written out because the memory model reckons with it."""

PROBE_PERIOD_SECONDS = 10
LOAD_TIME_MARGIN = 3
MINIMUM_STARTUP_TRIES = 60
PRE_STOP_SECONDS = 15
TERMINATION_GRACE_SECONDS = 120
SHUTDOWN_TIMEOUT_SECONDS = TERMINATION_GRACE_SECONDS - PRE_STOP_SECONDS - 5
"""How long running requests may finish after SIGTERM; vLLM's default aborts them at once. 5 s remain for the exit."""

USER_ID = 2000
"""The user `vllm` that recent vLLM images bring; older images run with it too, thanks to USER and HOME below."""

CACHE_PATH = "/cache"
"""Weights. A claim here is shared by all pods of the deployment."""
SCRATCH_PATH = "/scratch"
"""HOME and compiled kernels. One volume per pod: several compilers would disturb each other in a shared cache."""

RUNNING_REQUESTS_METRIC = "vllm:num_requests_running"
WAITING_REQUESTS_METRIC = "vllm:num_requests_waiting"
KV_CACHE_USAGE_METRIC = "vllm:kv_cache_usage_perc"
FINISHED_REQUESTS_METRIC = "vllm:request_success_total"
TTFT_METRIC = "vllm:time_to_first_token_seconds"
TPOT_METRIC = "vllm:request_time_per_output_token_seconds"
END_TO_END_METRIC = "vllm:e2e_request_latency_seconds"

_ENVIRONMENT = {
    "HOME": SCRATCH_PATH,
    # torch asks getpass for the user's name as it is imported; without these it looks for the user id in
    # /etc/passwd and fails where the image does not list it (vLLM issue 44548).
    "USER": "vllm",
    "LOGNAME": "vllm",
    "HF_HOME": f"{CACHE_PATH}/huggingface",
    "XDG_CACHE_HOME": f"{SCRATCH_PATH}/.cache",
    "XDG_CONFIG_HOME": f"{SCRATCH_PATH}/.config",
    "VLLM_CACHE_ROOT": f"{SCRATCH_PATH}/.cache/vllm",
    "TORCHINDUCTOR_CACHE_DIR": f"{SCRATCH_PATH}/.cache/torchinductor",
    "TRITON_CACHE_DIR": f"{SCRATCH_PATH}/.cache/triton",
}
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def served_names(deployment: LLMDeployment, model: str) -> tuple[str, ...]:
    """Names under which a replica answers: the deployment's, `<deployment>/<class>` for each class, the model's own.

    The first is what vLLM writes into answers and metrics. Every class is named, served or not, so that a change of
    shares never changes a pod; in order of name, so that the order in which people list classes does not either.
    """
    classes = sorted(f"{deployment.name}/{traffic.name}" for traffic in deployment.spec.traffic)
    return tuple(dict.fromkeys((deployment.name, *classes, model)))


def command() -> list[str]:
    """Written out, since the entry point of older images is another program."""
    return ["vllm", "serve"]


def arguments(
    deployment: LLMDeployment, option: Option, launch: Sequence[str] = (), *, pipeline: int | None = None
) -> list[str]:
    """Command-line arguments, with those for a launch on several nodes. The user's come last; those that repeat ours
    are refused by the API. `pipeline`: stages where they are more than the option's own, those of a chain."""
    return [
        option.checkpoint,
        "--served-model-name",
        *served_names(deployment, option.model),
        "--tensor-parallel-size",
        str(option.parallelism.tensor),
        "--pipeline-parallel-size",
        str(option.parallelism.pipeline if pipeline is None else pipeline),
        "--port",
        str(PORT),
        "--max-model-len",
        str(option.max_model_length),
        "--gpu-memory-utilization",
        GPU_MEMORY_UTILIZATION,
        "--max-num-seqs",
        str(option.max_num_seqs),
        "--shutdown-timeout",
        str(SHUTDOWN_TIMEOUT_SECONDS),
        *launch,
        *option.engine_args,
        *deployment.spec.engine.extra_args,
    ]


def environment(engine: Engine) -> list[dict[str, Any]]:
    """Environment of the container. The API takes no variable of the user's that has the name of one of ours."""
    variables: dict[str, dict[str, Any]] = {
        name: {"name": name, "value": value} for name, value in _ENVIRONMENT.items()
    }
    token = engine.hugging_face_token_secret_ref
    if token is not None:
        for name in _TOKEN_VARIABLES:
            variables[name] = {"name": name, "valueFrom": {"secretKeyRef": to_wire(token)}}
    for variable in engine.env:
        variables[variable.name] = to_wire(variable)
    return list(variables.values())


def ports() -> list[dict[str, Any]]:
    """Ports of the container. The protocol is written out: with the number it is the key for server-side apply."""
    return [{"containerPort": PORT, "name": PORT_NAME, "protocol": "TCP"}]


def startup_tries(load_seconds: float) -> int:
    """How often the start-up probe may fail: three times the expected load time, ten minutes at least."""
    return max(MINIMUM_STARTUP_TRIES, math.ceil(LOAD_TIME_MARGIN * load_seconds / PROBE_PERIOD_SECONDS))


def startup_seconds(load_seconds: float) -> int:
    """How long a container may take to start before it is restarted."""
    return startup_tries(load_seconds) * PROBE_PERIOD_SECONDS


def probes(load_seconds: float) -> dict[str, Any]:
    """Probes by field name. Time-outs are wide: the front end answers late while it takes in long prompts."""
    check = {"path": HEALTH_PATH, "port": PORT_NAME}
    return {
        "startupProbe": {
            "httpGet": dict(check),
            "periodSeconds": PROBE_PERIOD_SECONDS,
            "timeoutSeconds": 5,
            "failureThreshold": startup_tries(load_seconds),
        },
        "readinessProbe": {"httpGet": dict(check), "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {
            "httpGet": dict(check),
            "periodSeconds": PROBE_PERIOD_SECONDS,
            "timeoutSeconds": 10,
            "failureThreshold": 3,
        },
    }


def lifecycle() -> dict[str, Any]:
    """A pause before SIGTERM, while routers forget the pod.

    Kubernetes' own sleep (on by default since 1.30) rather than `exec: sleep`: in an image without that program the
    hook would fail, and the pod would stop at once.
    """
    return {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}}
