"""`lydite study`: several recipes over one data set, to one folder with a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lydite.cli.output import emit, progress_reporter, table

if TYPE_CHECKING:
    from cyclopts import App

    from lydite.study.plan import Plan
    from lydite.study.results import Result
    from lydite.study.run import StudyOptions
    from lydite.study.spec import Study


def register(app: App) -> None:
    """Add the command."""
    app.command(study)


def study(
    study: str,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    cache: Path | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    replace: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
    precision: str = "auto",
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Run several recipes over one data set; write detectors, scores, results and a report.

    Killed or stopped, the same command goes on where it was.

    Parameters
    ----------
    study
        A study's YAML file, or the name of a built-in one (demo).
    out
        Folder to write to; runs/NAME unless given.
    cache
        Folder of finished steps, to share between studies; inside the output folder unless given.
    dry_run
        Check everything and show the plan, sizes, expected time and disk space; run nothing but the
        making of simulated data, where the study wants them.
    replace
        Accept a changed study or changed data in a folder that was used before.
    device
        auto, cpu or cuda.
    precision
        auto, float32 or bfloat16.
    json
        Print the results, or the plan, as JSON.
    """
    from lydite.report.html import write_report
    from lydite.report.probes import probes_value, spoken
    from lydite.study.reading import read_study
    from lydite.study.run import StudyOptions, plan_study, run_study

    spec = read_study(study)
    options = StudyOptions(
        folder=out or Path("runs") / spec.name,
        cache=cache,
        replace=replace,
        device=device,
        precision=precision,
        progress=progress_reporter(),
    )
    if spec.folds or spec.protocol:
        return _over_folds(spec, options, dry_run, json)
    if dry_run:
        plan = plan_study(spec, options)
        emit(plan.to_dict(), json, lambda: plan_text(plan))
        return 0
    results = run_study(spec, options)
    if not results:  # a helping process under torchrun
        return 0
    report = write_report(options.folder)
    value = {
        "folder": str(options.folder),
        "report": str(report),
        "results": [result.model_dump(mode="json") for result in results],
        "probes": probes_value(options.folder, results),
    }
    parts = [results_text(results), spoken(options.folder, results)]
    parts.append(f"Report: {report.resolve().as_uri()}")
    emit(value, json, lambda: "\n\n".join(filter(None, parts)))
    return tell_unscored(results)


def tell_unscored(results: Sequence[Result]) -> int:
    """Say on stderr how many test images have no score; return the exit status."""
    lost = max((result.unscored for result in results), default=0)
    if not lost:
        return 0
    sys.stderr.write(
        f"{lost} test images could not be scored; the figures are of the others. If their files "
        "are back, the same command scores them.\n"
    )
    return 1


def _over_folds(spec: Study, options: StudyOptions, dry_run: bool, json: bool) -> int:
    """Plan or run every fold; a protocol's folds are made of the data first."""
    from lydite.report.across import across_table
    from lydite.report.html import write_report
    from lydite.report.overview import write_overview
    from lydite.report.probes import probes_value, spoken
    from lydite.report.protocol import protocol_text
    from lydite.study.folds import plan_folds, run_folds, with_folds
    from lydite.study.together import read_together

    spec = with_folds(spec, options)
    if dry_run:
        plans = plan_folds(spec, options)
        value = {name: plan.to_dict() for name, plan in plans.items()}
        if spec.protocol is not None:
            for fold in spec.folds:
                value[fold.name]["fold"] = fold.model_dump(mode="json")
        parts = [folds_text(spec), *map(plan_text, plans.values())]
        emit(value, json, lambda: "\n\n".join(part for part in parts if part))
        return 0
    folds = run_folds(spec, options)
    if not all(folds.values()):  # a helping process under torchrun
        return 0
    for name in folds:
        write_report(options.folder / name)
    record = read_together(options.folder) if spec.protocol else None
    title = spec.title or spec.name
    report = write_overview(options.folder, title, folds, record=record)
    text = protocol_text(record, folds) if record else across_table(folds, "seen")
    results = {name: [r.model_dump(mode="json") for r in found] for name, found in folds.items()}
    made: dict[str, Any] = {"folder": str(options.folder), "report": str(report), "folds": results}
    made["probes"] = {n: probes_value(options.folder / n, found) for n, found in folds.items()}
    if record is not None:
        made["protocol"] = record.model_dump(mode="json")
    said = {name: spoken(options.folder / name, found) for name, found in folds.items()}
    probes = [f"{name}: {line}" for name, told in said.items() for line in told.splitlines()]
    parts = [text, "\n".join(probes), f"Report: {report.resolve().as_uri()}"]
    emit(made, json, lambda: "\n\n".join(filter(None, parts)))
    return tell_unscored([result for found in folds.values() for result in found])


def folds_text(spec: Study) -> str:
    """Return which folds a protocol made of the data; nothing of folds by hand."""
    if spec.protocol is None:
        return ""
    rows = [
        [
            fold.name,
            ", ".join(fold.seen),
            ", ".join(dict.fromkeys(u.get("generator", u["domain"]) for u in fold.held)),
        ]
        for fold in spec.folds
    ]
    count = f"{len(rows)} fold{'s' if len(rows) > 1 else ''}"
    listed = table(["fold", "learns", "measured on"], rows)
    return f"Protocol {spec.protocol.kind}: {count}\n\n{listed}"


def plan_text(plan: Plan) -> str:
    """Return a plan as people read it."""
    rows = [
        [
            step.recipe,
            next(iter(step.step)),
            step.parameters,
            "done" if step.cached else clock(step.seconds),
        ]
        for step in plan.steps
    ]
    notes = sorted({note for step in plan.steps for note in step.notes})
    return "\n".join(
        [
            f"{plan.study}: {plan.train} training, {plan.val} validation, {plan.test} test images",
            *([f"Learned before: {', '.join(plan.source)}"] if plan.source else []),
            "",
            table(["first needed by", "step", "parameters", "expected"], rows),
            "",
            f"About {clock(plan.seconds)} of training to do; "
            f"{plan.disk_bytes / 1e6:.0f} MB to write, {plan.free_bytes / 1e9:.1f} GB free.",
            *(f"Note: {note}" for note in notes),
        ]
    )


def results_text(results: list[Result]) -> str:
    """Return the results' main numbers as a table."""
    known = ["accuracy source"] if any(result.source for result in results) else []
    headers = [
        "recipe", "parameters", "MACs", "file", "faster", "accuracy seen", "AUC seen", *known,
        "AUC unseen",
    ]  # fmt: skip
    rows = []
    for result in results:
        cost = result.cost
        seen, source, unseen = (
            {"group": group, "split": "test"} for group in ("seen", "source", "unseen-mean")
        )
        rows.append(
            [
                result.recipe if len({r.seed for r in results}) == 1
                else f"{result.recipe} ({result.seed})",
                f"{cost.parameters:,}",
                f"{cost.macs / 1e6:.1f} M",
                f"{cost.size_bytes / 1e3:.0f} kB",
                "-" if cost.latency_ratio is None else f"{cost.latency_ratio:.1f}x",
                _number(result, "accuracy", seen),
                _number(result, "auc", seen),
                *(_number(result, "accuracy", source) for _ in known),
                _number(result, "auc", unseen),
            ]
        )  # fmt: skip
    return table(headers, rows)


def clock(seconds: float) -> str:
    """Return a duration for people: "45 s", "12 min", "3.1 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _number(result: Result, metric: str, where: dict[str, str]) -> str:
    """Return a figure with its interval, or a dash."""
    figure = result.figure(metric, **where)
    if figure is None or figure.value is None:
        return "-"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
