"""From the results of a sweep's study to what is kept of it beside the prediction."""

from __future__ import annotations

from collections.abc import Sequence

from lydite.card import Figure
from lydite.detector import Detector
from lydite.evaluate.auc_gain import AUC_GAIN
from lydite.evaluate.compare import GAIN
from lydite.study.results import Result
from lydite.study.spec import Study
from lydite.transfer.layers import parameters_of
from lydite.transfer.placement_sweep import BASE, Role, Sweep, Trial

#: what results call a role's images: where detectors are compared, and where one is measured
_GROUPS: dict[Role, tuple[str, str]] = {
    "target": ("seen", "seen"),
    "source": ("source", "source"),
    "others": ("unseen", "unseen-mean"),
}


def swept(base: Detector, study: Study, results: Sequence[Result], source: Sequence[str]) -> Sweep:
    """Return what the study of a sweep measured.

    Args:
        base: the detector that adapters were put into.
        study: made by `lydite.study.sweep.placement_study`.
        results: all of them, the base's among them.
        source: domains that the base knows; none where nobody said.
    """
    before = next(result for result in results if result.recipe == BASE)
    entry, last = study.recipes[1], max(results, key=lambda result: result.created)
    options = entry.steps[0].spec()["adapt"]
    rest: Role = "source" if source else "others"
    beside = _beside(base, options["also"])
    return Sweep(
        target=study.data.seen,
        source=tuple(source),
        network=base.card.architecture.network,
        step={name: value for name, value in options.items() if name != "place"},
        shots=entry.shots,
        data=before.data,
        created=last.created,
        versions=last.versions,
        base=_levels(before, rest),
        trials=tuple(
            Trial(
                place=after.recipe.removeprefix("at-"),
                seed=after.seed,
                card_digest=after.card_digest,
                trainable_parameters=after.cost.parameters - before.cost.parameters + beside,
                figures=_gains(before, after, rest),
            )
            for after in results
            if after.recipe != BASE
        ),
    )


def _beside(base: Detector, also: Sequence[str]) -> int:
    """Return how many values of the base learn beside an adapter."""
    learned = {n for layers in also for n in parameters_of(base.network, layers)}  # type: ignore[arg-type]
    return sum(p.numel() for name, p in base.network.named_parameters() if name in learned)


def _roles(rest: Role) -> list[tuple[Role, tuple[str, str]]]:
    """Return the roles that a sweep has, and what results call their images."""
    both: tuple[Role, ...] = ("target", rest)
    return [(role, _GROUPS[role]) for role in both]


def _levels(base: Result, rest: Role) -> tuple[Figure, ...]:
    """Return accuracy and AUC of the base by role."""
    found = [
        (base.figure(metric, group=averaged, split="test"), role)
        for role, (_, averaged) in _roles(rest)
        for metric in ("accuracy", "auc")
    ]
    return tuple(_filed(figure, role) for figure, role in found if figure is not None)


def _gains(before: Result, after: Result, rest: Role) -> tuple[Figure, ...]:
    """Return what an adapter changed, by role: accuracy, paired by image, and AUC."""
    figures = []
    for role, (group, averaged) in _roles(rest):
        paired = after.figure(GAIN, group=group, split="test", against=BASE)
        if paired is not None:
            figures.append(_filed(paired, role))
        old, new = (r.figure("auc", group=averaged, split="test") for r in (before, after))
        if old is not None and new is not None:
            known = old.value is not None and new.value is not None
            value = (new.value or 0.0) - (old.value or 0.0) if known else None
            figures.append(_filed(Figure(metric=AUC_GAIN, value=value, n=new.n), role))
    return tuple(figures)


def _filed(figure: Figure, role: str) -> Figure:
    """Return a figure under the role of its images."""
    return figure.model_copy(update={"slice": {"role": role, "split": "test"}})
