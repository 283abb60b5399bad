"""Facts about GPUs, models and numeric precisions, each figure with its source.

Data lives in `gpus.yaml` and `models.yaml`. People add to it by `GPUNodePool.spec.custom` and `ModelProfile`, which win
over the catalog (`Catalog.with_gpu`, `Catalog.with_model`).
"""

from plimsoll.catalog.catalog import Catalog, UnknownName
from plimsoll.catalog.gpus import GPU, Interconnect
from plimsoll.catalog.load import load_catalog
from plimsoll.catalog.models import ModelArchitecture
from plimsoll.catalog.precisions import Precision, supported, unsupported_reason

__all__ = [
    "GPU",
    "Catalog",
    "Interconnect",
    "ModelArchitecture",
    "Precision",
    "UnknownName",
    "load_catalog",
    "supported",
    "unsupported_reason",
]
