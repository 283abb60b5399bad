"""The catalog: lookups by name and by label, and the user's own additions."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from plimsoll.catalog.gpus import GPU
from plimsoll.catalog.labels import match_product, same_name
from plimsoll.catalog.models import ModelArchitecture
from plimsoll.catalog.precisions import Precision

_NEAREST = 4
_ALIKE = 0.5
_ABOUT_AS_ALIKE = 0.03


class UnknownName(LookupError):  # noqa: N818  (says what is wrong; read as a sentence at the call site)
    """A name that the catalog lacks, with the names most like it."""

    def __init__(self, kind: str, name: str, nearest: tuple[str, ...]) -> None:
        super().__init__(kind, name, nearest)
        self.kind = kind
        self.name = name
        self.nearest = nearest

    def __str__(self) -> str:
        hint = "; nearest: " + ", ".join(f'"{name}"' for name in self.nearest) if self.nearest else ""
        return f'unknown {self.kind} "{self.name}"{hint}'


@dataclass(frozen=True, slots=True)
class Catalog:
    """Facts about GPUs, models and precisions, each by name."""

    gpus: Mapping[str, GPU]
    models: Mapping[str, ModelArchitecture]
    precisions: Mapping[str, Precision]

    def gpu(self, name: str) -> GPU:
        """The GPU product called `name`, whatever the case and separators; aliases count.

        Raises:
            UnknownName: no product, or several, are called so.
        """
        if name in self.gpus:
            return self.gpus[name]
        names = {alias: gpu.name for gpu in self.gpus.values() for alias in (gpu.name, *gpu.aliases)}
        found = same_name(name, names)
        if found is None:
            raise UnknownName("accelerator", name, _nearest(name, names))
        return self.gpus[found]

    def model(self, name: str) -> ModelArchitecture:
        """The model called `name`, whatever the case.

        Raises:
            UnknownName: the catalog has no such model. A name without its organisation is only suggested, not taken,
                since the engine could not download it.
        """
        if name in self.models:
            return self.models[name]
        folded = {known.lower(): known for known in self.models}
        found = folded.get(name.lower())
        if found is None:
            raise UnknownName("model", name, _nearest_models(name, self.models))
        return self.models[found]

    def precision(self, name: str) -> Precision:
        """The precision called `name`, whatever the case.

        Raises:
            UnknownName: there is no such precision.
        """
        found = self.precisions.get(name) or self.precisions.get(name.lower())
        if found is None:
            raise UnknownName("precision", name, _nearest(name, {known: known for known in self.precisions}))
        return found

    def gpu_by_product_label(self, label_value: str) -> GPU | None:
        """The GPU product that a node label names; None for unknown, ambiguous, time-sliced, MIG and vGPU products."""
        return match_product(label_value, self.gpus.values())

    def with_gpu(self, gpu: GPU) -> "Catalog":
        """A catalog that also has `gpu`, in place of any product of that name."""
        return replace(self, gpus={**self.gpus, gpu.name: gpu})

    def with_model(self, model: ModelArchitecture) -> "Catalog":
        """A catalog that also has `model`, in place of any model of that name, whatever its case."""
        others = {name: known for name, known in self.models.items() if name.lower() != model.name.lower()}
        return replace(self, models={**others, model.name: model})


def _nearest(name: str, names: Mapping[str, str]) -> tuple[str, ...]:
    """The values of `names` whose keys are most like `name`, the most like first."""
    wanted = name.lower()
    folded: dict[str, str] = {}
    for key in sorted(names):
        folded.setdefault(key.lower(), names[key])
    contain = sorted((key for key in folded if wanted and key.startswith(wanted)), key=len)
    if contain:
        return _distinct(folded[key] for key in contain)
    alikeness = {key: difflib.SequenceMatcher(None, wanted, key).ratio() for key in folded}
    best = max(alikeness.values(), default=0.0)
    if best < _ALIKE:
        return ()
    close = [key for key in folded if alikeness[key] >= best - _ABOUT_AS_ALIKE]
    return _distinct(folded[key] for key in sorted(close, key=lambda key: -alikeness[key]))


def _nearest_models(name: str, models: Iterable[str]) -> tuple[str, ...]:
    """Models of the same short name (given with another or no organisation), else those spelt most like it."""
    known = sorted(models)
    short = _short(name)
    same = [candidate for candidate in known if _short(candidate) == short]
    return tuple(same) or _nearest(short, {_short(candidate): candidate for candidate in known})


def _short(model: str) -> str:
    return model.rsplit("/", 1)[-1].lower()


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))[:_NEAREST]
