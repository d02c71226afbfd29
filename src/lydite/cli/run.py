"""`lydite run`: make one detector by one recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lydite.cli.output import emit, progress_reporter
from lydite.cli.study import plan_text, tell_unscored

if TYPE_CHECKING:
    from cyclopts import App


def register(app: App) -> None:
    """Add the command."""
    app.command(run)


def run(
    recipe: Path,
    manifest: Path,
    *,
    seen: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")],
    source: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    replace: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
    precision: str = "auto",
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Make a detector by a recipe from a manifest; export it and measure it on the test split.

    Killed or stopped, the same command goes on where it was.

    Parameters
    ----------
    recipe
        A recipe's YAML file.
    manifest
        The images, as `lydite data scan` wrote them.
    seen
        Domains of the manifest to learn from; the others are only tested on.
    source
        Domains that what the recipe starts from learned before: forgetting is measured on them,
        and a recipe with `replay` learns from some of their images again.
    out
        Folder to write to; runs/NAME unless given. The detector is in detectors/NAME below it.
    dry_run
        Check everything and show the plan, sizes and expected time; run nothing.
    replace
        Accept a changed recipe or changed data in a folder that was used before.
    device
        auto, cpu or cuda.
    precision
        auto, float32 or bfloat16.
    json
        Print the result, or the plan, as JSON.
    """
    from lydite.cli.study import results_text
    from lydite.config import validate
    from lydite.recipe import NEWER
    from lydite.study.reading import read_recipe
    from lydite.study.run import StudyOptions, plan_study, run_study
    from lydite.study.spec import DataSpec, Entry, Study

    made = read_recipe(recipe)
    data = validate(DataSpec, {"manifest": manifest, "seen": seen, "source": source}, "The data")
    given = {name: getattr(made, name) for name in ("name", "start", "steps", *NEWER)}
    entry = Entry(**given)
    study = Study(name=made.name, data=data, recipes=(entry,), seeds=(made.seed,))
    folder = out or Path("runs") / made.name
    options = StudyOptions(folder, None, replace, device, precision, progress_reporter())
    if dry_run:
        plan = plan_study(study, options)
        emit(plan.to_dict(), json, lambda: plan_text(plan))
        return 0
    results = run_study(study, options)
    if not results:  # a helping process under torchrun
        return 0
    detector = folder / "detectors" / made.name
    value = {"detector": str(detector), "result": results[0].model_dump(mode="json")}
    emit(value, json, lambda: f"{results_text(results)}\n\nDetector: {detector}")
    return tell_unscored(results)
