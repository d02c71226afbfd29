"""The step `adapt`: the adapter learns, the detector keeps every bit, and the card rebuilds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from helpers.networks import answer, picture
from helpers.transfer import Killed, changed, context, trained
from lydite.card import Architecture
from lydite.compress.qat import Qat
from lydite.compress.quantize import Quantize
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.edits import AdapterKind, AddAdapter
from lydite.errors import ConfigError
from lydite.export.inspection import inspect_quantized
from lydite.export.onnx import export, to_onnx
from lydite.export.parity import check_parity, require_parity, synthetic_tiles
from lydite.models import build
from lydite.models.timm import TimmNetwork
from lydite.recipe import Stage, parse_step
from lydite.transfer.adapt import Adapt, find_place
from lydite.transfer.finetune import Finetune
from lydite.transfer.layers import parameters_of

TINY = Architecture(network="lydite-small", input_size=64, config={"widths": [8, 12]})
PAPER = Architecture(network="paper-student-0.9m", input_size=64, config={"width": 0.25})
LEARN: dict[str, Any] = {"steps": 2, "batch": 4, "lr": 0.01}
KINDS: tuple[AdapterKind, ...] = get_args(AdapterKind)


@pytest.mark.parametrize("architecture", [TINY, PAPER], ids=["lydite", "paper"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_adapter_learns(
    tiny_manifest: Manifest, tmp_path: Path, architecture: Architecture, kind: AdapterKind
) -> None:
    start = trained(architecture)
    step = Adapt(**LEARN, place="middle", adapter=kind, weight_decay=1.0)
    made = step.run(start, context(tiny_manifest, tmp_path))
    own = {n for n in made.network.state_dict() if n.startswith("adapters.")}
    assert changed(start, made) == own
    assert changed(step._inserted(start, 5), made)
    count = sum(p.numel() for p in made.network.adapters.parameters())
    assert made.card.training["trainable_parameters"] == count
    stages = start.network.stages()
    assert made.card.training["after"] == stages[(len(stages) - 1) // 2]
    assert not made.network.training


@pytest.mark.parametrize(
    ("also", "moves"),
    [(("head",), ("classifier.",)), (("norms",), ("body.bn",))],
)
def test_what_else_learns(
    tiny_manifest: Manifest, tmp_path: Path, also: Any, moves: tuple[str, ...]
) -> None:
    start = trained(PAPER)
    step = Adapt(**LEARN, place="last", adapter="residual-separable", also=also)
    made = step.run(start, context(tiny_manifest, tmp_path))
    names = {n for n in made.network.state_dict() if n.startswith(("adapters.", *moves))}
    assert changed(start, made) == names


def test_without_the_adapter_the_old_detector_is_back(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    start = trained(TINY)
    made = Adapt(**LEARN, place=0).run(start, context(tiny_manifest, tmp_path))
    assert not torch.equal(answer(made.network, picture()), answer(start.network, picture()))
    made.network.adapters.clear()
    assert torch.equal(answer(made.network, picture()), answer(start.network, picture()))


@pytest.mark.parametrize("kind", ["separable", "bottleneck"])
def test_a_killed_run_ends_with_the_same_weights(
    tiny_manifest: Manifest, tmp_path: Path, kind: AdapterKind
) -> None:
    step = Adapt(**{**LEARN, "steps": 5}, place="last", adapter=kind, checkpoint_s=0.0, ema=0.5)
    start = trained(PAPER)
    whole = step.run(start, context(tiny_manifest, tmp_path / "whole"))
    with pytest.raises(Killed):
        step.run(start, context(tiny_manifest, tmp_path / "cut", kill_at=3))
    resumed = step.run(start, context(tiny_manifest, tmp_path / "cut"))
    assert changed(whole, resumed) == set()


def test_an_adapter_learns_the_easy_artifact(tiny_manifest: Manifest, tmp_path: Path) -> None:
    from lydite.evaluate.metrics import auc
    from lydite.evaluate.score import score_detector

    step = Adapt(steps=60, batch=16, lr=1e-2, place="first", adapter="residual-separable")
    made = step.run(trained(TINY), context(tiny_manifest, tmp_path))
    scores = score_detector(made, tiny_manifest.select(split="test"))
    value = auc(scores["z"].to_numpy(), scores["target"].to_numpy())
    assert value is not None
    assert value > 0.9


def test_saved_and_loaded_again(tiny_manifest: Manifest, tmp_path: Path) -> None:
    made = trained(TINY)
    for place, kind in ((1, "lora"), (0, "separable")):
        step = Adapt(**LEARN, place=place, adapter=kind)
        made = step.run(made, context(tiny_manifest, tmp_path / str(place)))
    made.save(tmp_path / "detector")
    loaded = Detector.load(tmp_path / "detector")
    assert [e.after for e in loaded.card.edits if isinstance(e, AddAdapter)] == ["body.1", "body.0"]
    assert changed(made, loaded) == set()
    assert torch.equal(answer(loaded.network, picture()), answer(made.network, picture()))
    # an older lydite would say "upgrade": the card tells it the version
    assert loaded.card.version == 3


def test_a_second_adapter_freezes_the_first(tiny_manifest: Manifest, tmp_path: Path) -> None:
    first = Adapt(**LEARN, place=0).run(trained(TINY), context(tiny_manifest, tmp_path / "1"))
    second = Adapt(**LEARN, place=1).run(first, context(tiny_manifest, tmp_path / "2"))
    assert {name.split(".")[1] for name in changed(first, second)} == {"body_1"}


def test_adapters_at_several_places_learn_together(tiny_manifest: Manifest, tmp_path: Path) -> None:
    start = trained(TINY)
    step = Adapt(**LEARN, place=(0, "body.1"), adapter="residual-separable", also=("head",))
    made = step.run(start, context(tiny_manifest, tmp_path / "1"))
    edits = [edit for edit in made.card.edits if isinstance(edit, AddAdapter)]
    assert [(edit.after, edit.kind) for edit in edits] == [
        ("body.0", "residual-separable"),
        ("body.1", "residual-separable"),
    ]
    moved = changed(step._inserted(start, 5), made)
    assert {n.split(".")[1] for n in moved if n.startswith("adapters.")} == {"body_0", "body_1"}
    beside = {n for n in changed(start, made) if not n.startswith("adapters.")}
    assert beside == set(parameters_of(start.network, "head"))
    assert made.card.training["after"] == "body.0, body.1"
    count = sum(p.numel() for p in made.network.adapters.parameters())
    assert int(made.card.training["trainable_parameters"] or 0) > count
    # an entry of one place stays as it was
    assert Adapt(place=0).spec()["adapt"]["place"] == 0
    assert parse_step(step.spec()).spec() == step.spec()


def test_several_places_are_each_taken_once_and_none_by_chance() -> None:
    with pytest.raises(ConfigError, match="an adapter already"):
        Adapt(place=(0, "first")).outline(trained(TINY))
    with pytest.raises(ConfigError, match="`auto` chooses one place"):
        parse_step({"adapt": {"place": ["auto", 1]}})
    with pytest.raises(ConfigError, match="place"):
        parse_step({"adapt": {"place": []}})


def test_finetune_goes_on_with_all_of_it(tiny_manifest: Manifest, tmp_path: Path) -> None:
    first = Adapt(**LEARN, place=0).run(trained(TINY), context(tiny_manifest, tmp_path / "1"))
    second = Finetune(**LEARN).run(first, context(tiny_manifest, tmp_path / "2"))
    assert changed(first, second) == set(first.network.state_dict())


def with_every_kind() -> Detector:
    """Return a detector with an adapter of each kind, none as it started."""
    made = trained(PAPER.model_copy(update={"config": {"width": 0.25, "dropout": 0.0}}))
    for place, kind in enumerate(KINDS):
        made = Adapt(place=place, adapter=kind).outline(made)
    torch.manual_seed(6)
    with torch.no_grad():
        for parameter in made.network.adapters.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


def test_the_exported_file_agrees_on_every_kind() -> None:
    made = with_every_kind()
    require_parity(check_parity(made, export(made), synthetic_tiles(made, 8)), 0.0)


def test_an_empty_place_exports_as_ever() -> None:
    network = build(PAPER).eval()
    before = to_onnx(network, 64)
    assert b"adapters" not in before
    assert not any(name.startswith("adapters") for name in network.state_dict())


def test_rounding_is_followed_through_every_kind(tiny_manifest: Manifest, tmp_path: Path) -> None:
    made = with_every_kind()
    # it refuses itself to end where the file computes something else
    rounded = Qat(**LEARN, images=4).run(made, context(tiny_manifest, tmp_path))
    own = {name for name in changed(made, rounded) if name.startswith("adapters.")}
    assert {n.split(".")[1] for n in own} == set(made.network.adapters)
    layers = inspect_quantized(export(rounded)).layers
    assert [layer.integer for layer in layers] == [False] + [True] * (len(layers) - 1)


def test_int8_ranges_are_measured_behind_adapters(tiny_manifest: Manifest, tmp_path: Path) -> None:
    here = context(tiny_manifest, tmp_path)
    made = Adapt(**LEARN, place=0, adapter="residual-separable").run(trained(TINY), here)
    final = Quantize(images=4).run(made, here)
    plain = Quantize(images=4).run(trained(TINY), here)
    assert final.card.quantization is not None
    assert plain.card.quantization is not None
    assert len(final.card.quantization.ranges) > len(plain.card.quantization.ranges)


@pytest.mark.parametrize(
    ("name", "place", "wanted"),
    [
        ("paper-baseline", "paper", "body.relu4"),
        ("paper-baseline", "middle", "body.relu4"),
        ("paper-baseline", "first", "body.relu1"),
        ("paper-baseline", -1, "body.relu8"),
        ("paper-student-1.8m", "paper", "body.relu7"),
        ("paper-student-0.44m", "paper", "body.relu5"),
        ("paper-student-0.44m", "body.relu2", "body.relu2"),
        ("lydite-medium", "middle", "body.1"),
        ("lydite-medium", "last", "body.2"),
        ("lydite-medium", -3, "body.0"),
        ("lydite-medium", 2, "body.2"),
    ],
)
def test_places(name: str, place: int | str, wanted: str) -> None:
    network = build(Architecture(network=name))
    assert find_place(network, place, name) == wanted


@pytest.mark.parametrize(
    ("name", "width"), [("paper-baseline", 18_048), ("paper-student-0.44m", 4_928)]
)
def test_the_papers_adapters_where_the_paper_has_them(name: str, width: int) -> None:
    start = Detector.start(Architecture(network=name))
    outline = Adapt(place="paper").outline(start)
    assert sum(p.numel() for p in outline.network.adapters.parameters()) == width


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"place": 2}, r"number from -2 to 1 .*body.0, body.1. Got 2"),
        ({"place": -3}, "Got -3"),
        ({"place": "midle"}, "Unknown place 'midle'. Did you mean 'middle'"),
        ({"place": "body.0.conv"}, "Unknown place"),
        ({"place": "paper"}, "paper's own networks; this is lydite-small"),
        (
            {"place": 0, "adapter": "lora", "rank": 9},
            "must be 1 to 8, the channels behind 'body.0'",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_step({"adapt": options}).outline(trained(TINY))


def test_a_place_takes_one_adapter() -> None:
    once = Adapt(place=0).outline(trained(TINY))
    with pytest.raises(ConfigError, match="an adapter already"):
        Adapt(place="first", adapter="lora").outline(once)


def test_networks_without_stages_are_refused_with_a_way_out() -> None:
    network = TimmNetwork(torch.nn.Conv2d(3, 2, 1), 64)
    with pytest.raises(ConfigError, match="networks of timm.*`finetune` with `layers: head`"):
        find_place(network, "last", "timm/x")


def test_orders_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="needs a trained network"):
        Adapt(place=0).check(Stage(network="lydite-small"))
    Adapt(place=0).check(Stage(network="lydite-small", trained=True, quantized=True))


def test_options_are_checked_and_kept_in_one_order() -> None:
    with pytest.raises(ConfigError, match="`rank` says nothing of the adapter affine"):
        parse_step({"adapt": {"place": 0, "adapter": "affine", "rank": 2}})
    twice = parse_step({"adapt": {"place": 0, "also": ["norms", "head", "norms"]}})
    assert twice.spec() == Adapt(place=0, also=("head", "norms")).spec()


def test_the_rank_is_eight_or_what_there_is() -> None:
    def rank(widths: list[int]) -> int | None:
        architecture = TINY.model_copy(update={"config": {"widths": widths}})
        edit = Adapt(place=0, adapter="lora").outline(Detector.start(architecture)).card.edits[-1]
        assert isinstance(edit, AddAdapter)
        return edit.rank

    assert (rank([16]), rank([4])) == (8, 4)


def test_equal_seeds_give_equal_adapters(tiny_manifest: Manifest, tmp_path: Path) -> None:
    step, start = Adapt(**LEARN, place=0), trained(TINY)
    one = step.run(start, context(tiny_manifest, tmp_path / "1"))
    torch.rand(7)
    two = step.run(start, context(tiny_manifest, tmp_path / "2"))
    assert changed(one, two) == set()
    assert changed(step._inserted(start, 1), step._inserted(start, 2))
