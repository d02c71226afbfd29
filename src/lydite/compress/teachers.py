"""Who teaches: the detector so far, further detectors, or both; and whether they can."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lydite.card import Card, Preprocess, load_card
from lydite.compress.methods import Method
from lydite.detector import Detector
from lydite.errors import ConfigError
from lydite.models.contract import Network
from lydite.training.hints import Hint, coarser, feature_shape, scores_positions

#: what must be equal for two detectors to see the same input in the same crop
_INPUT_FIELDS = ("size", "fit", "mean", "std")


def load_teachers(folders: Sequence[Path], preprocess: Preprocess) -> list[Detector]:
    """Return the detectors in folders.

    Args:
        folders: detector folders.
        preprocess: of the detector so far, which the student takes over.

    Raises:
        CardError: a folder is no sound detector.
        ConfigError: a teacher is untrained or takes another input.
    """
    teachers = []
    for folder in folders:
        teacher = Detector.load(folder)
        _require_fit(teacher.card, folder, preprocess)
        teachers.append(teacher)
    return teachers


def teacher_digests(folders: Sequence[Path]) -> list[str]:
    """Return the digest of every teacher's card, which holds those of its weights.

    Raises:
        CardError: a folder has no valid card.
    """
    return [load_card(folder, verify=False).digest for folder in folders]


def require_views(methods: Sequence[Method], networks: Sequence[Network], size: int) -> None:
    """Refuse networks that do not have what a method looks at.

    Args:
        methods: what the student takes.
        networks: the student first, then its teachers.
        size: side of their input in pixels.

    Raises:
        ConfigError: a network scores no positions, or has no map of features.
    """
    for method in methods:
        for number, network in enumerate(networks):
            who = "teacher" if number else "student"
            if "votes" in method.views and not scores_positions(network, size):
                raise ConfigError(
                    f"Method `{method.name}` of distill needs networks that score every position; "
                    f"the {who}, of {network.family}, does not. Use one of the lydite family for "
                    "student and teachers, or method `logits`."
                )
            shape = feature_shape(network, size) if "features" in method.views else (1, 1, 1)
            if len(shape) != 3:
                raise ConfigError(
                    f"Method `{method.name}` of distill needs feature maps (C, h, w); the {who}, "
                    f"of {network.family}, gives {shape}. Use method `logits`."
                )


def hint_for(student: Network, teacher: Network, size: int) -> Hint:
    """Return what a regressor between two networks' last feature maps looks like."""
    inner, outer = feature_shape(student, size), feature_shape(teacher, size)
    return Hint(inner[0], outer[0], coarser(inner, outer))


def _require_fit(card: Card, folder: Path, preprocess: Preprocess) -> None:
    """Refuse a teacher that knows nothing or that would see something else.

    Raises:
        ConfigError: it is untrained, or its preprocessing differs.
    """
    if not card.steps and not card.training:
        raise ConfigError(
            f"The teacher {folder} is untrained and has nothing to teach. Train it first."
        )
    for name in _INPUT_FIELDS:
        wanted, got = getattr(preprocess, name), getattr(card.preprocess, name)
        if wanted != got:
            raise ConfigError(
                f"The teacher {folder} takes another input than the detector so far: its `{name}` "
                f"is {got}, not {wanted}. Choose a teacher with the same preprocessing."
            )
