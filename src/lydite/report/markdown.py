"""A study's main numbers as a Markdown table, for pages that quote them."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from lydite.card import Figure
from lydite.errors import DataError
from lydite.evaluate.compare import FLIPPED, GAIN
from lydite.evaluate.degraded import DEGRADATION
from lydite.evaluate.voices import WITH
from lydite.files import read_bytes, write_bytes
from lydite.study.results import Cost, Result, newest, read_results

_MAX_PAGE_BYTES = 1024 * 1024


def study_table(results: Sequence[Result]) -> str:
    """Return a row per recipe: what it costs, and accuracy and AUC on seen and unseen domains.

    Of one seed, accuracy and AUC come with their 95 % intervals for the seen domains and the mean
    over the unseen ones, and for the source's where there is one; for each unseen domain the AUC
    alone. Of several seeds, each number is the mean over them and, behind a plus-minus, their
    standard deviation. "Faster" is times the reference's speed. Where they were measured: accuracy
    minus the reference's on the same images, and what rounding changed against the float detector.

    Args:
        results: of one study, in the order of the rows; those of one recipe make one row, the
            newest of each seed.
    """
    unseen = unseen_domains(results)
    recipes: dict[str, list[Result]] = {}
    for result in newest(results):
        recipes.setdefault(result.recipe, []).append(result)
    known = ("seen", "source") if any(result.source for result in results) else ("seen",)
    header = ["recipe", "parameters", "MMAC", "file kB", "faster"]
    header += [f"{metric} {group}" for group in known for metric in ("accuracy", "AUC")]
    header += ["mean AUC unseen", *(f"AUC {domain}" for domain in unseen)]
    rows = [_row(group, known, unseen) for group in recipes.values()]
    base = next((r.recipe for r in results if r.reference), None)
    if base is not None and any(_compared(r, GAIN, base) for r in results):
        header.insert(6, f"minus {base}")
        for row, group in zip(rows, recipes.values(), strict=True):
            row.insert(6, _gain(group, base))
    rounded = [_rounding(group, base) for group in recipes.values()]
    if any(cell != "-" for cell in rounded):
        header.append("rounding")
        for row, cell in zip(rows, rounded, strict=True):
            row.append(cell)
    if any(len(group) > 1 for group in recipes.values()):
        header.insert(1, "seeds")
        for row, group in zip(rows, recipes.values(), strict=True):
            row.insert(1, str(len(group)))
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def unseen_domains(results: Sequence[Result]) -> list[str]:
    """Return the domains that were measured but never learned from, sorted."""
    found = {f.slice["domain"] for r in results for f in r.figures if "domain" in f.slice}
    return sorted(found - {domain for r in results for domain in (*r.seen, *r.source)})


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
    return fill_place(page, "table", name, study_table(results))


def fill_place(page: Path, kind: str, name: str, text: str) -> bool:
    """Put a text between `<!-- KIND:NAME -->` and `<!-- /KIND -->` of a page.

    Returns:
        Whether the page changed.

    Raises:
        DataError: the page has no such place.
    """
    before = read_bytes(page, _MAX_PAGE_BYTES).decode("utf-8")
    place = rf"(<!-- {kind}:{re.escape(name)} -->\n).*?(<!-- /{kind} -->)"
    if not re.search(place, before, re.DOTALL):
        raise DataError(f"{page} has no place <!-- {kind}:{name} --> ... <!-- /{kind} -->.")
    filled = re.sub(place, lambda match: f"{match[1]}{text}\n{match[2]}", before, flags=re.DOTALL)
    if filled == before:
        return False
    write_bytes(page, filled.encode("utf-8"))
    return True


def _row(group: Sequence[Result], known: Sequence[str], unseen: Sequence[str]) -> list[str]:
    """Return the cells of one recipe's results, one a seed, on known groups and unseen domains."""
    costs = [result.cost for result in group]
    mean = {"group": "unseen-mean", "split": "test"}
    return [
        group[0].recipe,
        f"{statistics.mean(cost.parameters for cost in costs):,.0f}",
        f"{statistics.mean(cost.macs for cost in costs) / 1e6:.1f}",
        f"{statistics.mean(cost.size_bytes for cost in costs) / 1e3:,.0f}",
        _faster(costs),
        *(
            _cell(group, metric, {"group": name, "split": "test"}, interval=True)
            for name in known
            for metric in ("accuracy", "auc")
        ),
        _cell(group, "auc", mean, interval=True),
        *(_cell(group, "auc", {"domain": d, "split": "test"}) for d in unseen),
    ]


def _compared(result: Result, metric: str, name: str) -> Figure | None:
    """Return how a result compares with another detector on seen domains, if it was compared."""
    return result.figure(metric, group="seen", split="test", against=name)


def _gain(group: Sequence[Result], base: str) -> str:
    """Return accuracy minus the reference's, with its paired interval or its spread over seeds."""
    figures = [_compared(result, GAIN, base) for result in group]
    values = [f.value for f in figures if f is not None and f.value is not None]
    if not values:
        return "-"
    text = f"{statistics.mean(values):+.3f}"
    if len(group) > 1:
        return f"{text}{over_seeds(values, len(group))}"
    (figure,) = figures
    if figure is None or figure.low is None or figure.high is None:
        return text
    return f"{text} [{figure.low:+.3f}, {figure.high:+.3f}]"


def over_seeds(values: Sequence[float], seeds: int, digits: int = 3) -> str:
    """Return what stands behind a mean over seeds: the spread, and how many were left out."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if values[1:] else ""
    return spread if len(values) == seeds else f"{spread} ({len(values)} of {seeds} seeds)"


def _rounding(group: Sequence[Result], base: str | None) -> str:
    """Return what quantization changed on seen domains: accuracy, and share of decisions."""
    gains, flips = (
        [
            f.value
            for result in group
            for f in result.figures
            if f.metric == metric
            and f.slice.get("group") == "seen"
            and not {DEGRADATION, WITH} & f.slice.keys()
            and f.slice.get("against", base) != base
            and f.value is not None
        ]
        for metric in (GAIN, FLIPPED)
    )
    if not gains or not flips:
        return "-"
    return f"{statistics.mean(gains):+.3f}, {statistics.mean(flips):.1%} flipped"


def _faster(costs: Sequence[Cost]) -> str:
    """Return how many times the reference's speed, with its interval or its spread over seeds."""
    ratios = [cost.latency_ratio for cost in costs if cost.latency_ratio is not None]
    if not ratios:
        return "-"
    text = f"{statistics.mean(ratios):.1f}x"
    if len(ratios) > 1:
        return f"{text} ± {statistics.stdev(ratios):.1f}"
    low, high = costs[0].latency_ratio_low, costs[0].latency_ratio_high
    return text if low is None or high is None else f"{text} [{low:.1f}, {high:.1f}]"


def _cell(
    group: Sequence[Result], metric: str, where: dict[str, str], *, interval: bool = False
) -> str:
    """Return a figure, with its interval or its spread over seeds if wanted and known."""
    figures = [result.figure(metric, **where) for result in group]
    values = [f.value for f in figures if f is not None and f.value is not None]
    if not values:
        return "-"
    text = f"{statistics.mean(values):.3f}"
    if len(group) > 1:
        left_out = len(values) < len(group)
        return f"{text}{over_seeds(values, len(group))}" if interval or left_out else text
    (figure,) = figures
    if interval and figure is not None and figure.low is not None and figure.high is not None:
        text += f" [{figure.low:.3f}, {figure.high:.3f}]"
    return text
