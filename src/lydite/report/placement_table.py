"""What predictors of places are worth, as rows for people and as a Markdown table."""

from __future__ import annotations

from lydite.transfer.placement_effects import Estimate, PlacementEffects

HEADER = ("predictor", "cases", "rho", "p", "regret")


def effect_rows(effects: PlacementEffects) -> list[list[str]]:
    """Return a row for each predictor, and for each fixed rule with its regret alone.

    Args:
        effects: of `compare_predictors`.
    """
    rows = [
        [
            effect.predictor,
            str(effect.cases),
            _estimate(effect.rho, "+.2f"),
            "-" if effect.p is None else f"{effect.p:.4f}",
            _estimate(effect.regret, ".4f"),
        ]
        for effect in effects.predictors
    ]
    rows += [
        [f"always {rule}" if rule != "random" else rule, str(effects.cases), "-", "-"]
        + [_estimate(regret, ".4f")]
        for rule, regret in effects.fixed.items()
    ]
    return rows


def placement_table(effects: PlacementEffects) -> str:
    """Return the same as a Markdown table, for pages that quote it.

    Rho is Spearman's correlation of promise and measurement, p the share of permutations of the
    places that do as well, regret what the first choice loses against the best place; in brackets
    are 95 % intervals over cases.

    Args:
        effects: of `compare_predictors`.
    """
    lines = [list(HEADER), ["---"] + ["---:"] * (len(HEADER) - 1), *effect_rows(effects)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _estimate(found: Estimate, form: str) -> str:
    """Return a number with its interval, as far as they are defined."""
    if found.value is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.value:{form}}"
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"
