"""What leakage probes mean for a study's detectors: warnings, and a table for the page.

A probe *speaks* when the whole 95 % interval of its AUC on seen domains lies above 0.6, as in
`lydite data check`. It is *close* to a detector when its AUC reaches the lower end of that
detector's interval as well: on these images, the detector was not shown to know more than the
probe. `shuffled-labels` can only be right by meeting a picture again, and is alarming by itself
when its whole interval lies above 0.55.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lydite.card import Figure
from lydite.report.view import Line, lines_of
from lydite.study.probes import ProbeFigures, Probes, probes_of
from lydite.study.results import Result

#: as in `lydite.data.audit`, which takes a second to import
WARN_AUC = 0.6
#: the interval of `shuffled-labels` starts above this where pictures stand in several splits
CHANCE = 0.55
SHUFFLED = "shuffled-labels"
_SEES = {
    "format-size": "header of the file",
    "low-frequency": "8×8 means of the pixels",
    SHUFFLED: "the same, labels drawn at random",
}
_ALONE = {
    "format-size": "The files' headers alone (format, size, bytes, JPEG tables)",
    "low-frequency": "8×8 means of the pixels alone (rough content and colors)",
}
#: names of detectors that a sentence holds
_MOST_NAMES = 3


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: of the probe or detector.
        sees: what it looks at.
        says: what its AUC on seen domains means.
        figures: AUC by group.
        detector: it is none of the probes.
    """

    name: str
    sees: str
    says: str
    figures: Mapping[str, Figure | None]
    detector: bool = False

    def figure(self, group: str) -> Figure | None:
        """Return the AUC on a group of domains, or None."""
        return self.figures.get(group)


def find_probes(folder: Path, lines: Sequence[Line]) -> Probes | None:
    """Return the probes of the images that lines were measured on, or None in older folders.

    Raises:
        DataError: a document of probes is not valid.
    """
    result = lines[0].result
    held = result.unseen_generators
    return probes_of(folder, result.data, result.seen, result.source, held)


def speaks(probe: ProbeFigures) -> bool:
    """Tell whether a probe surely tells the classes apart on seen domains."""
    floor = CHANCE if probe.name == SHUFFLED else WARN_AUC
    return _low(probe.figure("auc", group="seen")) > floor


def close_to(probe: ProbeFigures, lines: Sequence[Line]) -> list[Line]:
    """Return the detectors whose interval of the AUC on seen domains a speaking probe reaches."""
    area = probe.figure("auc", group="seen")
    if probe.name == SHUFFLED or area is None or area.value is None or not speaks(probe):
        return []
    found = []
    for line in lines:
        theirs = line.figure("auc", group="seen")
        if theirs is not None and theirs.value is not None:
            low = theirs.value if theirs.low is None else theirs.low
            found += [line] if area.value >= low else []
    return found


def probe_remarks(lines: Sequence[Line], probes: Probes | None) -> list[str]:
    """Return what a reader must be warned of, the worst first."""
    if probes is None:
        return []
    found: dict[bool, list[str]] = {True: [], False: []}
    for probe in probes.probes:
        if speaks(probe):
            close = close_to(probe, lines)
            severe = bool(close) or probe.name == SHUFFLED
            found[severe].append(_sentence(probe, close, lines, probes.labels))
    return found[True] + found[False]


def spoken(folder: Path, results: Sequence[Result]) -> str:
    """Return a line on a study's probes for the terminal, and its warnings; "" without any."""
    lines = lines_of(results)
    probes = find_probes(folder, lines) if lines else None
    if probes is None:
        return ""
    said = [f"{p.name} {_text(p.figure('auc', group='seen'))}" for p in probes.probes]
    warnings = [f"Warning: {remark}" for remark in probe_remarks(lines, probes)]
    return "\n".join([f"Probes, AUC seen: {', '.join(said)}", *warnings])


def probes_value(folder: Path, results: Sequence[Result]) -> dict[str, Any] | None:
    """Return a study's probes and their warnings as JSON values, or None."""
    lines = lines_of(results)
    probes = find_probes(folder, lines) if lines else None
    if probes is None:
        return None
    return probes.model_dump(mode="json") | {"warnings": probe_remarks(lines, probes)}


def section(
    lines: Sequence[Line], probes: Probes | None, environment: jinja2.Environment
) -> Markup | None:
    """Return the page's section, or None where there are no probes.

    Args:
        lines: detectors, in the order of the page.
        probes: of the same images.
        environment: the page's, which escapes.
    """
    if probes is None:
        return None
    template = environment.from_string(
        (resources.files("lydite.report") / "probes.html.jinja").read_text("utf-8")
    )
    values: dict[str, Any] = {
        "rows": [*_probe_rows(lines, probes), *_detector_rows(lines)],
        "source": probes.source,
        "trained": max(probe.images for probe in probes.probes),
    }
    return Markup(template.render(values))  # noqa: S704  # the template escaped it


def _probe_rows(lines: Sequence[Line], probes: Probes) -> list[Row]:
    """Return one row a probe."""
    rows = []
    for probe in probes.probes:
        close = close_to(probe, lines)
        if close:
            says = f"as good as {_names(close)}"
        elif speaks(probe):
            says = "not at chance" if probe.name == SHUFFLED else "a part of the answer"
        else:
            says = probe.note or "says little"
            says = "at chance, as it should" if probe.name == SHUFFLED and not probe.note else says
        groups = ("seen", "source", "unseen-mean")
        figures = {group: probe.figure("auc", group=group) for group in groups}
        rows.append(Row(probe.name, _SEES.get(probe.name, ""), says, figures))
    return rows


def _detector_rows(lines: Sequence[Line]) -> list[Row]:
    """Return the reference and the detector that is best on seen domains."""
    reference = next((line for line in lines if line.result.reference), lines[0])
    best = max(lines, key=lambda line: line.value("auc", group="seen") or 0.0)
    rows = []
    for line in {reference.name: reference, best.name: best}.values():
        says = "reference" if line is reference else "best detector"
        says = "reference and best detector" if reference is best and len(lines) > 1 else says
        groups = ("seen", "source", "unseen-mean")
        figures = {group: line.figure("auc", group=group) for group in groups}
        rows.append(Row(line.name, "the image", says, figures, detector=True))
    return rows


def _sentence(
    probe: ProbeFigures, close: Sequence[Line], lines: Sequence[Line], labels: tuple[str, str]
) -> str:
    """Return the warning of a probe that speaks."""
    area = _text(probe.figure("auc", group="seen"))
    if probe.name == SHUFFLED:
        return (
            f"Under labels drawn at random, memory alone reaches an AUC of {area} on seen domains, "
            "where 0.5 is all there is. Test images, or others of their groups, are among the "
            "training images, and the figures of all detectors are too good. "
            "Find them with: lydite data check"
        )
    meant = (
        "a generator's traces"
        if labels == ("real", "fake")
        else f"what was meant to tell {labels[0]} from {labels[1]}"
    )
    where = f"{_ALONE.get(probe.name, probe.name)} tell {labels[0]} from {labels[1]}"
    new = probe.figure("auc", group="unseen-mean")
    also = f" (unseen domains: {_text(new)})" if _low(new) > WARN_AUC else ""
    if close:
        every = "all detectors" if len(close) == len(lines) > 1 else _names(close)
        return (
            f"{where} with an AUC of {area} on seen domains{also}, which reaches the interval of "
            f"{every}: on these images nothing shows that more than that was learned, "
            f"such as {meant}."
        )
    return (
        f"{where} with an AUC of {area} on seen domains{also}: "
        f"a part of what detectors reach there may be that, not {meant}."
    )


def _names(lines: Sequence[Line]) -> str:
    """Return the first names of detectors, and how many more there are."""
    names = ", ".join(line.name for line in lines[:_MOST_NAMES])
    more = len(lines) - _MOST_NAMES
    return f"{names} and {more} more" if more > 0 else names


def _low(figure: Figure | None) -> float:
    """Return the lower end of an interval, 0 where there is none."""
    return 0.0 if figure is None or figure.low is None else figure.low


def _text(figure: Figure | None) -> str:
    """Return a figure with its interval, or a dash."""
    if figure is None or figure.value is None:
        return "-"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
