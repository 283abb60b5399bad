"""How fast replicas are, beyond what is published: coefficients of ModelProfiles, and corrections by observation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import geometric_mean

from plimsoll.api.modelprofile import MeasuredCoefficients, ModelProfile
from plimsoll.catalog import Catalog, UnknownName
from plimsoll.performance import Coefficients, Correction, ReplicaShape, coefficient_set
from plimsoll.performance.coefficients import fingerprint
from plimsoll.performance.correction import UNCORRECTED
from plimsoll.planning.plan import Finding, Severity
from plimsoll.planning.snapshot import ObjectRef, SpeedCorrection

_UNITS = {
    "step_milliseconds": ("step_seconds", 1e-3),
    "sequence_milliseconds": ("sequence_seconds", 1e-3),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """Coefficients that somebody measured."""

    profile: str
    coefficients: Coefficients
    note: str
    """On the quality of the fit; may be empty."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """What is known of the speed of models on GPUs. Everything else is as published (`coefficient_set`)."""

    measured: Mapping[tuple[str, str], Measured] = field(default_factory=dict)
    """By model and GPU, as the catalog names them; models in lower case."""
    corrections: Mapping[tuple[str, str, str, int, int], tuple[Correction, str]] = field(default_factory=dict)
    """By model in lower case, precision, GPU and degrees; each with the coefficients that it corrects, or any."""

    def of(self, shape: ReplicaShape) -> ReplicaShape:
        """The shape with what is known of its speed."""
        known = self.measured.get((shape.model.name.lower(), shape.gpu.name))
        if known is not None:
            shape = replace(shape, coefficients=known.coefficients)
        correction = self._correction(shape) if self.corrections else UNCORRECTED
        return shape if correction == UNCORRECTED else replace(shape, correction=correction)

    def _correction(self, shape: ReplicaShape) -> Correction:
        """Its own, else the mean of the same model on the same GPU.

        Without the latter a plan would move to whatever does not run, because it alone is not corrected.
        """
        model, precision = shape.model.name.lower(), shape.precision.name
        degrees = (shape.parallelism.tensor, shape.parallelism.pipeline)
        usable = ("", basis_of(shape))
        own = self.corrections.get((model, precision, shape.gpu.name, *degrees))
        if own is not None and own[1] in usable:
            return own[0]
        alike = [
            item
            for key, (item, basis) in self.corrections.items()
            if (key[0], key[2]) == (model, shape.gpu.name) and basis in usable
        ]
        if not alike:
            return UNCORRECTED
        return Correction(
            round(geometric_mean(item.prefill for item in alike), 3),
            round(geometric_mean(item.decode for item in alike), 3),
        )

    def source(self, shape: ReplicaShape) -> str:
        """Where predictions for a replica come from, for people."""
        known = self.measured.get((shape.model.name.lower(), shape.gpu.name))
        if known is not None:
            text = f"measured: ModelProfile {known.profile}{known.note}"
        else:
            published = coefficient_set(shape.gpu)
            text = (
                f"published for {published.name}" if published.rows else f"pooled over measured {published.name} GPUs"
            )
        correction = shape.correction
        if correction != UNCORRECTED:
            text += f"; corrected by observation: prefill ×{correction.prefill:.2f}, decode ×{correction.decode:.2f}"
        return text


def basis_of(shape: ReplicaShape) -> str:
    """Names the coefficients that a replica is predicted with."""
    return fingerprint(shape.coefficients or coefficient_set(shape.gpu).coefficients)


def speeds(
    profiles: Iterable[ModelProfile], corrections: Iterable[SpeedCorrection], catalog: Catalog
) -> tuple[Speeds, tuple[Finding, ...]]:
    """What profiles and corrections say, and what is wrong with the profiles.

    Of two profiles for the same model and GPU the last by name counts. An accelerator that the catalog lacks is left
    out, so that its GPUs are as published.
    """
    measured: dict[tuple[str, str], Measured] = {}
    findings: list[Finding] = []
    for profile in profiles:
        ref = ObjectRef("ModelProfile", "", profile.name)
        model = profile.spec.model.lower()
        if profile.spec.architecture is None and model not in {known.lower() for known in catalog.models}:
            path = "spec.architecture"
            message = f"{path}: needed, since the catalog does not know {profile.spec.model}"
            findings.append(Finding(ref, "ArchitectureMissing", message, Severity.ERROR, path))
        for index, given in enumerate(profile.spec.coefficients):
            path = f"spec.coefficients[{index}].accelerator"
            try:
                gpu = catalog.gpu(given.accelerator)
            except UnknownName as error:
                message = f"{path}: {error}; its coefficients are not used"
                findings.append(Finding(ref, "UnknownAccelerator", message, Severity.ERROR, path))
                continue
            key = (model, gpu.name)
            if key in measured:
                other = measured[key].profile
                message = f"{path}: {gpu.name} is in ModelProfile {other}, too; the last by name counts, {profile.name}"
                findings.append(Finding(ref, "MeasuredTwice", message, Severity.WARNING, path))
            measured[key] = Measured(
                profile.name, _coefficients(given, coefficient_set(gpu).coefficients), _note(given)
            )
    corrected = {
        (item.model.lower(), item.precision, item.accelerator, item.tensor, item.pipeline): (
            Correction(item.prefill, item.decode),
            item.basis,
        )
        for item in corrections
    }
    return Speeds(measured, corrected), tuple(findings)


def _coefficients(given: MeasuredCoefficients, published: Coefficients) -> Coefficients:
    figures: dict[str, float] = {}
    for name, value in given.figures().items():
        target, unit = _UNITS.get(name, (name, 1.0))
        figures[target] = float(value) * unit
    return replace(published, **figures)


def _note(given: MeasuredCoefficients) -> str:
    return "" if given.fit is None else f" ({given.fit.rows} rows, median error {float(given.fit.median_error):.1%})"
