"""A study's main numbers as a Markdown table, for pages that quote them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lydite.errors import DataError
from lydite.files import read_bytes, write_bytes
from lydite.study.results import Result, read_results

_MAX_PAGE_BYTES = 1024 * 1024


def study_table(results: Sequence[Result]) -> str:
    """Return a row per result: what it costs, and accuracy and AUC on seen and unseen domains.

    AUC with its 95 % interval for the seen domains and the mean over the unseen ones; for each
    unseen domain the AUC alone.

    Args:
        results: of one study, in the order of the rows.
    """
    unseen = unseen_domains(results)
    header = ["recipe", "parameters", "MMAC", "file kB", "faster", "accuracy seen", "AUC seen"]
    header += ["mean AUC unseen", *(f"AUC {domain}" for domain in unseen)]
    rows = [_row(result, unseen) for result in results]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def unseen_domains(results: Sequence[Result]) -> list[str]:
    """Return the domains that were measured but not learned from, sorted."""
    found = {f.slice["domain"] for r in results for f in r.figures if "domain" in f.slice}
    return sorted(found - {domain for r in results for domain in r.seen})


def fill(page: Path, name: str, results_folder: Path, order: Sequence[str]) -> bool:
    """Put a study's table between `<!-- table:NAME -->` and `<!-- /table -->` of a page.

    Args:
        page: a Markdown file.
        name: of the table's place.
        results_folder: the study's results.
        order: recipes in the order of the rows.

    Returns:
        Whether the page changed.

    Raises:
        DataError: the page has no such place, or there are no results.
    """
    results = read_results(results_folder)
    if not results:
        raise DataError(f"There are no results in {results_folder}.")
    place = {recipe: number for number, recipe in enumerate(order)}
    results.sort(key=lambda r: (place.get(r.recipe, len(place)), r.recipe, r.seed))
    text = read_bytes(page, _MAX_PAGE_BYTES).decode("utf-8")
    pattern = re.compile(rf"(<!-- table:{re.escape(name)} -->\n).*?(<!-- /table -->)", re.DOTALL)
    if not pattern.search(text):
        raise DataError(f"{page} has no place <!-- table:{name} --> ... <!-- /table -->.")
    table = study_table(results)
    filled = pattern.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text)
    if filled == text:
        return False
    write_bytes(page, filled.encode("utf-8"))
    return True


def _row(result: Result, unseen: Sequence[str]) -> list[str]:
    """Return one result's cells."""
    cost = result.cost
    seen = {"group": "seen", "split": "test"}
    mean = {"group": "unseen-mean", "split": "test"}
    name = result.recipe if result.seed == 0 else f"{result.recipe} (seed {result.seed})"
    return [
        name,
        f"{cost.parameters:,}",
        f"{cost.macs / 1e6:.1f}",
        f"{cost.size_bytes / 1e3:,.0f}",
        "-" if cost.latency_ratio is None else f"{cost.latency_ratio:.1f}x",
        _cell(result, "accuracy", seen, interval=True),
        _cell(result, "auc", seen, interval=True),
        _cell(result, "auc", mean, interval=True),
        *(_cell(result, "auc", {"domain": d, "split": "test"}) for d in unseen),
    ]


def _cell(result: Result, metric: str, where: dict[str, str], *, interval: bool = False) -> str:
    """Return a figure, with its interval if wanted and known."""
    figure = result.figure(metric, **where)
    if figure is None or figure.value is None:
        return "-"
    text = f"{figure.value:.3f}"
    if interval and figure.low is not None and figure.high is not None:
        text += f" [{figure.low:.3f}, {figure.high:.3f}]"
    return text
