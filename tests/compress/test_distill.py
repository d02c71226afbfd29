"""The step `distill`: its keys, its teachers, its losses in training, and resuming."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lydite.card import Architecture, Preprocess
from lydite.compress.distill import Distill
from lydite.compress.methods import distillation
from lydite.compress.prune import Prune
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import ConfigError, DataError
from lydite.models import build
from lydite.models.cost import count_parameters
from lydite.recipe import Context, Stage, parse_step
from lydite.training.checkpoint import CHECKPOINT_NAME
from lydite.training.hints import Pupil, hint_loss, look
from lydite.training.objectives import soft_target_loss

TEACHER = Architecture(network="lydite-small", config={"widths": [4, 8]})
STUDENT: dict[str, Any] = {"student": "lydite-small", "config": {"widths": [4, 6], "blocks": 0}}
METHODS = ["logits", "decoupled", "features", "attention", "patches"]


class Killed(Exception):
    """Stands for a kill between two steps."""


def context(manifest: Manifest, folder: Path, kill_at: int | None = None) -> Context:
    def progress(_what: str, done: int, _total: int, _note: str) -> None:
        if done == kill_at:
            raise Killed

    return Context(
        manifest.select(split="train", domain="one"),
        manifest.select(split="val"),
        seed=5,
        folder=folder,
        progress=progress,
        device="cpu",
        precision="float32",
    )


def detector(seed: int = 0, architecture: Architecture = TEACHER, **preprocess: Any) -> Detector:
    """Return a detector that counts as trained."""
    start = Detector.start(
        architecture, Preprocess(size=architecture.input_size, **preprocess), seed=seed
    )
    start.network.eval()
    return start.evolve(training={"steps": 1})


def step(**options: Any) -> Distill:
    return Distill.model_validate({**STUDENT, "steps": 2, "batch": 8, **options})


def weights(made: Detector) -> dict[str, torch.Tensor]:
    return made.network.state_dict()


def same(one: Detector, other: Detector) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


# -------------------------------------------------------------------------------------- keys


def test_the_plain_step_keeps_its_entry_and_key() -> None:
    plain = parse_step({"distill": {"student": "paper-student-0.44m", "steps": 3, "batch": 8}})
    wanted = "1ae36ce30674752e1f08b87ab39b5efcd748a14ebf2b0a3210544ce563f143d0"
    assert plain.key("0" * 64, {"train": "a"}, 7) == wanted
    spelled = {**plain.spec()["distill"], "method": "logits", "transfer_share": 0.5}
    assert parse_step({"distill": spelled}).spec() == plain.spec()


def test_every_option_changes_the_key(tmp_path: Path) -> None:
    detector().save(tmp_path / "other")
    options: list[dict[str, Any]] = [
        {},
        *({"method": name} for name in METHODS[1:]),
        {"method": ["logits", "features"]},
        {"method": {"name": "decoupled", "beta": 2}},
        {"teachers": [str(tmp_path / "other")]},
        {"teachers": [str(tmp_path / "other")], "parent_teaches": False},
        {"degrade": {"jpeg": 0.5}},
    ]
    keys = {step(**o).key("0" * 64, {}, 0) for o in options}
    assert len(keys) == len(options)


def test_entries_go_to_yaml_and_back(tmp_path: Path) -> None:
    detector().save(tmp_path / "t")
    made = step(
        method=["logits", {"name": "decoupled", "scale": 0.5}],
        teachers=[tmp_path / "t"],
        degrade={"blur": 0.5},
        transfer={"folder": "somewhere"},
        transfer_share=0.25,
    )
    assert parse_step(made.spec()) == made


def test_the_key_follows_the_teachers_content(tmp_path: Path) -> None:
    made = step(teachers=[tmp_path / "t"])
    keys = []
    for seed in (1, 2, 1):
        shutil.rmtree(tmp_path / "t", ignore_errors=True)
        detector(seed).save(tmp_path / "t")
        keys.append(made.key("0" * 64, {}, 0))
    assert keys[0] == keys[2] != keys[1]


def test_the_key_follows_the_transfer_images(tiny_manifest: Manifest, tmp_path: Path) -> None:
    made = step(transfer={"folder": tmp_path / "extra"})
    (tmp_path / "extra").mkdir()
    keys = set()
    for row in list(tiny_manifest.select(split="train").rows())[:3]:
        shutil.copy(row.file, tmp_path / "extra")
        keys.add(made.key("0" * 64, {}, 0))
    assert len(keys) == 3
    assert len(made.further_images()) == 3


# ------------------------------------------------------------------------------------ losses


@pytest.mark.parametrize("method", METHODS)
def test_one_step_of_each_method_learns_from_the_student_alone(
    tiny_manifest: Manifest, tmp_path: Path, method: str
) -> None:
    parent = detector(1)
    before = copy.deepcopy(weights(parent))
    made = step(method=method).run(parent, context(tiny_manifest, tmp_path))
    assert all(torch.equal(v, before[k]) for k, v in weights(parent).items())
    assert all(p.grad is None for p in parent.network.parameters())
    start = Detector.start(made.card.architecture, seed=5)
    assert weights(made).keys() == weights(start).keys()
    assert all(not torch.equal(v, weights(start)[k]) for k, v in weights(made).items())


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_of_each_method_falls(
    tiny_manifest: Manifest, tmp_path: Path, method: str
) -> None:
    torch.manual_seed(1)
    parent = detector(1)
    losses = []
    for count in (1, 30):
        made = step(
            method=method, weight=0.999, steps=count, lr=2e-2, warmup=0.0, schedule="constant"
        )
        folder = tmp_path / str(count)
        losses.append(made.run(parent, context(tiny_manifest, folder)).card.training["loss"])
    assert float(losses[1] or 0) < 0.9 * float(losses[0] or 0)


def test_the_objective_is_the_stated_sum() -> None:
    torch.manual_seed(0)
    teacher, student = build(TEACHER).eval(), build(TEACHER).eval()
    x, y = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 0, 1])
    made = step(method=[{"name": "logits", "scale": 2}, {"name": "attention", "scale": 3}])
    pupil = Pupil(student, {"features"}, None)
    got = distillation([teacher], made.method, 4.0, 0.6)(pupil(x), x, y)
    with torch.no_grad():
        seen, own = look(teacher, x, {"features"}), look(student, x, {"features"})
    maps = [F.normalize(m["features"].square().sum(1).flatten(1), dim=1) for m in (own, seen)]
    soft = soft_target_loss(own["logits"], seen["logits"], 4.0)
    apart = (maps[0] - maps[1]).square().sum(1).mean()
    wanted = 0.6 * (2 * soft + 3 * apart) + 0.4 * F.cross_entropy(own["logits"], y)
    torch.testing.assert_close(got.detach(), wanted)


def test_gradients_reach_student_and_regressor_but_no_teacher() -> None:
    torch.manual_seed(0)
    teacher, student = build(TEACHER), build(TEACHER)
    from lydite.compress.teachers import hint_for

    pupil = Pupil(student, (), hint_for(student, teacher, 64))
    x, y = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 0, 1])
    made = step(method=["features", "logits"])
    distillation([teacher], made.method, 4.0, 0.7)(pupil(x), x, y).backward()
    assert all(p.grad is not None for p in pupil.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_the_teacher_sees_the_clean_copy() -> None:
    torch.manual_seed(0)
    teacher = build(TEACHER).eval()
    clean, y = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 0, 1])
    logits = torch.randn(4, 2)
    got = distillation([teacher], step().method, 4.0, 1.0)(logits, clean, y)
    assert torch.equal(got, soft_target_loss(logits, teacher(clean), 4.0))


def test_a_regressor_is_learned_and_thrown_away(tiny_manifest: Manifest, tmp_path: Path) -> None:
    """One step by hand: same start, same crops, same AdamW."""
    from lydite.compress.teachers import hint_for
    from lydite.data.images import ImageStore
    from lydite.data.preprocess import normalize
    from lydite.training.mixed import MixedBatches

    parent = detector(1)
    made = step(method="features", weight=0.9, steps=1, clip=0.0, warmup=0.0)
    got = made.run(parent, context(tiny_manifest, tmp_path))

    student = Detector.start(got.card.architecture, seed=5).network
    torch.manual_seed(5)
    pupil = Pupil(student, (), hint_for(student, parent.network, 64)).train()
    train = tiny_manifest.select(split="train", domain="one")
    batches = MixedBatches(train, parent.card.preprocess, made, 5, ImageStore())
    crops, targets = batches.load(batches.positions(0))
    x = torch.from_numpy(normalize(crops, parent.card.preprocess))
    optimizer = torch.optim.AdamW(pupil.parameters(), lr=made.lr, weight_decay=made.weight_decay)
    seen = pupil(x)
    hint = hint_loss(seen["hint"], parent.network.features(x).detach())
    (0.9 * hint + 0.1 * F.cross_entropy(seen["logits"], torch.from_numpy(targets))).backward()
    optimizer.step()
    for name, value in student.state_dict().items():
        torch.testing.assert_close(weights(got)[name], value, rtol=1e-3, atol=2e-5)


# ---------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize(
    "options",
    [
        {"method": ["logits", "features"], "ema": 0.9},
        {"method": "patches", "degrade": {"jpeg": 0.5, "blur": 0.5}},
        {"transfer": True, "method": "decoupled"},
    ],
)
def test_a_killed_run_ends_with_the_same_weights(
    tiny_manifest: Manifest, tmp_path: Path, options: dict[str, Any]
) -> None:
    tiny_manifest.write(tmp_path / "all.parquet")
    if options.get("transfer"):
        options = options | {"transfer": {"manifest": tmp_path / "all.parquet"}}
    made = step(steps=5, checkpoint_s=0.0, **options)
    parent = detector(1)
    whole = made.run(parent, context(tiny_manifest, tmp_path / "whole"))
    with pytest.raises(Killed):
        made.run(parent, context(tiny_manifest, tmp_path / "cut", 3))
    assert (tmp_path / "cut" / CHECKPOINT_NAME).is_file()
    assert same(whole, made.run(parent, context(tiny_manifest, tmp_path / "cut")))


def test_the_regressor_is_in_the_checkpoint(tiny_manifest: Manifest, tmp_path: Path) -> None:
    from safetensors import safe_open

    made = step(method="features", steps=3, checkpoint_s=0.0)
    with pytest.raises(Killed):
        made.run(detector(1), context(tiny_manifest, tmp_path, 2))
    with safe_open(tmp_path / CHECKPOINT_NAME, "pt") as stream:
        assert {"network.regressor.weight", "network.student.patch.weight"} <= {*stream.keys()}


def test_out_of_memory_cuts_clean_copies_along(
    tiny_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network without batch norm learns the same from a batch and from its pieces."""
    from lydite.compress import methods

    tiny_manifest.write(tmp_path / "all.parquet")
    made = step(
        student="paper-student-0.44m",
        config={"dropout": 0.0, "width": 0.25},
        transfer={"manifest": tmp_path / "all.parquet"},
        degrade={"jpeg": 1.0},
        steps=1,
        batch=12,
        weight=0.5,
    )
    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", lambda _self, x: x)
    parent = detector(1)
    whole = made.run(parent, context(tiny_manifest, tmp_path / "whole"))
    sizes = []
    original = methods.labeled_cross_entropy

    def limited(logits: torch.Tensor, targets: torch.Tensor, share: float) -> torch.Tensor:
        if len(targets) > 6:
            raise torch.OutOfMemoryError("out of memory")
        sizes.append(len(targets))
        return original(logits, targets, share)

    monkeypatch.setattr(methods, "labeled_cross_entropy", limited)
    cut = made.run(parent, context(tiny_manifest, tmp_path / "cut"))
    assert sizes == [6, 6]
    assert cut.card.training["loss"] == pytest.approx(whole.card.training["loss"], rel=1e-4)


# ---------------------------------------------------------------------------------- teachers


def test_two_equal_teachers_are_one(tiny_manifest: Manifest, tmp_path: Path) -> None:
    detector(1).save(tmp_path / "twin")
    alone = step().run(detector(1), context(tiny_manifest, tmp_path / "a"))
    both = step(teachers=[tmp_path / "twin"]).run(
        detector(1), context(tiny_manifest, tmp_path / "b")
    )
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(both)[name], value, rtol=1e-3, atol=1e-5)
    assert both.card.training["teachers"] == Detector.load(tmp_path / "twin").card.digest


def test_another_teacher_instead_of_the_detector(tiny_manifest: Manifest, tmp_path: Path) -> None:
    other = detector(2, Architecture(network="lydite-medium")).save(tmp_path / "other")
    direct = step().run(other, context(tiny_manifest, tmp_path / "a"))
    made = step(teachers=[tmp_path / "other"], parent_teaches=False)
    untrained = Detector.start(TEACHER)
    stage = Stage("lydite-small")
    made.check(stage)
    assert stage.trained
    assert same(direct, made.run(untrained, context(tiny_manifest, tmp_path / "b")))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"size": 96}, "its `size` is 96, not 64"),
        ({"mean": (0.4, 0.5, 0.5)}, "its `mean`"),
        ({"std": (0.2, 0.5, 0.5)}, "its `std`"),
        ({"fit": "resize"}, "its `fit`"),
    ],
)
def test_a_teacher_of_other_input_is_refused(
    tmp_path: Path, options: dict[str, Any], why: str
) -> None:
    size = options.pop("size", 64)
    architecture = TEACHER.model_copy(update={"input_size": size})
    detector(0, architecture, **options).save(tmp_path / "t")
    with pytest.raises(ConfigError, match=why):
        step(teachers=[tmp_path / "t"]).outline(detector())


def test_an_untrained_teacher_is_refused(tmp_path: Path) -> None:
    Detector.start(TEACHER).save(tmp_path / "t")
    with pytest.raises(ConfigError, match="is untrained"):
        step(teachers=[tmp_path / "t"]).outline(detector())
    with pytest.raises(ConfigError, match="nothing to teach"):
        step().check(Stage("lydite-small"))


def test_patches_need_positions_on_both_sides() -> None:
    vgg = Architecture(network="paper-student-0.44m")
    for parent, student in ((detector(0, vgg), "lydite-small"), (detector(), vgg.network)):
        made = step(method="patches", student=student, config={})
        with pytest.raises(ConfigError, match="score every position"):
            made.outline(parent)
    step(method="patches").outline(detector())


@pytest.mark.parametrize("method", ["features", "attention"])
def test_feature_maps_come_from_one_teacher(method: str) -> None:
    with pytest.raises(ValueError, match="learns from one teacher"):
        step(method=method, teachers=["a"])
    step(method=method, teachers=["a"], parent_teaches=False)


# -------------------------------------------------------------------------- students and data


def test_auto_saves_the_rate_and_stands_in_the_card(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    parent = detector(0, Architecture(network="lydite-small", config={"widths": [16, 32]}))
    made = Distill(student="auto", rate=0.7, steps=1, batch=4)
    outline = made.outline(parent)
    child = made.run(parent, context(tiny_manifest, tmp_path))
    assert child.card.architecture == outline.card.architecture
    assert child.card.architecture.config == {"widths": [8, 16]}
    assert count_parameters(child.network) <= 0.3 * count_parameters(parent.network)
    child.save(tmp_path / "child")
    assert same(Detector.load(tmp_path / "child"), child)
    stage = Stage("lydite-small", trained=True)
    made.check(stage)
    assert stage.network == "lydite-small"


def test_same_goes_on_from_a_pruned_detector_with_its_edits(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    wide = detector(1, Architecture(network="lydite-small", config={"widths": [8, 16]}))
    wide.save(tmp_path / "wide")
    narrow = Prune(rate=0.5, multiple=4).outline(wide)
    taught = step(student="same", config={}, teachers=[tmp_path / "wide"], parent_teaches=False)
    before = {name: value.clone() for name, value in weights(narrow).items()}
    child = taught.run(narrow, context(tiny_manifest, tmp_path / "scratch"))
    assert child.card.edits == narrow.card.edits != ()
    after = weights(child)
    assert {n: v.shape for n, v in after.items()} == {n: v.shape for n, v in before.items()}
    moved = (after["patch.weight"] - before["patch.weight"]).abs().max()
    assert 0 < moved < 0.1, "it learns on from the weights that it has"
    assert all(torch.equal(v, before[n]) for n, v in weights(narrow).items())
    child.save(tmp_path / "child")
    assert same(Detector.load(tmp_path / "child"), child)
    stage = Stage("lydite-small", trained=True)
    taught.check(stage)
    assert stage.network == "lydite-small"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"student": "same", "config": {"widths": [4]}}, "take out `config`"),
        ({"student": "auto", "config": {}}, "belong together"),
        ({"rate": 0.5}, "belong together"),
        ({"student": "auto", "rate": 90, "config": {}}, r"must be in \(0, 1\)"),
        ({"student": "auto", "rate": 0.5, "config": {"width": 0.5}}, "take `width` out"),
        ({"parent_teaches": False}, "there must be `teachers`"),
        ({"transfer_share": 0.2}, "says nothing without `transfer`"),
        ({"degrade": {}}, "at least one"),
        ({"method": ["features", "attention"], "weight": 1}, "nothing teaches"),
        ({"method": "logit"}, "'logits', 'decoupled'"),
        ({"method": []}, "at least 1 item"),
        ({"method": {"name": "logits", "alpha": 1}}, "alpha"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        step(**options)


def test_the_plan_says_what_is_easily_overlooked() -> None:
    stage = Stage("lydite-small", trained=True)
    step(method="decoupled").check(stage)
    assert "zero" in stage.notes[0]
    stage.notes.clear()
    step(transfer={"folder": "somewhere"}).check(stage)
    assert "no longer" in stage.notes[0]
    stage.notes.clear()
    step().check(stage)
    assert stage.notes == []


def test_validation_images_are_no_transfer_images(tiny_manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "extra").mkdir()
    row = next(iter(tiny_manifest.select(split="val").rows()))
    shutil.copy(row.file, tmp_path / "extra")
    with pytest.raises(DataError, match="validation split"):
        step(transfer={"folder": tmp_path / "extra"}).run(
            detector(), context(tiny_manifest, tmp_path / "x")
        )


def test_transfer_images_are_learned_from_without_labels(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    """Relabeling them changes nothing; other images do."""
    parent, made = detector(1), []
    for number, domain in enumerate(("two", "two", "one")):
        extra = tiny_manifest.select(split="train", domain=domain)
        if number == 1:
            import pyarrow as pa

            index = extra.table.column_names.index("label")
            labels = pa.array(["fake"] * len(extra))
            extra = Manifest(extra.table.set_column(index, "label", labels), extra.root)
        path = tmp_path / f"{number}.parquet"
        extra.write(path)
        made.append(
            step(transfer={"manifest": path}).run(
                parent, replace(context(tiny_manifest, tmp_path / str(number)))
            )
        )
    assert same(made[0], made[1])
    assert not same(made[0], made[2])
    assert made[0].card.training["transfer_images"] == 24
