"""Recognise a GPU product by the value of a node label.

Product labels are the driver's product names with other separators. Whole names are compared first; then sets of words
without those that say nothing (`NVIDIA`, `Tesla`, `HBM3`). A word too many is forgiven only when it is a memory size
that agrees: `L40S` is no `L40`, `RTX-4090-D` is no `RTX-4090`, and `A100-80GB` is ambiguous. Time-sliced (`-SHARED`),
MIG (`-MIG-1g.10gb`) and vGPU products (`A10-24Q`) are not the whole GPU, since their memory is split: they match none.
"""

import re
from collections.abc import Iterable, Mapping

from plimsoll.catalog.gpus import GPU

_MAKERS_AND_BRANDS = frozenset({"nvidia", "tesla", "geforce", "amd", "instinct"})
_KINDS = frozenset({"oam", "generation", "edition", "server", "workstation", "vf", "hbm2", "hbm2e", "hbm3", "hbm3e"})
_NOISE = _MAKERS_AND_BRANDS | _KINDS
_PARTIAL = re.compile(r"(?:^|[-_ ])(?:shared|mig)(?:[-_ .]|$)", re.IGNORECASE)
_SEPARATORS = re.compile(r"[^a-z0-9.]+")
_MEMORY_SIZE = re.compile(r"(\d+)gi?b")
_FORM_FACTOR = re.compile(r"sxm\d")
_MEMORY_TOLERANCE = 0.1


def match_product(label_value: str, gpus: Iterable[GPU]) -> GPU | None:
    """The whole GPU that a label value names, or None when it names none, several, or a part of one."""
    if not label_value or _PARTIAL.search(label_value):
        return None
    gpus = tuple(gpus)
    exact = [gpu for gpu in gpus if label_value in gpu.product_labels]
    if exact:
        return exact[0] if len(exact) == 1 else None
    words = _words(label_value)
    if not words:
        return None
    same = [gpu for gpu in gpus if words in _known(gpu)]
    if not same:
        same = [gpu for gpu in gpus if any(_only_memory_added(words, known, gpu) for known in _known(gpu))]
    return same[0] if len(same) == 1 else None


def same_name(name: str, names: Mapping[str, str]) -> str | None:
    """The value of `names` under `name`, ignoring case and separators."""
    wanted = _squeezed(name)
    found = {value for key, value in names.items() if _squeezed(key) == wanted}
    return found.pop() if len(found) == 1 else None


def _known(gpu: GPU) -> set[frozenset[str]]:
    return {_words(text) for text in (*gpu.product_labels, gpu.name, *gpu.aliases)}


def _only_memory_added(words: frozenset[str], known: frozenset[str], gpu: GPU) -> bool:
    added = words - known
    return known < words and all(_is_memory_of(word, gpu) for word in added)


def _is_memory_of(word: str, gpu: GPU) -> bool:
    size = _MEMORY_SIZE.fullmatch(word)
    return size is not None and abs(int(size[1]) * 2**30 / gpu.memory_bytes - 1) < _MEMORY_TOLERANCE


def _words(text: str) -> frozenset[str]:
    parts = (_FORM_FACTOR.sub("sxm", part) for part in _SEPARATORS.split(text.lower()))
    return frozenset(part for part in parts if part and part not in _NOISE)


def _squeezed(text: str) -> str:
    return _SEPARATORS.sub("", text.lower())
