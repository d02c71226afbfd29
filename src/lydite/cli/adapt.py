"""`lydite adapt`: teach a detector a new generator and write what it learned as a pack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lydite.cli.output import emit, progress_reporter, table

if TYPE_CHECKING:
    from cyclopts import App

    from lydite.study.adapt import Adapted


#: of the crops of each class, those that show what is replayed
REPLAY_SHARE = 0.2


def register(app: App) -> None:
    """Add the command."""
    app.command(adapt)


def adapt(
    detector: Path,
    manifest: Path,
    *,
    seen: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")],
    source: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    name: str | None = None,
    adapter: str = "separable",
    place: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = ("0", "1"),
    also: Annotated[
        tuple[str, ...] | None, Parameter(consume_multiple=True, negative="--no-also")
    ] = None,
    shots: int | None = None,
    replay: int | None = None,
    replay_only: str = "real",
    replay_share: float | None = None,
    steps: int = 600,
    lr: float = 0.003,
    seed: int = 0,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    replace: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
    precision: str = "auto",
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Teach a detector a new generator; write what it learned as a pack of a few kilobytes.

    The detector stays as it is. Small adapters are put behind two of its blocks and trained, and
    the result is measured beside the detector: on the new images and on all others. Use the pack
    with `lydite predict --pack`. Killed or stopped, the same command goes on where it was.

    Parameters
    ----------
    detector
        A trained and exported detector's folder, quantized or not.
    manifest
        The images, as `lydite data scan` wrote them.
    seen
        The domains to learn; the others are only tested on.
    source
        The domains that the detector learned before: what it forgets is measured on them.
    name
        What predictions call the pack; the domains' names unless given.
    adapter
        separable (the paper's), residual-separable, bottleneck, lora, affine or linear.
    place
        Where it goes: a stage's name or its number, first, middle, last, paper, or auto (predicted
        from the images); several for an adapter at each. Behind wide stages a pack grows.
    also
        What learns besides: head, norms (which makes a pack large), or neither with --no-also; the
        head unless given, where it is a small part of the network.
    shots
        Learn from so many images of each class and domain, threshold included; all unless given.
    replay
        Learn from so many photographs of each source domain besides, so that the pack leaves them
        alone.
    replay_only
        The label of those; "both" for fakes as well, where a pack shall speak without its detector.
    replay_share
        With replay, the share of training crops of each class that show them, 0.2 unless given; the
        rest shows what is new.
    steps
        Training steps.
    lr
        Peak learning rate.
    seed
        Of every random choice.
    out
        Folder to write to; runs/adapt-NAME unless given.
    dry_run
        Check everything and show the plan; train nothing.
    replace
        Accept a changed request or changed data in a folder that was used before.
    device
        auto, cpu or cuda.
    precision
        auto, float32 or bfloat16.
    json
        Print what was measured as JSON.
    """
    from lydite.cli.study import plan_text
    from lydite.config import validate
    from lydite.report.html import write_report
    from lydite.study import adapt as room
    from lydite.study.run import StudyOptions, plan_study
    from lydite.study.spec import DataSpec

    called = name or "-".join(seen).lower()
    options: dict[str, Any] = {"adapter": adapter, "steps": steps, "lr": lr}
    options["also"] = room.usual_also(detector) if also is None else also
    places = tuple(int(name) if name.lstrip("-").isdigit() else name for name in place)
    options["place"] = places if places[1:] else places[0]
    data = validate(DataSpec, {"manifest": manifest, "seen": seen, "source": source}, "The data")
    options["balance"] = "pairs"
    share = _share_of(replay_share, replay)
    if share is not None and source:
        options["domain_shares"] = {domain: share / len(source) for domain in source}
    study = room.adaptation(
        detector,
        data,
        called,
        options,
        shots=shots,
        replay=replay,
        replay_only=None if replay_only == "both" else replay_only,
        seed=seed,
    )
    folder = out or Path("runs") / study.name
    how = StudyOptions(folder, None, replace, device, precision, progress_reporter())
    if dry_run:
        room.require_packable(detector, study)
        plan = plan_study(study, how)
        emit(plan.to_dict(), json, lambda: plan_text(plan))
        return
    made = room.adapt(detector, study, how)
    if made is None:  # a helping process under torchrun
        return
    report = write_report(folder)
    value = {
        "pack": str(made.pack),
        "card": made.card.to_json(),
        "base": made.base.model_dump(mode="json"),
        "adapted": made.adapted.model_dump(mode="json"),
        "report": str(report),
    }
    emit(value, json, lambda: f"{adapted_text(made)}\nReport: {report.resolve().as_uri()}")


def _share_of(given: float | None, replay: int | None) -> float | None:
    """Return the share of crops that show what is replayed, None where nothing is.

    Raises:
        ConfigError: it is no share, or there is nothing that it could be of.
    """
    from lydite.errors import ConfigError

    if given is not None and replay is None:
        raise ConfigError("--replay-share says nothing without --replay. Give both or neither.")
    if given is not None and not 0 < given < 1:
        raise ConfigError(f"--replay-share must be in (0, 1). Got {given:g}. Use 0.2, say.")
    return None if replay is None else REPLAY_SHARE if given is None else given


def adapted_text(made: Adapted) -> str:
    """Return what a pack brings and costs, as people read it."""
    from lydite.evaluate.voices import WITH

    domains = sorted({f.slice["domain"] for f in made.base.figures if "domain" in f.slice})
    known = dict.fromkeys(made.adapted.source, "source")
    known |= dict.fromkeys(made.adapted.seen, "learned")
    rows = []
    for domain in domains:
        cells: list[object] = [domain, known.get(domain, "")]
        where = {"domain": domain, "split": "test"}
        both = where | {WITH: made.base.recipe}
        for metric in ("accuracy", "auc"):
            for figure in (
                made.base.figure(metric, **where),
                made.adapted.figure(metric, **both),
                made.adapted.figure(metric, **where),
            ):
                value = None if figure is None else figure.value
                cells.append(None if value is None else round(value, 3))
        rows.append(cells)
    size = sum(entry.size_bytes for entry in made.card.files.values())
    training = made.card.training
    headers = ["domain", "", "accuracy", "with pack", "pack alone"]
    headers += ["AUC", "with pack", "pack alone"]
    return "\n".join(
        [
            table(headers, rows),
            "",
            f"{training.get('adapter')} adapter after {training.get('after')}: "
            f"{training.get('trainable_parameters'):,} values learned in "
            f"{training.get('seconds')} s; the pack's files take {size:,} bytes.",
            f"Pack: {made.pack}",
        ]
    )
