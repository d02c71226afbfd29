"""`lydite report`: a study's results as one offline HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lydite.cli.output import emit
from lydite.cli.target import require_target

if TYPE_CHECKING:
    from cyclopts import App


def register(app: App) -> None:
    """Add the command to the application."""
    app.command(report, name="report")


def report(
    study: Path,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    no_images: bool = False,
    json: bool = False,
) -> int:
    """Turn a study's results into one HTML file that needs nothing beside itself.

    Args:
        study: the study's folder; of one with folds, each fold's page is made anew as well.
        out: the file to write; report.html in the study's folder unless given.
        no_images: leave sample images out of the page.
        json: print the page's path as JSON.
    """
    from lydite.errors import DataError
    from lydite.report.across import read_folds
    from lydite.report.html import write_report
    from lydite.report.overview import write_overview
    from lydite.report.protocol import folds_of, record_of
    from lydite.study.results import RESULTS

    if not study.is_dir():
        raise DataError(f"{study} is not a study's folder. Make one with: lydite study STUDY.yaml")
    if out is not None:
        require_target(out, "page", option="--out")
    folds = {} if (study / RESULTS).is_dir() else read_folds(study)
    record = record_of(study, folds)
    if record is not None:
        folds = folds_of(record, study)
    if folds:
        for name in folds:
            write_report(study / name, images=not no_images)
        path = write_overview(study, study.resolve().name, folds, out, record)
    else:
        path = write_report(study, out, images=not no_images)
    size = path.stat().st_size
    emit({"report": str(path), "size_bytes": size}, json, f"{path.resolve().as_uri()}")
    return 0
