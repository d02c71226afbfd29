"""`lydite place --sweep`: an adapter at every place, trained and measured beside the prediction.

The adapters are made and measured in an ordinary study, so that progress, resuming, results and the
report are those of every study. `placement.json` puts beside the ranking what each of them was
worth, so that predictors can be held against it; see `lydite.transfer.placement_effects`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import ConfigError, DataError
from lydite.files import write_json
from lydite.recipe import Shots, Start, parse_step
from lydite.study.images import StudyData, load_data
from lydite.study.run import StudyOptions, plan_study, run_study
from lydite.study.spec import BenchSpec, DataSpec, Entry, Study
from lydite.study.swept import swept
from lydite.training.settings import TrainSettings
from lydite.training.team import Team
from lydite.transfer.observe import places_of
from lydite.transfer.placement import CROPS, measure_placement
from lydite.transfer.placement_result import Placement, read_placement
from lydite.transfer.placement_sweep import BASE

PLACEMENT_FILE = "placement.json"


def placement_study(
    detector: Path,
    manifest: Path,
    target: Sequence[str],
    options: dict[str, Any],
    *,
    source: Sequence[str] = (),
    shots: Shots | None = None,
    seeds: Sequence[int] = (0,),
) -> Study:
    """Return the study that trains an adapter at every place of a detector.

    Args:
        detector: folder of the base.
        manifest: the images.
        target: domains that adapters learn.
        options: of the step `adapt`, without its place.
        source: domains that the base knows; where given, no others are measured.
        shots: images of each class and domain to learn from; all unless given.
        seeds: every place is tried once with each.

    Raises:
        ConfigError: an option is not allowed, a seed stands twice, no place is free, or the
            detector is quantized.
        LyditeError: detector or manifest cannot be read.
    """
    base = Detector.load(detector)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"A seed stands twice in {', '.join(map(str, seeds))}. Name each once.")
    domains = set(Manifest.read(manifest).column("domain"))
    start = Start(detector=detector)
    entries = [
        Entry(
            name=f"at-{place}",
            approach=place,
            start=start,
            steps=(parse_step({"adapt": options | {"place": place}}),),
            shots=shots,
        )
        for place in places_of(base)
    ]
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", base.card.name).strip("-_")
    return Study(
        name=f"place-{plain or 'detector'}"[:60],
        title=f"{base.card.name}, an adapter for {', '.join(target)} at every place",
        data=DataSpec(
            manifest=manifest,
            seen=tuple(target),
            source=tuple(source),
            exclude=tuple(sorted(domains - {*target, *source})) if source else (),
            sources=base.card.sources,
        ),
        # the base is the same with every seed
        recipes=(Entry(name=BASE, start=start, seeds=(seeds[0],)), *entries),
        seeds=tuple(seeds),
        bench=BenchSpec(repeats=20),
        probes=False,
        limits=base.card.limits,
    )


def sweep(
    study: Study,
    options: StudyOptions,
    *,
    source: Sequence[str] = (),
    crops: int = CROPS,
    seed: int = 0,
) -> Placement | None:
    """Rank the places, then train and measure an adapter at each; write `placement.json`.

    Predictors are asked before any training, of what the first seed's adapters learn from: with
    `shots`, of these alone. Killed at any moment, the same call goes on.

    Args:
        study: from `placement_study`.
        options: where and how.
        source: as there.
        crops: that predictors are asked of.
        seed: of the draw of crops.

    Returns:
        None in the helping processes that `torchrun` starts besides the first.

    Raises:
        DataError: the test split lacks a class of the target, so that nothing could be measured.
        LyditeError: anything else a user can cause; what was finished is kept.
    """
    plan_study(study, options, estimate=False)  # refused rather before the ranking than after
    data = load_data(study.data, options.folder)
    _require_measurable(study, data)
    base, ranking = _base_of(study), None
    if Team.current().leads:
        ranking = _ranking(base, study, data, source, (crops, seed), options)
    results = run_study(study, options)
    if ranking is None or not results:
        return None
    made = ranking.model_copy(update={"sweep": swept(base, study, results, source)})
    return _kept(options.folder / PLACEMENT_FILE, made)


def _require_measurable(study: Study, data: StudyData) -> None:
    """Refuse a test split that cannot tell what an adapter brings.

    Raises:
        DataError: it lacks a class of the target.
    """
    there = set(data.test.select(domain=list(study.data.seen)).column("label"))
    for label in study.data.labels:
        if label not in there:
            raise DataError(
                f"The test split holds no {label} image of {', '.join(study.data.seen)}, so what "
                "an adapter brings cannot be measured. Scan a folder that has some."
            )


def _ranking(
    base: Detector,
    study: Study,
    data: StudyData,
    source: Sequence[str],
    draw: tuple[int, int],
    options: StudyOptions,
) -> Placement:
    """Ask every predictor, of crops as training would draw them; `draw` is how many, and a seed."""
    step = study.recipes[1].steps[0]
    assert isinstance(step, TrainSettings), "the study adapts"
    first = study.resolved(study.seeds[0])[1]
    known = data.manifest.select(split="train", domain=list(source)) if source else None
    return measure_placement(
        base,
        data.learning.of(first).train,
        known,
        crops=draw[0],
        seed=draw[1],
        settings=step,
        device=options.device,
        progress=options.progress,
    )


def _base_of(study: Study) -> Detector:
    """Return the detector that a study puts adapters into."""
    start = study.recipes[0].start
    assert start is not None, "`placement_study` gives it one"
    assert start.detector is not None, "`placement_study` gives it one"
    return Detector.load(start.detector)


def _kept(path: Path, made: Placement) -> Placement:
    """Write a placement, unless the file says the same already; return what it says."""
    if path.is_file():
        found = read_placement(path)
        if found == made.model_copy(update={"created": found.created}):
            return found
    write_json(path, made.model_dump(mode="json"))
    return made
