"""Command-line arguments of the engine that people may not set, and the ways to smuggle them in."""

import re
from typing import Annotated

from pydantic import Field, Strict

from plimsoll.api.rules import Rule

OWNED_FLAGS = (
    "--model",
    "--served-model-name",
    "--host",
    "--port",
    "--uds",
    "--config",
    "--tensor-parallel-size",
    "--pipeline-parallel-size",
    "--data-parallel-size",
    "--data-parallel-size-local",
    "--data-parallel-rank",
    "--data-parallel-start-rank",
    "--data-parallel-address",
    "--data-parallel-rpc-port",
    "--data-parallel-backend",
    "--data-parallel-hybrid-lb",
    "--data-parallel-external-lb",
    "--api-server-count",
    "--distributed-executor-backend",
    "--nnodes",
    "--node-rank",
    "--master-addr",
    "--master-port",
    "--headless",
    "--max-model-len",
    "--max-num-seqs",
    "--gpu-memory-utilization",
    "--kv-cache-memory-bytes",
    "--kv-cache-dtype",
    "--num-gpu-blocks-override",
    "--cpu-offload-gb",
    "--swap-space",
    "--quantization",
    "--dtype",
    "--shutdown-timeout",
    "--disable-log-stats",
    "--ssl-keyfile",
    "--ssl-certfile",
    "--ssl-ca-certs",
    "--ssl-cert-reqs",
    "--enable-ssl-refresh",
)
"""Flags of vLLM that Plimsoll sets itself, or that would void what it planned, probes or measures."""

HARMFUL_FLAGS = (
    "--middleware",
    "--tool-parser-plugin",
    "--reasoning-parser-plugin",
    "--logits-processors",
    "--worker-cls",
    "--worker-extension-cls",
    "--scheduler-cls",
    "--allowed-local-media-path",
    "--hf-token",
    "--api-key",
)
"""Flags that load code by name, let requests read files of the container, or hold a secret in plain sight."""

REMOTE_CODE_FLAG = "--trust-remote-code"
"""Runs code from the model's repository; the PlacementPolicy says whether it may be used."""


def is_owned_flag(argument: str) -> bool:
    """Whether vLLM would read `argument` as one of `OWNED_FLAGS`."""
    return _may_mean(argument, OWNED_FLAGS)


def is_harmful_flag(argument: str) -> bool:
    """Whether vLLM would read `argument` as one of `HARMFUL_FLAGS`."""
    return _may_mean(argument, HARMFUL_FLAGS)


def trusts_remote_code(argument: str) -> bool:
    """Whether vLLM would read `argument` as `REMOTE_CODE_FLAG`."""
    return _may_mean(argument, (REMOTE_CODE_FLAG,))


def _may_mean(argument: str, flags: tuple[str, ...]) -> bool:
    """vLLM's parser takes underscores for hyphens, `--flag=value`, `--flag.key`, and any unambiguous beginning."""
    flag = re.split("[=.]", argument, maxsplit=1)[0].replace("_", "-")
    return flag.startswith("-") and any(known.startswith(flag) for known in flags)


def _meant(flags: tuple[str, ...]) -> str:
    listed = ", ".join(f"'{flag}'" for flag in flags)
    return (
        f"!self.startsWith('-') || "
        f"![{listed}].exists(f, f.startsWith(self.split('=')[0].split('.')[0].replace('_', '-')))"
    )


ExtraArgument = Annotated[
    str,
    Strict(),
    Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[^\x00]*$",
        json_schema_extra={"accepted": "text of 1 to 1024 characters, without the character 0"},
    ),
    Rule(
        cel=_meant(OWNED_FLAGS),
        message="this flag belongs to Plimsoll, or abbreviates one that does: use the fields of the spec instead",
        holds=lambda argument: not is_owned_flag(argument),
    ),
    Rule(
        cel=_meant(HARMFUL_FLAGS),
        message="this flag, or one that it abbreviates, loads code, opens files to requests or holds a secret: "
        "build it into the image, or use huggingFaceTokenSecretRef",
        holds=lambda argument: not is_harmful_flag(argument),
    ),
    Rule(
        # One letter can carry its value with it (-qawq), which no list of flags tells from another flag.
        cel="!self.matches('^-[A-Za-z]') || self.startsWith('-O')",
        message="short flags are not taken, except -O: write the long form",
        holds=lambda argument: re.match("-[A-Za-z]", argument) is None or argument.startswith("-O"),
    ),
    Rule(
        cel="!self.contains('$(')",
        message="$(…) would be replaced by an environment variable once it is checked: write the value itself",
        holds=lambda argument: "$(" not in argument,
    ),
]
