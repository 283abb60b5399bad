"""Container images that this release pins, by GPU vendor. What was resolved stands in status, not in the schema."""

from plimsoll.api.engine import Engine

PINNED = {"nvidia": "vllm/vllm-openai:v0.18.0", "amd": "vllm/vllm-openai-rocm:v0.18.0"}
"""vLLM 0.18: multi-node launch without Ray, `/health`, and the metric names that Plimsoll reads."""


def engine_image(engine: Engine, vendor: str) -> str | None:
    """The image for a GPU vendor (`nvidia`, `amd`): the user's, else the pinned one of vLLM, else None."""
    given = {"nvidia": engine.images.nvidia, "amd": engine.images.amd}.get(vendor)
    return given or (PINNED.get(vendor) if engine.type == "vllm" else None)
