"""Placements with sweeps, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lydite.card import Figure
from lydite.transfer.placement_result import Placement, PlaceRow, Prediction
from lydite.transfer.placement_sweep import Role, Sweep, Trial

DIGEST = "0" * 64


def trial(place: str, seed: int, auc: float | None, accuracy: float, rest: Role) -> Trial:
    """Return a trial with these gains on the target, and the negative AUC gain elsewhere."""

    def figure(metric: str, value: float | None, role: str) -> Figure:
        return Figure(metric=metric, value=value, n=10, slice={"role": role, "split": "test"})

    figures = [figure("auc_gain", auc, "target"), figure("accuracy_gain", accuracy, "target")]
    figures.append(figure("auc_gain", None if auc is None else -auc, rest))
    return Trial(
        place=place,
        seed=seed,
        card_digest=DIGEST,
        trainable_parameters=7,
        figures=tuple(figures),
    )


def placement(
    auc: Sequence[Sequence[float | None]],
    ranks: Mapping[str, Sequence[float | None]],
    *,
    accuracy: Sequence[float] | None = None,
    source: tuple[str, ...] = ("s",),
    target: str = "t",
    network: str = "n",
) -> Placement:
    """Return a placement of one place for each entry of `auc`, which holds a gain for each seed."""
    stages = [f"body.{number}" for number in range(len(auc))]
    rest: Role = "source" if source else "others"
    sweep = Sweep(
        target=(target,),
        source=source,
        network=network,
        step={"adapter": "affine"},
        shots=None,
        data={},
        created="",
        versions={},
        base=(),
        trials=tuple(
            trial(stage, seed, gain, (accuracy or [0.0] * len(auc))[number], rest)
            for number, stage in enumerate(stages)
            for seed, gain in enumerate(auc[number])
        ),
    )
    rows = [
        PlaceRow(
            stage=stage,
            channels=3,
            predictions={
                name: Prediction(value=values[number], rank=values[number])
                for name, values in ranks.items()
            },
        )
        for number, stage in enumerate(stages)
    ]
    return Placement(
        detector="d",
        card_digest=DIGEST,
        images=DIGEST,
        known=None,
        crops=2,
        seed=0,
        created="",
        versions={},
        places=tuple(rows),
        sweep=sweep,
    )
