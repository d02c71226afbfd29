"""From a study's detector to one that is given away: its card carries what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lydite.card import ONNX_NAME
from lydite.detector import Detector
from lydite.errors import DataError, unknown_name
from lydite.study.results import read_results


def publish(study: Path, name: str, out: Path, *, title: str | None = None) -> Detector:
    """Write a study's detector to `out`, with the study's test figures in its card.

    Args:
        study: folder of a finished study.
        name: folder name under its `detectors`.
        out: where to write; an older detector there is replaced.
        title: name in the new card; the old one unless given.

    Returns:
        The detector as written.

    Raises:
        DataError: no such study or detector, no result of it, no exported file, or `out` lies in
            the study.
    """
    place = study / "detectors" / name
    there = [p.name for p in (study / "detectors").glob("*") if p.is_dir()]
    if not there:
        folds = sorted(p.parent.name for p in study.glob("*/detectors"))
        hint = f"Name one of its folds: {', '.join(folds)}." if folds else "Run a study first."
        raise DataError(f"{study} is no folder of a study with detectors. {hint}")
    if name not in there:
        raise DataError(unknown_name("detector", name, there))
    if out.resolve().is_relative_to(study.resolve()):
        # its card would have another digest, by which results know their detector
        raise DataError(f"{out} lies inside the study {study}. Name a folder elsewhere.")
    detector = Detector.load(place)
    if ONNX_NAME not in (detector.files or {}):
        raise DataError(f"{place} holds no {ONNX_NAME}. Export it with: lydite export {place}")
    digest = detector.card.digest
    results = [r for r in read_results(study / "results") if r.card_digest == digest]
    if not results:
        raise DataError(f"{study} holds no result of {name}. Run the study to its end first.")
    # what a study says of validation images was there to choose by; a card tells what came of it
    tested = tuple(f for f in results[-1].figures if f.slice.get("split") != "val")
    figures = detector.card.measured + tested
    card = detector.card.model_copy(
        update={"measured": figures, "name": title or detector.card.name}
    )
    return replace(detector, card=card).save(out)
