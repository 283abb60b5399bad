"""How long a new replica takes until it serves."""

from plimsoll.performance.shapes import ReplicaShape
from plimsoll.performance.weights import loaded_weight_bytes

ENGINE_START_SECONDS = 60.0
"""Process start, memory profiling and CUDA graph capture of vLLM, without the weights (assumed: 40-90 s are usual)."""
STORAGE_BYTES_PER_SECOND = 1e9
"""Read rate of weights from a node's cache volume (an assumption: a network disk; local NVMe reaches several GB/s)."""


def load_seconds(shape: ReplicaShape, storage_bytes_per_second: float = STORAGE_BYTES_PER_SECOND) -> float:
    """Seconds from pod start to Ready: engine start plus reading the checkpoint once.

    The checkpoint is read at the size it is stored in: with quantisation on load, more than what stays in memory.
    Image pulls are not included: they happen once per node.
    """
    return ENGINE_START_SECONDS + loaded_weight_bytes(shape) / storage_bytes_per_second
