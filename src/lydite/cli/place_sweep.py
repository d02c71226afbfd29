"""`lydite place --sweep`: adapters at every place, trained and measured beside the ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from lydite.cli.output import emit, progress_reporter
from lydite.cli.place_text import ranks_text, sweep_text
from lydite.errors import ConfigError


@dataclass(frozen=True)
class SweepOptions:
    """How `--sweep` trains.

    Attributes:
        adapter: with --sweep: residual-separable, separable (the paper's), bottleneck, lora,
            affine or linear.
        also: with --sweep: what learns besides, head, norms or both.
        shots: with --sweep: learn from so many images of each class and domain, threshold
            included; predictors then look at these alone. All unless given.
        steps: with --sweep: training steps of each adapter.
        lr: with --sweep: peak learning rate.
        seeds: with --sweep: every place is tried once with each.
        dry_run: with --sweep: check everything, show the plan and its time; train nothing.
        replace: with --sweep: accept a changed request or changed data in a folder that was used
            before.
        device: with --sweep: auto, cpu or cuda.
        precision: with --sweep: auto, float32 or bfloat16.
    """

    adapter: str = "separable"
    also: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = ()
    shots: int | None = None
    steps: int = 600
    lr: float = 0.003
    seeds: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (0,)
    dry_run: Annotated[bool, Parameter(negative="")] = False
    replace: Annotated[bool, Parameter(negative="")] = False
    device: str = "auto"
    precision: str = "auto"

    def of_adapt(self) -> dict[str, Any]:
        """Return the options of the step `adapt`, those of `lydite adapt`, without a place."""
        options: dict[str, Any] = {"adapter": self.adapter, "also": self.also}
        return options | {"steps": self.steps, "lr": self.lr, "balance": "pairs"}


def sweep_places(
    detector: Path,
    manifest: Path,
    domains: tuple[Sequence[str], Sequence[str]],
    draw: tuple[int, int],
    out: Path | None,
    options: SweepOptions,
    json: bool,
) -> None:
    """Rank the places, train an adapter at each, and write what both gave.

    Args:
        detector: a detector folder.
        manifest: the images.
        domains: those to learn, and those that the detector knows.
        draw: how many crops predictors look at, and the seed of their choice.
        out: the study's folder.
        options: how adapters are trained.
        json: print one JSON document.

    Raises:
        ConfigError: there is no folder to write to.
    """
    from lydite.cli.study import plan_text
    from lydite.files import write_bytes
    from lydite.report.html import write_report
    from lydite.report.placement import placement_map
    from lydite.study import sweep as room
    from lydite.study.run import StudyOptions, plan_study

    if out is None:
        raise ConfigError("--sweep trains detectors and needs a folder for them. Name it with -o.")
    (new, known), how = domains, options
    study = room.placement_study(
        detector, manifest, new, how.of_adapt(), source=known, shots=how.shots, seeds=how.seeds
    )
    where = StudyOptions(out, None, how.replace, how.device, how.precision, progress_reporter())
    if how.dry_run:
        plan = plan_study(study, where)
        emit(plan.to_dict(), json, lambda: plan_text(plan))
        return
    made = room.sweep(study, where, source=known, crops=draw[0], seed=draw[1])
    if made is None:  # a helping process under torchrun
        return
    path = out / room.PLACEMENT_FILE
    write_bytes(path.with_suffix(".svg"), placement_map(made).encode())
    report = write_report(out)
    emit(
        made.model_dump(mode="json"),
        json,
        lambda: (
            f"{sweep_text(made)}\n\n{ranks_text(made)}\nResult and figure: {path}, "
            f"{path.with_suffix('.svg').name}\nReport: {report.resolve().as_uri()}"
        ),
    )
