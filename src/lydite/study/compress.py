"""`lydite compress`: one rate or budget, several techniques, and the best on validation images.

The request becomes a plan (which steps, at which rate, expected costs) and the plan an ordinary
study, so that progress, resuming, results and the report are those of every study. What is chosen
is chosen on the validation split; the test split only tells how good the choice was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

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
from lydite.config import Frozen, Sha256, validate
from lydite.detector import Detector
from lydite.errors import ConfigError, LyditeError, ResumeError, unknown_name
from lydite.files import read_json
from lydite.recipe import Progress, Start, Step, parse_step, silent
from lydite.study.results import Result
from lydite.study.spec import BenchSpec, DataSpec, Entry, Study

ORIGINAL = "original"
#: steps of a technique at a rate, as a recipe has them; `steps` is how long each may learn
_Recipe = Callable[[float, int], list[dict[str, Any]]]


def _prune(rate: float, steps: int) -> list[dict[str, Any]]:
    return [{"prune": {"rate": rate}}, {"finetune": {"steps": steps, "balance": "pairs"}}]


def _factorize(rate: float, steps: int) -> list[dict[str, Any]]:
    return [{"factorize": {"rate": rate}}, {"finetune": {"steps": steps, "balance": "pairs"}}]


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
    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 500
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


class Choice(Frozen):
    """The candidate that answers best on validation images.

    Attributes:
        recipe: its name in the study.
        reason: why it was chosen, in words.
    """

    recipe: str
    reason: str


def plan(detector: Detector, request: Request, progress: Progress = silent) -> list[Candidate]:
    """Return every technique of a request with its rate, steps and expected costs.

    Nothing is trained. With a rate, every technique goes that far; with a budget, as far as it
    has to.

    Raises:
        ConfigError: the detector cannot be compressed, or no technique keeps the budget.
    """
    if detector.card.quantization is not None:
        raise ConfigError(
            f"{detector.card.name} is quantized: integer weights are final. Compress the detector "
            "that it was made from."
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


def study_of(
    detector: Path, data: DataSpec, candidates: Sequence[Candidate], seed: int, name: str
) -> Study:
    """Return the study that makes and measures every candidate beside the original."""
    start = Start(detector=detector)
    entries = [Entry(name=ORIGINAL, start=start)]
    entries += [
        Entry(
            name=f"{item.technique}-{item.rate:g}",
            approach=item.technique,
            start=start,
            steps=tuple(parse_step(step) for step in item.steps),
        )
        for item in candidates
        if item.rate is not None
    ]
    return Study(
        name=name,
        title=f"{detector.name}, compressed",
        data=data,
        recipes=tuple(entries),
        seeds=(seed,),
        bench=BenchSpec(repeats=100),
    )


def choose(results: list[Result], budget: Budget | None = None) -> Choice:
    """Return the best candidate on the validation split, of equals the one with fewer bytes.

    Compared by AUC and then accuracy, both as measured by each recipe's last step. What turned out
    over the budget is chosen only where nothing kept it; the reason then says so.

    Args:
        results: of the study, the original among them.
        budget: to be kept by the finished file.
    """

    def quality(result: Result) -> tuple[float, float, int]:
        figures = {f.metric: f.value or 0.0 for f in result.steps[-1].figures}
        return figures.get("auc", 0.0), figures.get("accuracy", 0.0), -result.cost.size_bytes

    tried = [result for result in results if result.recipe != ORIGINAL]
    kept = [result for result in tried if budget is None or _cost(result, budget) <= budget.limit]
    best = max(kept or tried, key=quality)
    auc, accuracy, _ = quality(best)
    reason = (
        f"highest AUC on the validation split ({auc:.4f}; accuracy {accuracy:.4f}) of "
        f"{len(kept or tried)} tried"
    )
    if budget is not None and not kept:
        reason += f"; it is over the budget of {budget.text}, as are all others"
    return Choice(recipe=best.recipe, reason=reason)


def _cost(result: Result, budget: Budget) -> float:
    """Return what a budget limits, as measured on the finished file."""
    value = getattr(result.cost, budget.kind)
    return float("inf") if value is None else float(value)


class Record(Frozen):
    """What was wanted, tried and chosen; kept beside the study, and what resuming goes by.

    Attributes:
        request: what was wanted.
        detector: digest of the card that was compressed.
        candidates: what was planned for each technique.
        choice: what was chosen; None while the study runs.
    """

    format: Literal["lydite-compress"] = "lydite-compress"
    version: Annotated[int, Field(ge=1, le=1)] = 1
    request: Request
    detector: Sha256
    candidates: tuple[Candidate, ...]
    choice: Choice | None = None


def name_of(detector: Detector) -> str:
    """Return what a study of a detector is called: its name, in characters that a file may have."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", detector.card.name).strip("-_")
    return f"compress-{plain or 'detector'}"[:60]


def planned(
    path: Path,
    detector: Detector,
    request: Request,
    progress: Progress = silent,
    *,
    replace: bool = False,
) -> Record:
    """Return the record in a file, or a new plan where there is none.

    A plan rests on measured latencies, which differ from run to run; a killed run must go on with
    the plan that it began with.

    Args:
        path: of the record.
        detector: to be compressed.
        request: what is wanted.
        progress: told about the search.
        replace: make a new plan where the one in the file is for something else.

    Raises:
        ConfigError: see `plan`, or the file is no such record.
        ResumeError: the record is of another detector or request.
    """
    if path.is_file():
        found = validate(Record, read_json(path), str(path))
        if found.request == request and found.detector == detector.card.digest:
            return found
        if not replace:
            what = "detector" if found.request == request else "request"
            raise ResumeError(
                f"{path} was made for another {what}. Choose another folder with -o, or accept "
                "the change with --replace."
            )
    candidates = plan(detector, request, progress)
    return Record(request=request, detector=detector.card.digest, candidates=tuple(candidates))
