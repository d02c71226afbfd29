"""A study over several divisions of one data set: every recipe, once for each fold.

Transfers between generators, leave-one-out over generators, and the matrix of train x test are all
this: the same recipes, other domains to learn from. Each fold is an ordinary study in a folder of
its own, so that killing, resuming, results and report are those of every study; the manifest and
the cache of finished steps are shared.

```
FOLDER/manifest.parquet, cache/      what all folds use
FOLDER/<fold>/                       study.json, detectors/, scores/, results/, report.html
FOLDER/study.json, protocol.json     of a protocol: its folds, and what they say together
```
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from lydite.config import validate
from lydite.errors import ConfigError, unknown_name
from lydite.files import write_json
from lydite.study.expand import expand
from lydite.study.images import study_manifest
from lydite.study.plan import Plan
from lydite.study.results import STUDY_FILE, Result
from lydite.study.run import StudyOptions, plan_study, run_study, same_or_refuse
from lydite.study.spec import Fold, Study
from lydite.study.together import together, write_together
from lydite.training.team import Team

_PLACE = re.compile(r"\{([a-z][a-z0-9_]*)\}")


def of_fold(study: Study, fold: Fold) -> Study:
    """Return the ordinary study that a fold stands for.

    `{name}` in any string of the recipes becomes the fold's value of that name, so that each fold
    can begin from a detector of its own: `start: {detector: "runs/sources/detectors/{source}"}`.

    Raises:
        ConfigError: a recipe asks for a value that the fold does not have, or is not valid with it.
    """
    value = study.model_dump(mode="json")
    del value["folds"], value["protocol"]
    data = value["data"]
    data["seen"] = list(fold.seen)
    data["source"] = list(fold.source or data["source"])
    data["exclude"] = [*data["exclude"], *fold.exclude]
    data["unseen_generators"] = [*data["unseen_generators"], *fold.unseen_generators]
    data["labels"] = list(fold.labels or data["labels"])
    known = {"seen": "+".join(fold.seen), "source": "+".join(data["source"]), **fold.values}
    kept = [recipe for recipe in value["recipes"] if recipe["name"] not in fold.skip]
    value["recipes"] = _filled(kept, known, fold.name)
    value["name"] = f"{study.name}-{fold.name}"[:61]
    value["title"] = f"{study.title or study.name}: {fold.name}"
    return validate(Study, value, f"Fold {fold.name}")


def with_folds(study: Study, options: StudyOptions) -> Study:
    """Return the study with the folds that its protocol makes of the data, if it has one.

    Raises:
        LyditeError: the data cannot be read, or do not fit the protocol.
    """
    if study.protocol is None and not options.renew:
        return study
    if Team.current().leads:
        manifest = study_manifest(
            study.data, options.data_folder, options.progress, renew=options.renew
        )
    Team.current().agree(True)  # the leader has made what had to be made
    if study.protocol is None:
        return study
    if not Team.current().leads:
        manifest = study_manifest(study.data, options.data_folder)
    return expand(study, manifest)


def plan_folds(study: Study, options: StudyOptions, *, estimate: bool = True) -> dict[str, Plan]:
    """Return what each fold would do, see `plan_study`; steps that folds share count in each.

    Raises:
        LyditeError: a fold cannot run; nothing was written but the manifest.
    """
    study = with_folds(study, options)
    return {
        fold.name: plan_study(own, of, estimate=estimate)
        for fold, own, of in _folds(study, options)
    }


def run_folds(study: Study, options: StudyOptions) -> dict[str, list[Result]]:
    """Run every fold to its results, by the fold's name; see `run_study`.

    All folds are planned before the first one runs, by the leader where several processes share.

    Of a protocol, what all folds say together is written as well, see `lydite.study.together`.

    Raises:
        ResumeError: a protocol makes other folds than those that the folder was used for.
        LyditeError: see `run_study`; finished folds are kept, and not run again.
    """
    study = with_folds(study, options)
    folds = list(_folds(study, options))
    if Team.current().leads:
        plan = same_or_refuse(study, {}, options) if study.protocol else None
        for _, own, of in folds:
            plan_study(own, of, estimate=False)
        if plan is not None:
            write_json(options.folder / STUDY_FILE, plan)
    results = {}
    for number, (fold, own, of) in enumerate(folds):
        options.progress("fold", number, len(folds), fold.name)
        results[fold.name] = run_study(own, of)
    options.progress("fold", len(folds), len(folds), "")
    if study.protocol and Team.current().leads:
        write_together(options.folder, together(study, options.folder, results))
    return results


def _folds(study: Study, options: StudyOptions) -> Iterator[tuple[Fold, Study, StudyOptions]]:
    """Yield each fold with its study and where it runs."""
    shared = options.shared or options.folder
    for fold in study.folds:
        yield (
            fold,
            of_fold(study, fold),
            replace(options, folder=options.folder / fold.name, shared=shared),
        )


def _filled(value: Any, known: dict[str, str], fold: str) -> Any:
    """Return a JSON-like value with every `{name}` replaced."""
    if isinstance(value, dict):
        return {key: _filled(item, known, fold) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, known, fold) for item in value]
    if not isinstance(value, str):
        return value

    def of(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise ConfigError(
                f"Fold {fold}: {unknown_name('value', match[1], sorted(known))} "
                f"A recipe has {value!r}; give the fold `values: {{{match[1]}: ...}}`."
            )
        return known[match[1]]

    return _PLACE.sub(of, value)
