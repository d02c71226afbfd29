"""The page over all folds of a study: its tables, and a link to each fold's own report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from lydite import __version__
from lydite.files import write_bytes
from lydite.report.across import VIEWS, grid
from lydite.report.held import held_figure
from lydite.report.html import REPORT_NAME
from lydite.report.pairs import pairs_map
from lydite.report.protocol import sections
from lydite.report.shots import shot_curves
from lydite.study.results import Result
from lydite.study.together import Together

_SPREAD = "on test images; the mean and standard deviation over seeds, or the 95 % interval of one"


def write_overview(
    folder: Path,
    title: str,
    folds: Mapping[str, Sequence[Result]],
    out: Path | None = None,
    record: Together | None = None,
) -> Path:
    """Write the page into the folder of all folds and return its file.

    Args:
        folder: with a folder for each fold.
        title: of the page.
        folds: results by fold.
        out: the file to write; report.html in the folder unless given.
        record: of a protocol, what its folds say together; its tables come first.

    Raises:
        FileError: the file cannot be written.
    """
    views = []
    if record is not None:
        views = [vars(section) for section in sections(record, folds)]
    for name, (metric, _, heading) in VIEWS.items():
        header, *rows = grid(folds, name)
        if any(cell != "-" for row in rows for cell in row[-len(folds) :]):
            caption = f"{metric} {_SPREAD}"
            views.append({"heading": heading, "caption": caption, "header": header, "rows": rows})
    pairwise = record is not None and record.protocol.kind == "pairwise"
    files = resources.files("lydite.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string((files / "overview.html.jinja").read_text("utf-8")).render(
        title=title,
        # our own constant: escaping would break it
        css=Markup((files / "page.css").read_text("utf-8")),  # noqa: S704
        folds=list(folds),
        report=REPORT_NAME,
        # matplotlib escapes what it writes, and so does our frame around it
        curves=Markup(shot_curves(folds) or ""),  # noqa: S704
        held=Markup(held_figure(record, folds) or "") if record else None,  # noqa: S704
        pairs=Markup(pairs_map(record, folds)) if record and pairwise else None,  # noqa: S704
        views=views,
        version=__version__,
    )
    path = out or folder / REPORT_NAME
    write_bytes(path, page.encode("utf-8"))
    return path
