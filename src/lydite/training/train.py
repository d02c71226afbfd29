"""The step `train`, and what every step that learns from labels does."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from lydite.detector import Detector
from lydite.errors import ConfigError
from lydite.recipe import STEPS, Context, Stage, Step
from lydite.training.labels import FromLabels
from lydite.training.loop import Fitted, Module, fit


def fit_labels(
    network: Module,
    settings: FromLabels,
    detector: Detector,
    context: Context,
    *,
    what: str,
    trainable: Collection[str] | None = None,
    frozen_norms: bool = False,
) -> Fitted[Module]:
    """Train a copy of `network` on the labels, as `fit` does, with every switch of `FromLabels`."""
    lesson = settings.lesson(context.train, detector.card.preprocess, context.seed)
    fitted = fit(
        network,
        lesson.objective,
        detector,
        settings,
        context,
        what=what,
        batches=lesson.batches,
        trainable=trainable,
        frozen_norms=frozen_norms,
        paired=lesson.paired,
        groups=lesson.groups,
        valley=settings.valley(context.val, detector.card.preprocess, context.seed),
    )
    return Fitted(fitted.network, fitted.report | lesson.notes)


@STEPS.add("train")
class Train(Step, FromLabels):
    """Train the network from where it is, all layers, with cross-entropy on the labels."""

    kind: ClassVar[str] = "train"
    quiet: ClassVar[frozenset[str]] = FromLabels.newer

    def check(self, stage: Stage) -> None:
        """Note that the network has learned, and what that takes."""
        super().check(stage)
        if self.swad is not None and not (stage.trained or self.swad.after):
            stage.notes.append(
                "`swad` takes the plateau that random weights begin on for its valley; set `after` "
                "to steps that get the network off it."
            )
        stage.trained = True
        stage.images += self.pushed_images

    def outline(self, detector: Detector) -> Detector:
        """Return the detector as it is, if it can learn from such crops.

        Raises:
            ConfigError: it cannot.
        """
        self.require_lesson(detector)
        return detector

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the trained detector."""
        fitted = fit_labels(parent.network, self, parent, context, what=self.kind)
        return parent.evolve(network=fitted.network, training=fitted.report)


def require_trained(step: Step, stage: Stage, why: str) -> None:
    """Refuse a step on an untrained network.

    Raises:
        ConfigError: the network has not learned anything yet.
    """
    if not stage.trained:
        raise ConfigError(
            f"`{step.kind}` needs a trained network: {why} "
            "Put `train` before it, or start from a trained `detector`."
        )
