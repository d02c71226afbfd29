"""`lydite compress`: one rate or budget, several techniques, and the best on validation images.

The request becomes a plan (which steps, at which rate, expected costs) and the plan an ordinary
study, so that progress, resuming, results and the report are those of every study. What is chosen
is chosen on the validation split; the test split only tells how good the choice was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lydite.compress.budget import Budget
from lydite.config import Frozen, Sha256, validate
from lydite.detector import Detector
from lydite.errors import ResumeError
from lydite.files import lock_folder, read_json, write_json
from lydite.recipe import Progress, Start, parse_step, silent
from lydite.study.candidates import Candidate, Request, plan
from lydite.study.results import Result
from lydite.study.run import StudyOptions, run_study
from lydite.study.spec import BenchSpec, DataSpec, Entry, Study
from lydite.training.team import Team

ORIGINAL = "original"
RECORD = "compress.json"


class Choice(Frozen):
    """The candidate that answers best on validation images.

    Attributes:
        recipe: its name in the study.
        reason: why it was chosen, in words.
    """

    recipe: str
    reason: str


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


@dataclass(frozen=True)
class Outcome:
    """What `compress` made.

    Attributes:
        record: what was wanted, tried and chosen.
        results: of every candidate and the original.
        detector: folder of the chosen one.
    """

    record: Record
    results: list[Result]
    detector: Path


def compress(
    detector: Path, data: DataSpec, request: Request, options: StudyOptions
) -> Outcome | None:
    """Make a detector smaller, down to a rate or a budget.

    Killed at any moment, the same call goes on. The folder then holds what every study's folder
    holds, and `compress.json`.

    Args:
        detector: folder of a trained detector; it stays as it is.
        data: images, and which domains to learn from.
        request: what is wanted.
        options: where and how.

    Returns:
        None in the helping processes that `torchrun` starts besides the first.

    Raises:
        ConfigError: the detector cannot be compressed, or no technique gets there.
        ResumeError: the folder was used for something else.
        LyditeError: anything else a user can cause; what was finished is kept.
    """
    source = Detector.load(detector)
    path, team = options.folder / RECORD, Team.current()
    if team.leads:  # latencies are measured once, by one process
        with lock_folder(options.folder, tidy=True):  # the record is that of whoever works there
            record = planned(path, source, request, options.progress, replace=options.replace)
            write_json(path, record.model_dump(mode="json"))
    team.agree(True)
    if not team.leads:
        record = planned(path, source, request)
    data = data.model_copy(update={"sources": source.card.sources})
    study = study_of(detector, data, record.candidates, request.seed, name_of(source))
    study = study.model_copy(update={"limits": source.card.limits})
    results = run_study(study, options)
    if not results:
        return None
    record = record.model_copy(update={"choice": choose(results, request.budget)})
    assert record.choice is not None, "just chosen"
    write_json(path, record.model_dump(mode="json"))
    return Outcome(record, results, options.folder / "detectors" / record.choice.recipe)


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
        probes=False,
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
