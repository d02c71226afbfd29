"""`lydite adapt`: a shipped detector learns a new generator, and the difference becomes a pack.

The adapted detector is made and measured beside its base in an ordinary study, so that progress,
resuming, results and the report are those of every study: what the pack brings on the new images,
and what it costs on all others, stands in `results/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lydite.card import ONNX_NAME
from lydite.config import validate
from lydite.detector import Detector
from lydite.errors import ConfigError
from lydite.pack import BASE_NAME, PackCard, PackName
from lydite.pack_folder import load_pack, save_pack
from lydite.recipe import Shots, Start, parse_step
from lydite.study.results import Result
from lydite.study.run import StudyOptions, run_study
from lydite.study.spec import BenchSpec, DataSpec, Entry, Study
from lydite.transfer.layers import Layers
from lydite.transfer.packs import make_pack, require_small_share

PACK_FOLDER = "pack"


@dataclass(frozen=True)
class Adapted:
    """What `adapt` made.

    Attributes:
        pack: the folder.
        card: of the pack.
        base: measured as it was.
        adapted: measured with the pack.
    """

    pack: Path
    card: PackCard
    base: Result
    adapted: Result


def adaptation(
    detector: Path,
    data: DataSpec,
    name: str,
    options: dict[str, Any],
    *,
    shots: Shots | None = None,
    replay: Shots | None = None,
    replay_only: str | None = None,
    seed: int = 0,
) -> Study:
    """Return the study that adapts a detector and measures it beside its base.

    Args:
        detector: folder of the base.
        data: images; what is seen is the new generator, and what is a source the detector knows.
        name: of the pack.
        options: of the step `adapt`.
        shots: images of each class and domain to learn from; all unless given.
        replay: images of each class and source domain to learn from besides; none unless given.
        replay_only: the label of those; both unless given.
        seed: of every random choice.

    Raises:
        ConfigError: an option is not allowed, or a pack cannot be called this.
    """
    try:
        TypeAdapter(PackName).validate_python(name)
    except ValidationError as error:
        raise ConfigError(
            f"A pack cannot be called {name!r}. Use lower case letters, digits, '-' and '_', and "
            f"not the word {BASE_NAME!r}."
        ) from error
    step = parse_step({"adapt": options})
    start = Start(detector=detector)
    value = {"name": name, "approach": "adapt", "start": start, "steps": (step,)}
    value |= {"shots": shots, "replay": replay}
    if replay is not None:
        value["replay_only"] = replay_only
    adapted = validate(Entry, value, "The adaptation")
    return Study(
        name=f"adapt-{name}"[:60],
        title=f"{detector.name}, adapted to {', '.join(data.seen)}",
        data=data,
        recipes=(Entry(name=BASE_NAME, start=start), adapted),
        seeds=(seed,),
        bench=BenchSpec(repeats=100),
        probes=False,  # they would look at every training image, few shots or not
    )


def adapt(detector: Path, study: Study, options: StudyOptions) -> Adapted | None:
    """Run the study of `adaptation` and write the pack into its folder.

    Killed at any moment, the same call goes on; a pack that is there already stays as it is.

    Args:
        detector: folder of the base; it stays as it is.
        study: from `adaptation`.
        options: where and how.

    Returns:
        None in the helping processes that `torchrun` starts besides the first.

    Raises:
        CardError: the base is not sound.
        ConfigError: the base was not exported, has no place for an adapter, or too much of it
            would learn.
        LyditeError: anything else a user can cause; what was finished is kept.
    """
    base = require_packable(detector, study)
    data = study.data.model_copy(update={"sources": (*base.card.sources, *study.data.sources)})
    changes = {"data": data, "limits": base.card.limits}
    results = run_study(study.model_copy(update=changes), options)
    if not results:
        return None
    before, after = results
    folder = options.folder / PACK_FOLDER
    adapted = Detector.load(options.folder / "detectors" / after.recipe)
    if not _holds(folder, adapted, replace=options.replace):
        save_pack(make_pack(base, adapted, after.recipe), folder, replace=options.replace)
    return Adapted(folder, load_pack(folder).card, before, after)


def require_packable(detector: Path, study: Study) -> Detector:
    """Return the base of an adaptation; refuses what could not become a pack, before any training.

    Args:
        detector: folder of the base.
        study: from `adaptation`.

    Raises:
        CardError: the base is not sound.
        ConfigError: it was not exported, or too much of it would learn.
    """
    base = Detector.load(detector)
    if ONNX_NAME not in (base.files or {}):
        raise ConfigError(
            f"{detector} holds no {ONNX_NAME}, which a pack belongs to. "
            f"Make one with: lydite export {detector}"
        )
    (step,) = study.recipes[1].steps
    require_small_share(base, getattr(step, "also", ()))
    return base


def usual_also(detector: Path) -> tuple[Layers, ...]:
    """Return what learns beside adapters unless somebody says so: the head, if it is small.

    Args:
        detector: folder of the base.

    Raises:
        CardError: the base is not sound.
    """
    base = Detector.load(detector)
    try:
        require_small_share(base, ("head",))
    except ConfigError:  # most of the network is its head, as in the paper's smallest students
        return ()
    return ("head",)


def _holds(folder: Path, adapted: Detector, *, replace: bool) -> bool:
    """Tell whether a folder holds the pack of this very detector.

    Raises:
        ConfigError: it holds another one, and `replace` is not set.
        CardError: it holds something else.
    """
    if not folder.exists():
        return False
    if load_pack(folder).card.key != adapted.card.key:
        if replace:
            return False
        raise ConfigError(
            f"{folder} holds the pack of another adaptation. Choose another folder with -o."
        )
    return True
