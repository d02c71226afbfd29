"""Measuring what recipes made: every number on the exported file, every latency in one run."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from lydite.card import ONNX_NAME, Figure
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.detector import Detector, versions
from lydite.errors import ConfigError, LyditeError
from lydite.evaluate.auc_gain import auc_gains
from lydite.evaluate.compare import compare
from lydite.evaluate.degrade import NONE
from lydite.evaluate.photographs import photograph_figures
from lydite.evaluate.score import SCORES_SCHEMA
from lydite.evaluate.summary import summarize
from lydite.evaluate.unseen import Roles
from lydite.evaluate.voices import TOGETHER, WITH, together
from lydite.export.bench import Latency, bench
from lydite.export.onnx import export
from lydite.models.cost import count_macs, count_parameters
from lydite.recipe import Progress
from lydite.study.execute import Made
from lydite.study.results import Cost, Result
from lydite.study.scores import degraded_figures, kept_scores, validation_figures
from lydite.study.spec import BenchSpec, Study
from lydite.transfer.packs import make_pack

#: the step whose result ships as a pack, and is asked together with its base
PACKED = "adapt"


@dataclass(frozen=True)
class Shipped:
    """A recipe's result as it would be shipped, with its scores.

    Attributes:
        made: recipe, detector and step costs.
        detector: with the exported file in `files`, as saved in the study's folder.
        scores: one row a test image, measured on the exported file.
        name: folder and file name in the study.
        degraded: scores of the test images after each of the study's degradations.
        validation: scores of the validation images, degraded ones too, where the study wants them.
    """

    made: Made
    detector: Detector
    scores: pa.Table
    name: str
    degraded: pa.Table
    validation: pa.Table

    @property
    def onnx(self) -> bytes:
        """The exported file."""
        assert self.detector.files is not None, "shipped detectors are exported"
        return self.detector.files[ONNX_NAME]


def ship(
    made: Made,
    name: str,
    folder: Path,
    test: Manifest,
    store: ImageStore,
    progress: Progress,
    degrade: Sequence[str] = (),
    validation: Manifest | None = None,
) -> Shipped:
    """Export a detector into the study's folder and score it on the test images.

    They are scored as they are and after each degradation of `degrade`, and so are validation
    images where they are given. What is there already and belongs to the same detector is not done
    again.
    """
    place = folder / "detectors" / name
    detector = _stored(place, made.detector)
    if detector is None:
        files = {ONNX_NAME: export(made.detector)}
        detector = replace(made.detector, files=files).save(place)

    def score(images: Manifest, names: Sequence[str], *place: str) -> pa.Table:
        path = folder.joinpath("scores", *place, f"{name}.parquet")
        return kept_scores(detector, images, names, path, images=store, progress=progress)

    known = SCORES_SCHEMA.empty_table()
    if validation is not None:
        known = score(validation, (NONE, *degrade), "validation")
    return Shipped(
        made, detector, score(test, (NONE,)), name, score(test, degrade, "degraded"), known
    )


def measure(
    study: Study, shipped: list[Shipped], data: dict[str, str], progress: Progress
) -> list[Result]:
    """Return one result for each shipped detector, latencies from one interleaved run."""
    reference = next(s for s in shipped if s.made.recipe.name == study.reference_name)
    latencies = _latencies(shipped, reference, study.bench, progress)
    base = count_parameters(reference.made.detector.network)
    return [
        _result(
            study,
            item,
            latencies[item.name],
            base,
            data,
            _comparisons(item, reference, shipped),
            _packed(item, shipped),
        )
        for item in shipped
    ]


def _comparisons(
    item: Shipped, reference: Shipped, shipped: Sequence[Shipped]
) -> dict[str, Shipped]:
    """Return what a detector is compared with, by its recipe: the reference, and before rounding.

    The reference is that of the same seed where there is one. A quantized detector's float parent
    is in the study where a recipe comes `after` another.
    """
    named = [s for s in shipped if s.made.recipe.name == reference.made.recipe.name]
    seed = item.made.recipe.seed
    base = next((s for s in named if s.made.recipe.seed == seed), reference)
    found = {} if item is base else {base.made.recipe.name: base}
    if item.detector.card.quantization is not None:
        parents = [s for s in shipped if s.detector.card.key == item.detector.card.parent]
        found |= {s.made.recipe.name: s for s in parents if s is not item}
    return found


def _packed(item: Shipped, shipped: Sequence[Shipped]) -> Shipped | None:
    """Return the detector that this one is a pack of, if it is one and that one is in the study."""
    steps = item.detector.card.steps
    if not steps or PACKED not in steps[-1]:
        return None
    return next((s for s in shipped if s.detector.card.key == item.detector.card.parent), None)


def _pack_bytes(base: Shipped, item: Shipped) -> int | None:
    """Return the size of a pack, or None where so much was changed that none can be made."""
    name = re.sub(r"[^a-z0-9_-]", "-", item.made.recipe.name.lower())
    try:
        return make_pack(base.detector, item.detector, name).size_bytes
    except ConfigError:
        return None


def _with_pack(item: Shipped, base: Shipped, roles: Roles) -> list[Figure]:
    """Return what detector and pack decide together, and what that changes for the detector."""
    known, name = base.detector.card.score, base.made.recipe.name
    voice = together([(base.scores, known), (item.scores, item.detector.card.score)])
    figures = [
        *summarize(voice, TOGETHER, roles=roles),
        *compare(voice, TOGETHER, base.scores, known, name=name, roles=roles),
        *auc_gains(voice, base.scores, name=name, roles=roles),
    ]
    return [f.model_copy(update={"slice": f.slice | {WITH: name}}) for f in figures]


def hardware(bench: BenchSpec) -> dict[str, str | int]:
    """Return what the numbers were measured on, and how often."""
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "system": platform.system(),
        "cores": os.cpu_count() or 1,
        **{f"bench_{name}": value for name, value in bench.model_dump().items()},
    }


def _latencies(
    shipped: list[Shipped], reference: Shipped, spec: BenchSpec, progress: Progress
) -> dict[str, Latency]:
    """Time every exported file on one tile; the reference comes first, as the bench wants it."""
    progress("bench", 0, 1, f"{len(shipped)} detectors, interleaved")
    order = [reference] + [s for s in shipped if s is not reference]
    rows = bench(
        {s.name: s.onnx for s in order},
        {s.name: s.detector.card.preprocess.size for s in order},
        threads=spec.threads,
        warmup=spec.warmup,
        repeats=spec.repeats,
    )
    progress("bench", 1, 1, "")
    return {row.name: row for row in rows}


def _result(
    study: Study,
    item: Shipped,
    latency: Latency,
    base: int,
    data: dict[str, str],
    others: Mapping[str, Shipped],
    packed: Shipped | None,
) -> Result:
    """Put together everything measured on one detector."""
    made, card = item.made, item.detector.card
    roles = study.data.roles
    figures = list(summarize(item.scores, card.score, roles=roles))
    figures += photograph_figures(item.scores, card.score)
    for name, other in others.items():
        meaning = other.detector.card.score
        figures += compare(item.scores, card.score, other.scores, meaning, name=name, roles=roles)
        figures += auc_gains(item.scores, other.scores, name=name, roles=roles)
    if packed is not None:
        figures += _with_pack(item, packed, roles)
    figures += degraded_figures(item.detector, item.scores, item.degraded, roles=roles)
    figures += validation_figures(item.detector, item.validation, roles=roles)
    is_reference = made.recipe.name == study.reference_name
    return Result(
        study=study.name,
        recipe=made.recipe.name,
        approach=study.approach_of(made.recipe.name),
        reference=is_reference,
        spec=made.recipe.model_dump(mode="json"),
        key=card.key,
        card_digest=card.digest,
        seed=made.recipe.seed,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=versions() | {"onnxruntime": _onnxruntime_version()},
        hardware=hardware(study.bench),
        data=data,
        seen=study.data.seen,
        source=study.data.source,
        unseen_generators=study.data.unseen_generators,
        steps=made.steps,
        cost=_cost(item, latency, None if is_reference else base, packed),
        figures=tuple(figures),
    )


def _cost(item: Shipped, latency: Latency, base: int | None, packed: Shipped | None) -> Cost:
    """Return what a detector costs; `base` is the reference's number of parameters."""
    network = item.made.detector.network
    parameters = count_parameters(network)
    return Cost(
        parameters=parameters,
        macs=count_macs(network, item.detector.card.preprocess.size),
        size_bytes=len(item.onnx),
        compression_rate=None if base is None else round(1 - parameters / base, 6),
        latency_ms=latency.median_ms,
        latency_p95_ms=latency.p95_ms,
        latency_ratio=latency.ratio,
        latency_ratio_low=latency.ratio_low,
        latency_ratio_high=latency.ratio_high,
        pack_bytes=None if packed is None else _pack_bytes(packed, item),
    )


def _stored(place: Path, wanted: Detector) -> Detector | None:
    """Return the detector in a folder if it is the exported form of the wanted one."""
    if not (place / "card.json").is_file():
        return None
    try:
        found = Detector.load(place)
    except LyditeError:  # damaged: it is exported anew
        return None
    same = found.card.model_copy(update={"files": {}}) == wanted.card.model_copy(
        update={"files": {}}
    )
    weights = found.card.files.get("model.safetensors")
    return found if same and weights and ONNX_NAME in (found.files or {}) else None


def _onnxruntime_version() -> str:
    """Return the runtime's version."""
    import onnxruntime

    return str(onnxruntime.__version__)


def _processor() -> str:
    """Return the processor's name, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
