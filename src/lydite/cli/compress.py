"""`lydite compress`: make a detector smaller, down to a rate or a budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lydite.cli.output import emit, progress_reporter, table

if TYPE_CHECKING:
    from cyclopts import App

    from lydite.study.candidates import Candidate
    from lydite.study.compress import Outcome


def register(app: App) -> None:
    """Add the command."""
    app.command(compress)


def compress(
    detector: Path,
    manifest: Path,
    *,
    seen: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")],
    rate: float | None = None,
    budget: str | None = None,
    technique: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    steps: int = 2000,
    seed: int = 0,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    replace: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
    precision: str = "auto",
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Make a detector smaller, down to a rate or a budget; say what was tried.

    Several techniques are tried and measured beside the original. The one that answers best on
    the validation split is chosen. Killed or stopped, the same command goes on where it was.

    Parameters
    ----------
    detector
        A trained detector's folder; it stays as it is.
    manifest
        The images, as `lydite data scan` wrote them.
    seen
        Domains of the manifest to learn from; the others are only tested on.
    rate
        Share of the parameters to remove, such as 0.9.
    budget
        Or a limit: 300kB, 20MMAC, 5ms@onnxruntime or 50kparams.
    technique
        Which to try: prune, distill, factorize, prune-int8, distill-int8, factorize-int8. All,
        unless given.
    steps
        Training steps that each technique gets to recover.
    seed
        Of every random choice.
    out
        Folder to write to; runs/compress-NAME unless given.
    dry_run
        Show techniques, rates and expected costs; train nothing.
    replace
        Accept a changed request or changed data in a folder that was used before.
    device
        auto, cpu or cuda.
    precision
        auto, float32 or bfloat16.
    json
        Print what was tried and chosen as JSON.
    """
    from lydite.compress.budget import parse_budget
    from lydite.config import validate
    from lydite.detector import Detector
    from lydite.report.html import write_report
    from lydite.study import compress as room
    from lydite.study.candidates import TECHNIQUES, Request
    from lydite.study.run import StudyOptions
    from lydite.study.spec import DataSpec

    limit = parse_budget(budget) if budget else None
    names = technique or tuple(TECHNIQUES)
    asked = {"rate": rate, "budget": limit, "techniques": names, "steps": steps, "seed": seed}
    request = validate(Request, asked, "The request")
    data = validate(DataSpec, {"manifest": manifest, "seen": seen}, "The data")
    source = Detector.load(detector)
    folder = out or Path("runs") / room.name_of(source)
    options = StudyOptions(folder, None, replace, device, precision, progress_reporter())
    if dry_run:
        plan = room.planned(
            folder / room.RECORD, source, request, options.progress, replace=replace
        )
        emit(plan.model_dump(mode="json"), json, lambda: plan_text(plan.candidates))
        return
    outcome = room.compress(detector, data, request, options)
    if outcome is None:  # a helping process under torchrun
        return
    report = write_report(folder)
    value = outcome.record.model_dump(mode="json")
    value |= {"folder": str(outcome.detector), "report": str(report)}
    emit(
        value,
        json,
        lambda: f"{outcome_text(outcome)}\nReport: {report.resolve().as_uri()}",
    )


def plan_text(candidates: Sequence[Candidate]) -> str:
    """Return what would be tried, as people read it."""
    rows = []
    for item in candidates:
        costs = item.costs
        rows.append(
            [
                item.technique,
                item.rate,
                costs.parameters if costs else None,
                round(costs.macs / 1e6, 1) if costs else None,
                round((costs.size_bytes or 0) / 1e3, 1) if costs else None,
                round(costs.latency_ms, 3) if costs and costs.latency_ms else None,
                len(item.probes),
            ]
        )
    headers = ["technique", "rate", "parameters", "MMAC", "file kB", "ms", "rates tried"]
    notes = [f"{item.technique} is left out: {item.why_not}" for item in candidates if item.why_not]
    return "\n".join([table(headers, rows), *notes])


def outcome_text(outcome: Outcome) -> str:
    """Return everything that was tried, with what it cost and gave, and what was chosen."""
    choice = outcome.record.choice
    assert choice is not None, "a finished run has chosen"
    headers = [
        "", "recipe", "parameters", "MMAC", "file kB", "times as fast", "val AUC", "val accuracy",
    ]  # fmt: skip
    rows: list[list[object]] = []
    for result in outcome.results:
        figures = {f.metric: f.value for s in result.steps[-1:] for f in s.figures}
        ratio = result.cost.latency_ratio
        rows.append(
            [
                ">" if result.recipe == choice.recipe else "",
                result.recipe,
                result.cost.parameters,
                round(result.cost.macs / 1e6, 1),
                round(result.cost.size_bytes / 1e3, 1),
                None if ratio is None else round(ratio, 2),
                None if figures.get("auc") is None else round(figures["auc"] or 0.0, 4),
                None if figures.get("accuracy") is None else round(figures["accuracy"] or 0.0, 4),
            ]
        )
    left_out = [item for item in outcome.record.candidates if item.why_not]
    return "\n".join(
        [
            table(headers, rows),
            *(f"{item.technique} is left out: {item.why_not}" for item in left_out),
            "",
            f"Chosen: {choice.recipe}, {choice.reason}.",
            f"Detector: {outcome.detector}",
        ]
    )
