"""The main job: from a study's YAML to detectors, scores, results and a report in one folder."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lydite.card import ONNX_NAME, load_card
from lydite.data.images import ImageStore
from lydite.errors import LyditeError, ResumeError
from lydite.evaluate.degraded import degradations_of
from lydite.evaluate.unseen import Roles
from lydite.files import lock_folder, read_json, write_json
from lydite.recipe import Progress, Recipe, silent
from lydite.study.cache import Cache
from lydite.study.execute import Options, execute, keys_of, start_of
from lydite.study.images import StudyData, load_data
from lydite.study.measure import Shipped, measure, ship
from lydite.study.plan import Plan, make_plan, require_apart
from lydite.study.probes import probe_study
from lydite.study.results import STUDY_FILE, Result, newest, read_results, write_result
from lydite.study.scores import scored
from lydite.study.spec import Study
from lydite.training.team import Team


@dataclass(frozen=True)
class StudyOptions:
    """Where and how a study runs.

    Attributes:
        folder: everything is written here.
        cache: finished steps; `folder/cache` unless given, shared between studies if you like.
        replace: accept another plan or other data in a folder that was used before.
        device: "auto", "cpu" or "cuda".
        precision: "auto", "float32" or "bfloat16".
        progress: told about the work.
        shared: folder of the manifest, demo data and cache where several studies share them.
    """

    folder: Path
    cache: Path | None = None
    replace: bool = False
    device: str = "auto"
    precision: str = "auto"
    progress: Progress = silent
    shared: Path | None = None

    @property
    def cache_folder(self) -> Path:
        """Where finished steps lie."""
        return self.cache or self.data_folder / "cache"

    @property
    def renew(self) -> bool:
        """Whether images are scanned again; those that several studies share, once for all."""
        return self.replace and self.shared is None

    @property
    def data_folder(self) -> Path:
        """Where the manifest is kept, and data that are made."""
        return self.shared or self.folder


def plan_study(study: Study, options: StudyOptions, *, estimate: bool = True) -> Plan:
    """Return what a study would do; checks everything that can be checked beforehand.

    Raises:
        LyditeError: the study cannot run; nothing was written but the manifest.
    """
    data = load_data(study.data, options.data_folder, options.progress, renew=options.renew)
    require_apart(study, data.test, data.learning.val)
    return make_plan(
        study,
        data.learning,
        len(data.test),
        Cache(options.cache_folder),
        options.folder,
        estimate=estimate,
    )


def run_study(study: Study, options: StudyOptions) -> list[Result]:
    """Run a study to its results; killed at any moment, the same call goes on.

    A study that is finished is not run again: its results are returned as they are.

    Args:
        study: what to do.
        options: where and how.

    Returns:
        One result per recipe and seed, in the study's order; nothing in the helping processes
        that `torchrun` starts besides the first.

    Raises:
        ResumeError: the folder holds another plan, or other data (with the difference).
        BusyError: another process works in the folder.
        LyditeError: anything a user can cause; what was finished is kept.
    """
    folder = options.folder
    if not Team.current().leads:
        return _help(study, options)
    with lock_folder(folder, tidy=True):
        data = load_data(study.data, options.data_folder, options.progress, renew=options.renew)
        plan = same_or_refuse(study, data.digests, options)
        done = finished(study, data, folder)
        Team.current().agree(done is None)  # the data are there, and there is work to do
        store = ImageStore()
        if done is not None:
            _probe(study, data, options, store)  # a study of before there were any has none
            write_json(folder / STUDY_FILE, plan)
            options.progress("study", 1, 1, "already finished; results are as they were")
            return done
        require_apart(study, data.test, data.learning.val)
        make_plan(
            study,
            data.learning,
            len(data.test),
            Cache(options.cache_folder),
            folder,
            estimate=False,
        )
        write_json(folder / STUDY_FILE, plan)  # not before: what cannot run binds nobody
        shipped = _make(study, data, options, store)
        _probe(study, data, options, store)
        results = measure(study, shipped, data.digests, options.progress)
        for result in results:
            write_result(folder / "results", result)
        return results


def _help(study: Study, options: StudyOptions) -> list[Result]:
    """Share the training of the process that leads; its results are not ours to return."""
    if Team.current().agree(True):
        data = load_data(study.data, options.data_folder)
        how = Options(device=options.device, precision=options.precision)
        for recipe in study.runs():
            execute(recipe, data.learning, Cache(options.cache_folder), how)
    return []


def finished(study: Study, data: StudyData, folder: Path) -> list[Result] | None:
    """Return the results of a finished study, newest per recipe and seed, or None."""
    if not (folder / "results").is_dir():
        return None
    same = [
        r
        for r in read_results(folder / "results")
        if r.data == data.digests
        and Roles(r.seen, r.source, r.unseen_generators) == study.data.roles
        and r.reference == (r.recipe == study.reference_name)
        and all(
            r.hardware.get(f"bench_{name}", value) == value
            for name, value in study.bench.model_dump().items()
        )
    ]
    known = {(result.recipe, result.seed): result for result in newest(same)}
    results = []
    for recipe in study.runs():
        found = known.get((recipe.name, recipe.seed))
        if found is None or found.spec != recipe.model_dump(mode="json"):
            return None
        # what steps do, or read besides the data, may have changed although the plan has not
        if found.key != _key_of(recipe, data):
            return None
        if not _measured(study, found):
            return None
        if found.approach != study.approach_of(recipe.name):
            return None
        if not _kept(study, found, folder, _name_of(study, recipe), data):
            return None
        results.append(found)
    return results


def _measured(study: Study, found: Result) -> bool:
    """Tell whether a result has a figure of every split and degradation that the study asks for."""
    for split in ("test", "val") if study.validation else ("test",):
        figures = [figure for figure in found.figures if figure.slice.get("split") == split]
        if not figures or set(study.degrade) - set(degradations_of(figures)):
            return False
    return True


def _kept(study: Study, found: Result, folder: Path, name: str, data: StudyData) -> bool:
    """Tell whether a result's own detector is there, whole, with its scores and what it says.

    Another plan that was begun with `replace`, and stopped, may have left its own there.
    """
    try:
        card = load_card(folder / "detectors" / name)
    except LyditeError:  # gone or damaged: it is written anew
        return False
    if (card.sources, card.limits) != (study.data.sources, study.limits):
        return False
    path = folder / "scores" / f"{name}.parquet"
    return (
        card.digest == found.card_digest
        and ONNX_NAME in card.files
        and scored(path, card.digest, data.test.digest)
    )


def _key_of(recipe: Recipe, data: StudyData) -> str:
    """Return the key of a recipe's detector."""
    start = start_of(recipe).card.key
    return [start, *keys_of(recipe, start, data.learning.of(recipe).digests)][-1]


def _probe(study: Study, data: StudyData, options: StudyOptions, store: ImageStore) -> None:
    """Run the study's probes on the images that its detectors learn from and are measured on."""
    train = data.learning.train
    probe_study(study, train, data.test, data.digests, options.folder, store, options.progress)


def _make(study: Study, data: StudyData, options: StudyOptions, store: ImageStore) -> list[Shipped]:
    """Run, export and score every recipe."""
    cache = Cache(options.cache_folder)
    how = Options(options.progress, options.device, options.precision)
    shipped = []
    for recipe in study.runs():
        made = execute(recipe, data.learning, cache, how)
        detector = made.detector.evolve(sources=study.data.sources, limits=study.limits)
        made = replace(made, detector=detector)
        name = _name_of(study, recipe)
        # a few images are divided anew, whatever split they were scanned in
        val = data.learning.of(recipe).val.in_split("val") if study.validation else None
        shipped.append(
            ship(made, name, options.folder, data.test, store, options.progress, study.degrade, val)
        )
    return shipped


def _name_of(study: Study, recipe: Recipe) -> str:
    """Return what a recipe's detector is called in the study's folder."""
    return study.file_stem(recipe.name, recipe.seed)


def _brought_up_to_date(kept: Any) -> Any:
    """Return a plan as written now; options that are newer than it have their defaults."""
    try:
        study = Study.model_validate(kept["study"])
    except (KeyError, TypeError, ValueError, LyditeError):  # what cannot be read differs from any
        return kept
    return kept | {"study": json.loads(json.dumps(study.model_dump(mode="json")))}


def same_or_refuse(study: Study, digests: dict[str, str], options: StudyOptions) -> dict[str, Any]:
    """Return the plan to write down, compared with the one this folder was used for.

    Raises:
        ResumeError: it differs, and `replace` is not set.
    """
    path = options.folder / STUDY_FILE
    new: dict[str, Any] = {"study": study.model_dump(mode="json"), "data": digests}
    new = json.loads(json.dumps(new))
    if path.is_file() and not options.replace:
        old = _brought_up_to_date(read_json(path))
        if old != new:
            lines = difflib.unified_diff(
                json.dumps(old, indent=1, sort_keys=True).splitlines(),
                json.dumps(new, indent=1, sort_keys=True).splitlines(),
                "in the folder",
                "asked for",
                lineterm="",
                n=1,
            )
            error = ResumeError(
                f"{options.folder} holds another study, or the data changed. Choose another folder "
                "with -o, or accept the change with --replace (finished steps that are the same "
                "are used again)."
            )
            error.details = tuple(lines)[:60]
            raise error
    return new
