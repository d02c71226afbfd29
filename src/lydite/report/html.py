"""The report: one HTML file that needs nothing beside itself, made from a study's folder.

No script, no request: the page's own policy forbids both. Everything that comes from data is
escaped. Figures that were measured are quoted; none is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import jinja2
import pyarrow as pa
import yaml
from markupsafe import Markup

from lydite import __version__
from lydite.data.manifest import Manifest
from lydite.errors import DataError, LyditeError
from lydite.evaluate.score import read_scores
from lydite.evaluate.unseen import Roles
from lydite.evaluate.verdicts import VERDICTS
from lydite.files import write_bytes
from lydite.report import calibration, degraded, distributions, figures, pictures, rates, why
from lydite.report.plan import in_order, read_plan
from lydite.report.probes import find_probes, probe_remarks, section
from lydite.report.view import Line, columns_of, headline, kilobytes, lines_of, remarks
from lydite.study.probes import Probes
from lydite.study.results import RESULTS, results_of_plan

REPORT_NAME = "report.html"
_MANIFESTS = ("manifest.parquet", "data/manifest.parquet")
#: metrics of the full table, in its order
_DECISIONS = ("accuracy", "balanced_accuracy", "f1", "precision", "recall", "auc", "ap")
_METRICS = (*_DECISIONS, "ece", "brier", "log_loss", *VERDICTS)


def write_report(folder: Path, out: Path | None = None, *, images: bool = True) -> Path:
    """Write a study's report.

    Args:
        folder: of the study; `results/` must hold at least one result. `study.json`, `scores/`,
            `probes/` and the images add their sections where they are there.
        out: the file to write; `folder/report.html` unless given.
        images: show sample images (small copies) with their scores.

    Returns:
        The file that was written.

    Raises:
        DataError: there are no results, or one of them is not valid.
        FileError: a file cannot be read or written.
    """
    study = read_plan(folder)
    results = in_order(results_of_plan(folder), study)
    if not results:
        raise DataError(f"There are no results of this study in {folder / RESULTS}. Run it again.")
    lines = lines_of(results)
    scores = _scores(folder, lines)
    root = _image_root(folder, study) if images else None
    path = out or folder / REPORT_NAME
    found = find_probes(folder, lines)
    page = render(lines, study, scores, root, folder / "detectors", found)
    write_bytes(path, page.encode("utf-8"))
    return path


def render(
    lines: Sequence[Line],
    study: Mapping[str, Any],
    scores: Mapping[str, pa.Table],
    root: Path | None,
    detectors: Path | None = None,
    probes: Probes | None = None,
) -> str:
    """Return the page.

    Args:
        lines: results in the order of the table.
        study: the study as data; may be empty.
        scores: by the name of the line, as far as they are kept.
        root: the images' folder, None to show none.
        detectors: the folder of the exported detectors, None to ask none.
        probes: of the images that lines were measured on.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "size": kilobytes,
        "share": _share,
        "count": _count,
        "number": _number,
        "yaml": _yaml,
    }
    folder = resources.files("lydite.report")
    template = environment.from_string((folder / "page.html.jinja").read_text("utf-8"))
    seen = list(dict.fromkeys(name for line in lines for name in line.result.seen))
    source = list(dict.fromkeys(name for line in lines for name in line.result.source))
    galleries = _galleries(lines, scores, [*seen, *source], root)
    shown = [picture for _, found in galleries for picture in found]
    return template.render(
        title=study.get("title") or study.get("name") or lines[0].result.study,
        name=lines[0].result.study,
        # our own constant: escaping would break it
        css=Markup((folder / "page.css").read_text("utf-8")),  # noqa: S704
        version=__version__,
        headline=headline(lines),
        remarks=[*probe_remarks(lines, probes), *remarks(lines)],
        probes=section(lines, probes, environment),
        lines=lines,
        seen=seen,
        source=source,
        columns=columns_of(lines),
        metrics=_METRICS,
        calibrations=calibration.rows_of(lines),
        drawings=_drawings(lines, scores, seen, source),
        degraded=degraded.rows_of(lines),
        degraded_panels=degraded.panels_of(lines),
        galleries=galleries,
        why=why.section(lines, scores, [*seen, *source], root, detectors, shown),
        study=study,
    )


def _drawings(
    lines: Sequence[Line],
    scores: Mapping[str, pa.Table],
    seen: Sequence[str],
    source: Sequence[str],
) -> dict[str, Markup]:
    """Return every figure for which there is something to show, by name."""
    panels = [
        ("accuracy", "accuracy", "seen", "Accuracy against size", f"accuracy on {', '.join(seen)}"),
        (
            "source",
            "accuracy",
            "source",
            "What was learned before, against size",
            f"accuracy on {', '.join(source)}, learned before",
        ),
        (
            "unseen",
            "auc",
            "unseen-mean",
            "Unseen generators against size",
            "mean AUC over unseen domains",
        ),
    ]
    drawn = {
        name: figures.trade_off(lines, metric, group, name, title, axis)
        for name, metric, group, title, axis in panels
        if name == "accuracy" or any(line.value(metric, group=group) is not None for line in lines)
    }
    curves = rates.rate_curves(lines, seen)
    if curves is not None:
        drawn["rates"] = curves
    if columns_of(lines):
        drawn["matrix"] = figures.matrix(lines)
    worn = degraded.degraded_map(lines)
    if worn is not None:
        drawn["degraded"] = worn
    if any(len(line.stops("auc")) > 1 for line in lines):
        drawn["steps"] = figures.step_paths(lines)
    promises = calibration.promises(chosen(lines))
    if promises is not None:
        drawn["promises"] = promises
    scored = [line for line in lines if line.name in scores]
    if scored:
        drawn |= _spreads(scored, scores, seen, source)
    # matplotlib escapes what it writes, and so does our frame around it
    return {name: Markup(text) for name, text in drawn.items()}  # noqa: S704


def _spreads(
    scored: Sequence[Line],
    scores: Mapping[str, pa.Table],
    seen: Sequence[str],
    source: Sequence[str],
) -> dict[str, str]:
    """Return the figures of how probabilities are spread on seen and on unseen domains."""
    known, new = (
        [
            distributions.spread_of(
                x.name,
                scores[x.name],
                Roles(seen, source, x.result.unseen_generators),
                unseen=unseen,
            )
            for x in scored
        ]
        for unseen in (False, True)
    )
    few = [scored.index(line) for line in chosen(scored)]
    return {
        "histograms": distributions.histograms(known, new),
        "reliability": distributions.reliability([known[i] for i in few], [new[i] for i in few]),
    }


def _galleries(
    lines: Sequence[Line], scores: Mapping[str, pa.Table], learned: Sequence[str], root: Path | None
) -> list[tuple[str, list[pictures.Picture]]]:
    """Return sample images under their headings."""
    few = chosen([line for line in lines if line.name in scores])
    if root is None or not few:
        return []
    quoted = {line.name: scores[line.name] for line in few}
    best = max(few, key=lambda line: line.value("auc", group="unseen-mean") or 0.0).name
    made = [
        ("One real and one fake of each domain", pictures.one_of_each(quoted, learned, root)),
        (f"Where {best} is most surely wrong", pictures.mistakes(quoted, best, root)),
    ]
    return [(heading, found) for heading, found in made if found]


def chosen(lines: Sequence[Line]) -> list[Line]:
    """Return up to three detectors worth quoting: reference, smallest file, best on unseen."""
    if not lines:
        return []
    picks = [
        next((line for line in lines if line.result.reference), lines[0]),
        min(lines, key=lambda line: line.size_bytes),
        max(lines, key=lambda line: line.value("auc", group="unseen-mean") or 0.0),
    ]
    return list({line.name: line for line in picks}.values())


def _scores(folder: Path, lines: Sequence[Line]) -> dict[str, pa.Table]:
    """Return the scores that were kept, by the line's name."""
    found = {}
    for line in lines:
        recipe, seed = line.result.recipe, line.result.seed
        for stem in (f"{recipe}-seed{seed}", recipe):
            path = folder / "scores" / f"{stem}.parquet"
            if path.is_file():
                table = read_scores(path)
                # a file may be left from another run of the recipe, or another recipe's
                if table["key"].unique().to_pylist() == [line.result.key]:
                    found[line.name] = table
                    break
    return found


def _image_root(folder: Path, study: Mapping[str, Any]) -> Path | None:
    """Return the folder that the images' paths start from, or None where it is gone."""
    named = (study.get("data") or {}).get("manifest")
    # a fold's images are described in the folder of all folds
    places = [at / name for at in (folder, folder.parent) for name in _MANIFESTS]
    for place in [Path(named)] if named else places:
        try:
            return Manifest.read(place).root
        except LyditeError:
            continue
    return None


def _share(value: float | None) -> str:
    """Return a share in percent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def _number(value: float | None, digits: int = 3) -> str:
    """Return a number with a fixed count of digits; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _count(value: int | float | None) -> str:
    """Return a whole number with thin spaces between thousands; a dash where there is none."""
    return "–" if value is None else f"{value:,.0f}".replace(",", "\u2009")


def _yaml(value: Any) -> str:
    return yaml.safe_dump(_shareable(value), sort_keys=False, allow_unicode=True, width=88)


def _shareable(value: Any) -> Any:
    """Return data whose absolute paths keep their last part alone: pages are passed around."""
    if isinstance(value, dict):
        return {key: _shareable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shareable(item) for item in value]
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute():
                return f"…/{kind(value).name}"
    return value
