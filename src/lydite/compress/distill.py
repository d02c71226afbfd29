"""The step `distill`: a smaller student learns what its teachers know (the paper's CKD).

Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network"; further methods in
`lydite.compress.methods`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, field_validator, model_validator

from lydite.card import Architecture, ScoreMeaning
from lydite.compress.backbones import Backbone, probe_of
from lydite.compress.methods import Logits, Methods, distillation, views_of
from lydite.compress.prune import require_fraction
from lydite.compress.students import student_for_rate
from lydite.compress.teachers import hint_for, load_teachers, require_views, teacher_digests
from lydite.compress.unlabeled import TransferSet, Unlabeled
from lydite.config import Fraction
from lydite.data.images import ImageStore
from lydite.detector import Detector
from lydite.errors import DataError
from lydite.models.contract import Network
from lydite.models.cost import count_parameters
from lydite.recipe import STEPS, Context, Stage, Step
from lydite.training.degrade import Degrade
from lydite.training.hints import Pupil
from lydite.training.loop import fit
from lydite.training.mixed import MixedBatches, labeled_count, require_crops
from lydite.training.settings import NEWER, TrainSettings
from lydite.training.train import require_trained

#: a student of the detector's own family, as narrow as `rate` asks
AUTO = "auto"
#: the detector itself, as it is, learning on
SAME = "same"
TWO_CLASSES_NOTE = (
    "distill by `decoupled`: with two classes there is only one other class, so its second part "
    "(`beta`) is zero and it equals `alpha` times `logits`."
)
TRANSFER_NOTE = (
    "distill with `transfer` learns from these images too, if without labels: a generator or "
    "domain among them is no longer one that the detector never met."
)
TEACHERS_NOTE = (
    "distill with `teachers` passes on what they have learned from: a generator or domain among "
    "their training images is no longer one that the detector never met."
)


@STEPS.add("distill")
class Distill(Step, TrainSettings):
    """Train a student network; the detector so far is its teacher, alone or among others.

    The student takes the detector's preprocessing. What it minimizes is `weight` times the sum of
    its methods' losses, plus the rest times cross-entropy on the labels, which
    `label_smoothing` does not touch.

    Attributes:
        student: a name of `lydite models`; or "auto": the detector's own network, scaled in width
            so that at least `rate` of its parameters go; or "same": the detector itself, with its
            weights and edits, so that what was pruned or factorized recovers with a teacher's help
            (name the wide detector in `teachers`).
        config: further arguments of the student.
        temperature: T of the soft targets.
        weight: share of what teachers say; the rest is cross-entropy on the labels.
        rate: with `student: auto`, share of the detector's parameters to save, in (0, 1).
        method: what is taken from the teachers: "logits" (soft targets), "decoupled", "features",
            "attention" or "patches", one of these with options such as
            {name: decoupled, alpha: 2}, or a list whose losses are added.
        teachers: folders of further detectors that take the same input, such as an ensemble of our
            own; or frozen networks of timm with the user's weights and a head that is fitted on
            the training images, {timm: NAME, weights: FILE} (see `Backbone`). The probabilities of
            all teachers are averaged.
        parent_teaches: the detector so far is a teacher; false leaves it to `teachers`.
        transfer: further images that need no labels: {folder: DIR}, or {manifest: FILE} with
            `splits` and `domains`. Only what teachers say is learned of them.
        transfer_share: of each batch that is made of them, as near as an even number of labeled
            images allows.
        degrade: what happens to the student's copy of each crop, while teachers see it clean:
            probabilities `jpeg`, `blur`, `resize`, `noise`, `webp`, and their ranges.
    """

    kind: ClassVar[str] = "distill"
    quiet: ClassVar[frozenset[str]] = NEWER | {
        *("rate", "method", "teachers", "parent_teaches"),
        *("transfer", "transfer_share", "degrade"),
    }

    student: str
    config: dict[str, Any] = {}
    temperature: Annotated[float, Field(gt=0, le=100)] = 4.0
    weight: Fraction = 0.7
    rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    method: Methods = (Logits(),)
    teachers: tuple[Path | Backbone, ...] = ()
    parent_teaches: bool = True
    transfer: TransferSet | None = None
    transfer_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    degrade: Degrade | None = None

    @field_validator("rate", mode="before")
    @classmethod
    def _fraction(cls, value: Any) -> Any:
        return require_fraction("distill", value, "parameters")

    @model_validator(mode="after")
    def _fits_together(self) -> Distill:
        if (self.student == AUTO) != (self.rate is not None):
            raise ValueError("`student: auto` and `rate` belong together; give both or neither")
        sized = sorted({"width", "widths"} & self.config.keys())
        if self.student == SAME and self.config:
            raise ValueError("`student: same` keeps the network as it is; take out `config`")
        if self.student == AUTO and sized:
            raise ValueError(f"`student: auto` finds the width; take `{sized[0]}` out of `config`")
        count = len(self.teachers) + self.parent_teaches
        if count == 0:
            raise ValueError("without `parent_teaches` there must be `teachers`")
        for method in self.method:
            if method.single and count > 1:
                raise ValueError(
                    f"method `{method.name}` learns from one teacher, whose feature maps cannot be "
                    f"averaged with others'; there are {count}"
                )
        if self.backbones and any(method.views for method in self.method):
            raise ValueError(
                "a network of timm teaches by its logits alone; use method `logits` or `decoupled`"
            )
        if self.weight == 1 and all("features" in method.views for method in self.method):
            raise ValueError(
                "with `weight: 1` nothing teaches the student's last layer, since the methods look "
                "at feature maps alone; add `logits` or use a smaller `weight`"
            )
        if self.transfer is not None:
            labeled_count(self.batch, self.transfer_share)
        elif self.transfer_share != type(self).model_fields["transfer_share"].default:
            raise ValueError("`transfer_share` says nothing without `transfer`")
        return self

    @property
    def folders(self) -> tuple[Path, ...]:
        """The teachers that are detectors."""
        return tuple(teacher for teacher in self.teachers if isinstance(teacher, Path))

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        """The teachers that are networks of timm."""
        return tuple(teacher for teacher in self.teachers if isinstance(teacher, Backbone))

    def check(self, stage: Stage) -> None:
        """Refuse an untrained teacher; from here on the network is the student."""
        super().check(stage)
        if self.parent_teaches:
            require_trained(self, stage, "the teacher has nothing to teach.")
        stage.trained = True
        if self.student not in (AUTO, SAME):
            stage.network = self.student
        stage.images += self.steps * self.batch
        if any(method.name == "decoupled" for method in self.method):
            stage.notes.append(TWO_CLASSES_NOTE)
        if self.transfer is not None:
            stage.notes.append(TRANSFER_NOTE)
        if self.teachers:
            stage.notes.append(TEACHERS_NOTE)

    def outline(self, detector: Detector) -> Detector:
        """Return the student before it learns.

        Raises:
            CardError: a teacher's folder is no sound detector.
            ConfigError: no such student, or it or a teacher does not fit.
            FileError: a network of timm has no weights.
            MissingExtraError: there is one, and timm is not installed.
        """
        student = self._student(detector, 0)
        require_crops(student.card.preprocess, self, self.degrade)
        self._teachers(detector, student)
        for backbone in self.backbones:
            backbone.require()
        return student

    def material(self) -> dict[str, Any]:
        """Return the digests of further teachers and images.

        Raises:
            CardError: a teacher's folder has no valid card.
            DataError: the transfer images cannot be used.
            FileError: a network of timm has no weights.
        """
        found: dict[str, Any] = {}
        if self.folders:
            found["teachers"] = teacher_digests(self.folders)
        if self.backbones:
            found["backbones"] = [backbone.digest for backbone in self.backbones]
        if self.transfer is not None:
            found["transfer"] = self.transfer.images().digest
        return found

    def further_images(self) -> frozenset[str]:
        """Return the SHA-256 of every transfer image."""
        return self.transfer.images().contents if self.transfer is not None else frozenset()

    def run(self, parent: Detector, context: Context) -> Detector:
        """Return the student.

        Raises:
            CardError: a teacher's folder is no sound detector.
            ConfigError: the student or a teacher does not fit.
            DataError: a transfer image cannot be used, or also serves for validation.
        """
        student = self._student(parent, context.seed)
        # copies: training moves teachers to its device, and the parent stays as it is
        teachers = [copy.deepcopy(t.network) for t in self._teachers(parent, student)]
        preprocess = student.card.preprocess
        teachers += [probe_of(backbone, preprocess, context) for backbone in self.backbones]
        unlabeled = self._unlabeled(context)
        batches = MixedBatches(
            context.train,
            preprocess,
            self,
            context.seed,
            ImageStore(),
            unlabeled=unlabeled.rows,
            share=self.transfer_share,
            degrade=self.degrade,
        )
        fitted = fit(
            self._trained(student, teachers, context.seed),
            distillation(
                teachers, self.method, self.temperature, self.weight, batches.labeled_share
            ),
            student,
            self,
            context,
            what=self.kind,
            companions=tuple(teachers),
            batches=batches,
        )
        network = fitted.network.student if isinstance(fitted.network, Pupil) else fitted.network
        return student.evolve(network=network, training=fitted.report | self._provenance(unlabeled))

    def _student(self, detector: Detector, seed: int) -> Detector:
        """Return the student before it learns; it takes what the detector takes."""
        if self.student == SAME:
            return detector.evolve(score=ScoreMeaning(), measured=())
        of = detector.card.architecture
        if self.rate is not None:
            whole = of.model_copy(update={"config": of.config | self.config})
            architecture = student_for_rate(whole, count_parameters(detector.network), self.rate)
        else:
            architecture = Architecture(
                network=self.student, input_size=of.input_size, config=self.config
            )
        return Detector.start(architecture, detector.card.preprocess, seed=seed)

    def _teachers(self, parent: Detector, student: Detector) -> list[Detector]:
        """Return who teaches, after making sure that they can."""
        teachers = [parent] if self.parent_teaches else []
        teachers += load_teachers(self.folders, student.card.preprocess)
        networks = [student.network, *(teacher.network for teacher in teachers)]
        require_views(self.method, networks, student.card.preprocess.size)
        return teachers

    def _trained(
        self, student: Detector, teachers: Sequence[Network], seed: int
    ) -> Network | Pupil:
        """Return what is trained: the student, with what the methods need around it."""
        views = views_of(self.method, regressed=False)
        hint = None
        if any(method.regressed for method in self.method):
            hint = hint_for(student.network, teachers[0], student.card.preprocess.size)
        if hint is None and not views:
            return student.network
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Pupil(student.network, views, hint)

    def _unlabeled(self, context: Context) -> Unlabeled:
        """Return the transfer images; none of them may serve for validation."""
        if self.transfer is None:
            return Unlabeled(())
        images = self.transfer.images()
        shared = images.contents & set(context.val.column("sha256"))
        if shared:
            raise DataError(
                f"{len(shared)} of the `transfer` images of distill also stand in the validation "
                "split, which must stay unseen. Take them out."
            )
        return images

    def _provenance(self, unlabeled: Unlabeled) -> dict[str, int | str]:
        """Return what the card says of further teachers and images."""
        found: dict[str, int | str] = {}
        if self.folders:
            found["teachers"] = " ".join(teacher_digests(self.folders))
        if self.backbones:
            found["backbones"] = " ".join(f"{b.timm} {b.digest}" for b in self.backbones)
        if unlabeled.rows:
            found |= {"transfer": unlabeled.digest, "transfer_images": len(unlabeled.rows)}
        return found
