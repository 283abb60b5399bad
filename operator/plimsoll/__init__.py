"""Plimsoll: places large language models on heterogeneous GPU nodes at the lowest cost that their SLOs allow."""

__version__ = "0.1.0"
