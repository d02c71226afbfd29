"""What `lydite compress` may try: techniques, how far each has to go, and what that will cost.

Nothing here trains: rates and costs come from outlines (see `compress.budget`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, model_validator

from lydite.compress.budget import (
    Budget,
    Costs,
    Probe,
    answer,
    costs_of,
    mildest_rate,
    outline_of,
    timed,
)
from lydite.config import Frozen
from lydite.detector import Detector
from lydite.errors import ConfigError, LyditeError, unknown_name
from lydite.recipe import Progress, Step, parse_step, silent

#: steps of a technique at a rate, as a recipe has them; `steps` is how long each may learn
_Recipe = Callable[[float, int], list[dict[str, Any]]]


def _recover(steps: int) -> dict[str, Any]:
    """Return the training after a cut: what was cut deep has to move far, hence the large rate."""
    return {"finetune": {"steps": steps, "lr": 0.001, "balance": "pairs"}}


def _prune(rate: float, steps: int) -> list[dict[str, Any]]:
    return [{"prune": {"rate": rate}}, _recover(steps)]


def _factorize(rate: float, steps: int) -> list[dict[str, Any]]:
    return [{"factorize": {"rate": rate}}, _recover(steps)]


def _distill(rate: float, steps: int) -> list[dict[str, Any]]:
    return [{"distill": {"student": "auto", "rate": rate, "steps": steps, "balance": "pairs"}}]


def _int8(recipe: _Recipe) -> _Recipe:
    return lambda rate, steps: [*recipe(rate, steps), {"quantize": {"scheme": "static-int8"}}]


#: techniques by name; those that end in int8 compute in integers
TECHNIQUES: dict[str, _Recipe] = {
    "prune": _prune,
    "distill": _distill,
    "factorize": _factorize,
    "prune-int8": _int8(_prune),
    "distill-int8": _int8(_distill),
    "factorize-int8": _int8(_factorize),
}


class Request(Frozen):
    """What a user wants.

    Attributes:
        rate: share of the parameters to remove, in (0, 1); or
        budget: a limit on size, multiply-adds, latency or parameters.
        techniques: names of `TECHNIQUES` to try.
        steps: training steps that each technique gets to recover.
        seed: of every random choice.
    """

    rate: float | None = None
    budget: Budget | None = None
    techniques: tuple[str, ...] = tuple(TECHNIQUES)
    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 2000
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @model_validator(mode="after")
    def _sensible(self) -> Request:
        if (self.rate is None) == (self.budget is None):
            raise ConfigError("Give either `rate` or `budget`, such as --rate 0.9 or 300kB.")
        if self.rate is not None and not 0 < self.rate < 1:
            raise ConfigError(
                f"`rate` must be in (0, 1). Got {self.rate:g}. Use 0.9 to remove nine tenths of "
                "the parameters."
            )
        for name in self.techniques:
            if name not in TECHNIQUES:
                raise ConfigError(unknown_name("technique", name, TECHNIQUES))
        if len(set(self.techniques)) < len(self.techniques):
            raise ConfigError(f"A technique was named twice: {', '.join(self.techniques)}.")
        return self


class Candidate(Frozen):
    """One technique, and how far it goes.

    Attributes:
        technique: its name.
        rate: share of the parameters that it removes at least; None where it cannot keep the
            budget or reach the rate.
        steps: as they stand in a recipe.
        costs: expected, from the outline.
        why_not: why it is left out.
        probes: rates that were looked at.
    """

    technique: str
    rate: float | None = None
    steps: tuple[dict[str, Any], ...] = ()
    costs: Costs | None = None
    why_not: str = ""
    probes: tuple[Probe, ...] = ()


def plan(detector: Detector, request: Request, progress: Progress = silent) -> list[Candidate]:
    """Return every technique of a request with its rate, steps and expected costs.

    Nothing is trained. With a rate, every technique goes that far; with a budget, as far as it
    has to.

    Raises:
        ConfigError: the detector cannot be compressed, or no technique keeps the budget.
    """
    if detector.card.quantization is not None:
        raise ConfigError(
            f"{detector.card.name} is quantized: its ranges fit its weights alone. Compress the "
            "detector that it was made from, or one that `dequantize` gives in a recipe."
        )
    if not detector.card.steps:
        raise ConfigError(f"{detector.card.name} is not trained. Train it first: lydite run")
    candidates = []
    for number, name in enumerate(request.techniques):
        progress("plan", number, len(request.techniques), name)
        candidates.append(_candidate(detector, name, request, progress))
    progress("plan", len(candidates), len(candidates), "")
    if not any(candidate.rate is not None for candidate in candidates):
        reasons = " ".join(f"{c.technique}: {c.why_not}" for c in candidates)
        raise ConfigError(f"No technique gets there. {reasons}")
    return candidates


def _candidate(
    detector: Detector, technique: str, request: Request, progress: Progress
) -> Candidate:
    """Return one technique's plan."""

    def steps_at(rate: float) -> list[Step]:
        return [parse_step(step) for step in TECHNIQUES[technique](rate, request.steps)]

    def told(probe: Probe) -> None:
        progress(f"plan {technique}", 0, 0, f"rate {probe.rate:g}: fits {probe.fits}")

    probes: tuple[Probe, ...] = ()
    rate = request.rate
    if request.budget is not None:
        probes = tuple(mildest_rate(detector, steps_at, request.budget, told))
        best = answer(probes)
        if best is None:
            why = _why(probes, request.budget)
            return Candidate(technique=technique, why_not=why, probes=probes)
        rate = best.rate
    assert rate is not None, "a request has a rate or a budget"
    latency = request.budget is not None and request.budget.kind == "latency_ms"
    try:
        made = outline_of(detector, steps_at(rate))
        costs = timed(detector, [made])[0] if latency else costs_of(made)
    except LyditeError as error:
        return Candidate(technique=technique, why_not=str(error), probes=probes)
    entries = tuple(TECHNIQUES[technique](rate, request.steps))
    return Candidate(technique=technique, rate=rate, steps=entries, costs=costs, probes=probes)


def _why(probes: tuple[Probe, ...], budget: Budget) -> str:
    """Say why no probe fits."""
    reached = [p for p in probes if p.costs is not None]
    if not reached:
        return probes[-1].why_not
    last = max(reached, key=lambda p: p.rate)
    assert last.costs is not None, "filtered above"
    return (
        f"even at rate {last.rate:g} its {budget.kind} is {last.costs.of(budget.kind):,.4g}, over "
        f"the budget of {budget.text}."
    )
