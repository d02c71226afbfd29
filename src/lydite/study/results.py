"""Results: one append-only JSON file for each detector that a study measured.

Tables, plots and the report are made from these files and compute nothing themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from lydite.card import Figure
from lydite.config import Frozen, Sha256, validation_sentence
from lydite.errors import DataError
from lydite.evaluate.summary import UNREADABLE
from lydite.files import read_json, write_json

RESULT_VERSION = 1
#: of a study's folder: its plan, and the folder of its results
STUDY_FILE = "study.json"
RESULTS = "results"
#: the record of what a protocol's folds say together, which may lie beside results
TOGETHER_FILE = "protocol.json"
#: names of results of a detector that has some already: its digest, then a number
_AGAIN = re.compile(r"(.*-[0-9a-f]{10})-(\d+)")


class Cost(Frozen):
    """What a detector costs to carry and to run.

    Attributes:
        parameters: all weights and biases, batch-norm statistics not counted.
        macs: multiply-adds of convolutions and linear layers for one tile.
        size_bytes: of the exported file, on disk.
        compression_rate: share of the reference's parameters removed; None for the reference.
        latency_ms: median of one tile in onnxruntime, one thread; None before benchmarking.
        latency_p95_ms: 95th percentile.
        latency_ratio: reference's median over this one's, same interleaved run (above 1: faster).
        latency_ratio_low: lower end of its 95 % interval; None in results of before it was taken.
        latency_ratio_high: upper end.
        pack_bytes: all files of the pack that makes this detector out of another one of the study;
            None where it is no pack.
    """

    parameters: int
    macs: int
    size_bytes: int
    compression_rate: float | None = None
    latency_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_ratio: float | None = None
    latency_ratio_low: float | None = None
    latency_ratio_high: float | None = None
    pack_bytes: int | None = None


class StepCost(Frozen):
    """What one step of the recipe took.

    Attributes:
        step: its entry in the recipe.
        key: of its result.
        seconds: wall clock of the run that made it (also when it came from the cache).
        cached: it was not made in this run.
        figures: what was measured right after it, on the validation split (accuracy, auc).
        parameters: after the step.
        trainable_parameters: how many values its training moved; None for steps that do not
            train, and in results of before it was noted.
        peak_bytes: highest memory during its training: allocated on the GPU, or on a CPU resident
            of the whole process; None likewise.
        notes: what its switches say of themselves in words: over which steps `swad` averaged,
            which weights groups had at last (`group_weights`).
    """

    step: dict[str, Any]
    key: Sha256
    seconds: float | None = None
    cached: bool = False
    figures: tuple[Figure, ...] = ()
    parameters: int | None = None
    trainable_parameters: int | None = None
    peak_bytes: int | None = None
    notes: dict[str, str] = {}


class Result(Frozen):
    """Everything measured on one detector of a study.

    Attributes:
        study: name of the study.
        recipe: name of the recipe.
        approach: short name of the approach ("BL", "CPF", "CKD", "CQ", ...), for grouping.
        reference: this is the study's baseline, against which rates and ratios are taken.
        spec: the whole recipe, as data.
        key: of the detector.
        card_digest: of the detector's card, through which its weights are fixed.
        seed: of the recipe.
        created: ISO time, UTC.
        versions: of lydite and libraries.
        hardware: processor, cores, and how latency was measured there.
        data: digests of manifest and selections, by role.
        seen: domains it was trained on.
        source: domains that what it started from was trained on before.
        unseen_generators: generators whose fakes were held out of all of these.
        steps: what each step took and gave.
        cost: parameters, MACs, size, latency.
        figures: accuracy, balanced_accuracy, f1, precision, recall, auc, ap, each with interval
            and n; `slice` names domain (or group: "seen", "source", "unseen-mean"), generator where
            given, and split; those of degraded images name the degradation too, see
            `lydite.evaluate.degraded`.
        notes: anything a reader must know.
    """

    format: Literal["lydite-result"] = "lydite-result"
    version: Annotated[int, Field(ge=1)] = RESULT_VERSION
    study: str
    recipe: str
    approach: str
    reference: bool = False
    spec: dict[str, Any]
    key: Sha256
    card_digest: Sha256
    seed: int
    created: str
    versions: dict[str, str]
    hardware: dict[str, str | int]
    data: dict[str, str]
    seen: tuple[str, ...]
    source: tuple[str, ...] = ()
    unseen_generators: tuple[str, ...] = ()
    steps: tuple[StepCost, ...]
    cost: Cost
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()

    @property
    def unscored(self) -> int:
        """How many test images, as they are, have no score."""
        lost = [
            figure.value or 0
            for figure in self.figures
            if figure.metric == UNREADABLE
            and figure.slice == {"domain": figure.slice.get("domain"), "split": "test"}
        ]
        return int(sum(lost))

    def figure(self, metric: str, **where: str) -> Figure | None:
        """Return the figure of a metric on exactly this slice, or None."""
        for figure in self.figures:
            if figure.metric == metric and figure.slice == where:
                return figure
        return None


def write_result(folder: Path, result: Result) -> Path:
    """Write a result under a name that no other result has; existing files are never changed."""
    stem = f"{result.recipe}-seed{result.seed}-{result.card_digest[:10]}"
    path = folder / f"{stem}.json"
    number = 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.json"
    write_json(path, result.model_dump(mode="json"), compact=True)
    return path


def read_results(folder: Path) -> list[Result]:
    """Return every result in a folder, in the order of names and numbers; no protocol's record.

    Raises:
        DataError: a file is not a result, or a newer one.
    """
    results = []
    for path in sorted(folder.glob("*.json"), key=_written):
        if path.name == TOGETHER_FILE:
            continue
        try:
            results.append(Result.model_validate(read_json(path)))
        except ValidationError as error:
            raise DataError(f"{path} is not a result: {validation_sentence(error)}") from error
    return results


def results_of_plan(folder: Path) -> list[Result]:
    """Return the results of a study's folder that its plan asks for, as `read_results` does.

    After `--replace` others stay beside them: of recipes and seeds that are gone, and of other
    images, which no table may hold together with these. Without a plan, all are returned.

    Args:
        folder: of the study, with `results/` and, of a run, `study.json`.

    Raises:
        DataError: a file is not a result, or a newer one.
        FileError: the plan is not JSON.
    """
    results = read_results(folder / RESULTS)
    path = folder / STUDY_FILE
    plan = read_json(path) if path.is_file() else None
    if not isinstance(plan, dict) or not plan.get("data"):
        return results
    wanted = _wanted(plan.get("study"))
    return [
        r
        for r in results
        if r.data == plan["data"] and (wanted is None or (r.recipe, r.seed) in wanted)
    ]


def _wanted(study: Any) -> set[tuple[str, int]] | None:
    """Return recipes and seeds of a plan; None where it does not tell."""
    try:
        usual = study.get("seeds", [0])
        return {(r["name"], s) for r in study["recipes"] for s in r.get("seeds") or usual}
    except (AttributeError, KeyError, TypeError):
        return None


def _written(path: Path) -> tuple[str, int]:
    """Return what sorts results of one detector in the order in which they were written."""
    again = _AGAIN.fullmatch(path.stem)
    return (again[1], int(again[2])) if again else (path.stem, 1)


def newest(results: Iterable[Result]) -> list[Result]:
    """Return the newest result of each recipe and seed, in the order in which they first appear.

    Results are added and never changed, so a recipe that was run again has several.
    """
    found: dict[tuple[str, int], Result] = {}
    for result in results:
        before = found.get((result.recipe, result.seed))
        if before is None or result.created >= before.created:
            found[result.recipe, result.seed] = result
    return list(found.values())
