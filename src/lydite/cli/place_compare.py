"""`lydite place compare`: predictors of places held against the sweeps that were measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from lydite.cli.output import emit, table

if TYPE_CHECKING:
    from lydite.transfer.placement_compare import Comparison


def compare(
    *files: Annotated[Path, Parameter(required=True)],
    measure: Literal["auc", "accuracy"] = "auc",
    together: Annotated[
        tuple[Literal["source", "target", "network"], ...],
        Parameter(consume_multiple=True, negative=""),
    ] = ("source", "target", "network"),
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    json: bool = False,
) -> None:
    """Say how well each predictor foresaw what sweeps measured, and what trusting it costs.

    Args:
        files: of `lydite place --sweep`: a placement.json for each source, target and network.
        measure: gain on the target that places are compared by, a mean over seeds; accuracy
            depends on the fitted threshold too.
        together: what cases have in common that are drawn together for intervals; source network
            draws all targets of a detector at once.
        out: write the comparison as JSON into this file.
        json: print one JSON document.
    """
    from lydite.errors import ConfigError, FileError
    from lydite.files import write_json
    from lydite.transfer.placement_compare import compare_placements
    from lydite.transfer.placement_result import read_placement

    if len(set(files)) < len(files):
        raise ConfigError("A file is named twice, and would count twice. Name each once.")
    if out is not None and (out in files or out.is_dir()):
        raise FileError(f"{out} is one of the placements or a folder. Name another file with -o.")
    found = {str(path): read_placement(path) for path in files}
    made = compare_placements(found, measure=measure, together=together)
    if out is not None:
        write_json(out, made.model_dump(mode="json"))
    emit(made.model_dump(mode="json"), json, lambda: _text(made))


def _text(made: Comparison) -> str:
    """Return the comparison as people read it."""
    from lydite.report.placement_table import HEADER, effect_rows

    cases = [
        [case.source, case.target, case.network, case.places, len(case.seeds)]
        for case in made.cases
    ]
    return "\n".join(
        [
            table(["source", "target", "network", "places", "seeds"], cases),
            "",
            table(HEADER, effect_rows(made.effects)),
            "",
            f"Measured: mean gain in {made.measure} on the target. rho: Spearman's correlation of "
            "promise and measurement.",
            "p: share of permutations of the places that do as well. regret: what the first choice "
            f"loses against the best place, in {made.measure}.",
            "In brackets: 95 % intervals over cases, drawn by "
            f"{', '.join(made.together)}; where all agree in these, there is none.",
        ]
    )
