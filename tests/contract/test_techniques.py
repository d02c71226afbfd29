"""Every technique of compression and transfer, and every pair of them, through one contract.

Made on a tiny network, saved, loaded in a fresh process: equal scores there, an exported file that
agrees, and a card from which all of it is rebuilt. An order that makes no sense is refused before
any work, with a reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.contract import Elsewhere, SharedFloatFiles
from lydite.card import ONNX_NAME, Architecture
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import ConfigError
from lydite.export.inspection import inspect_quantized
from lydite.export.onnx import export
from lydite.export.parity import check_parity, network_logits, require_parity, synthetic_tiles
from lydite.models.cost import count_parameters
from lydite.recipe import STEPS, Context, Stage, Step, load_steps, parse_step

LEARN: dict[str, Any] = {"steps": 2, "batch": 8, "checkpoint_s": 1e9}
#: one example of every technique, as a recipe has it
TECHNIQUES: dict[str, dict[str, Any]] = {
    "finetune": {"finetune": LEARN},
    "adapt": {"adapt": {"place": "middle", "adapter": "residual-separable", **LEARN}},
    "prune": {"prune": {"rate": 0.3, "multiple": 1}},
    "mask": {"mask": {"rate": 0.5}},
    "factorize": {"factorize": {"rate": 0.2}},
    "distill": {"distill": {"student": "auto", "rate": 0.3, **LEARN}},
    "linear-int8": {"quantize": {"scheme": "linear-int8"}},
    "static-int8": {"quantize": {"images": 4}},
    "weight-int8": {"quantize": {"scheme": "weight-int8"}},
    "float16": {"quantize": {"scheme": "float16"}},
    "bfloat16": {"quantize": {"scheme": "bfloat16"}},
    "qat": {"qat": {"images": 4, **LEARN}},
}
#: nothing but an adapter, and what takes the rounding back, follows these
FINAL = {"linear-int8", "static-int8", "weight-int8", "float16", "bfloat16", "qat"}
#: the step that takes rounding back, and so stands behind these alone
BACK = "dequantize"
#: orders besides those that are refused, and what the reason says
REFUSED = {
    ("factorize", "factorize"): "that are not split yet",
    ("adapt", "adapt"): "there is an adapter already",
}
BEGINNINGS = [name for name in TECHNIQUES if name not in FINAL]
#: what a short training of a tiny network may change in an int8 file's answers
MAX_FLIPS = 0.2

NETWORKS: dict[str, Architecture] = {
    "lydite": Architecture(network="lydite-small", input_size=64, config={"widths": [12, 24]}),
    "paper": Architecture(network="paper-student-0.44m", input_size=64),
}


@dataclass
class Workshop:
    """Makes detectors of one network by chains of techniques; common beginnings are made once."""

    start: Detector
    manifest: Manifest
    folder: Path

    def __post_init__(self) -> None:
        self.made: dict[tuple[str, ...], Detector] = {(): self.start}
        self.float_files = SharedFloatFiles()

    def make(self, *names: str) -> Detector:
        """Return the detector after these techniques.

        Raises:
            ConfigError: a technique does not follow on the one before.
        """
        if names in self.made:
            return self.made[names]
        parent = self.make(*names[:-1])
        with self.float_files.shared():
            stage = Stage(
                network=parent.card.architecture.network,
                trained=True,
                quantized=parent.card.quantization is not None,
            )
            step = step_of(names[-1])
            step.check(stage)
            step.outline(parent)
            made = step.run(parent, self.context("-".join(names)))
        self.made[names] = made.evolve(
            name="-".join(names), steps=(*parent.card.steps, step.spec())
        )
        return self.made[names]

    def context(self, name: str) -> Context:
        """Return what a step may use."""
        train = self.manifest.select(split="train", domain="one")
        val = self.manifest.select(split="val", domain="one")
        return Context(train, val, seed=1, folder=self.folder / name, device="cpu")

    def save(self, *names: str) -> Path:
        """Write a detector with its exported file, once, and return its folder."""
        folder = self.folder / "saved" / "-".join(("start", *names))
        if not folder.exists():
            detector = self.make(*names)
            with self.float_files.shared():
                file = export(detector)
            Detector(detector.card, detector.network, {ONNX_NAME: file}).save(folder)
        return folder

    def exported(self, *names: str) -> bytes:
        """Return a detector's exported file."""
        return (self.save(*names) / ONNX_NAME).read_bytes()


def followers(first: str) -> list[str]:
    return [name for name in TECHNIQUES if (first, name) not in REFUSED]


def step_of(name: str) -> Step:
    return parse_step(TECHNIQUES.get(name, name))


def workshop(name: str, manifest: Manifest, folder: Path) -> Workshop:
    start = Detector.start(NETWORKS[name], seed=3)
    settings = parse_step({"train": {**LEARN, "steps": 8, "lr": 0.01}})
    train = manifest.select(split="train", domain="one")
    context = Context(train, train, seed=1, folder=folder / "train", device="cpu")
    trained = settings.run(start, context).evolve(steps=({"train": {}},))
    return Workshop(trained, manifest, folder)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    with Elsewhere.started() as process:
        yield process


@pytest.fixture(scope="module")
def lydite(tiny_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return workshop("lydite", tiny_manifest, tmp_path_factory.mktemp("lydite"))


@pytest.fixture(scope="module")
def paper(tiny_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return workshop("paper", tiny_manifest, tmp_path_factory.mktemp("paper"))


def test_every_step_is_here() -> None:
    load_steps()
    assert {next(iter(t)) for t in TECHNIQUES.values()} == set(STEPS) - {"train", BACK}


def hold_to_contract(shop: Workshop, chains: list[tuple[str, ...]], elsewhere: Elsewhere) -> None:
    """Save every chain's detector, load it elsewhere, and compare."""
    for names in chains:  # it loads one while the next one is made
        elsewhere.ask(shop.save(*names))
    for names in chains:
        made, folder = shop.make(*names), shop.save(*names)
        tiles = synthetic_tiles(made, 8)
        here, there = network_logits(made, [tiles]), elsewhere.answer(folder)
        np.testing.assert_allclose(there, here, atol=1e-5, err_msg=str(names))
        loaded = Detector.load(folder)
        assert loaded.card.edits == made.card.edits
        assert loaded.files is not None
        require_parity(check_parity(made, loaded.files[ONNX_NAME], tiles), MAX_FLIPS)


def test_each_technique(lydite: Workshop, elsewhere: Elsewhere) -> None:
    hold_to_contract(lydite, [(name,) for name in TECHNIQUES], elsewhere)


@pytest.mark.parametrize("name", ["prune", "factorize", "distill"])
def test_what_removes_parameters_leaves_fewer_of_them(lydite: Workshop, name: str) -> None:
    asked = next(iter(TECHNIQUES[name].values()))["rate"]
    before, after = (count_parameters(d.network) for d in (lydite.start, lydite.make(name)))
    assert after <= (1 - asked) * before


@pytest.mark.parametrize(
    ("name", "most"),
    [("static-int8", 0.5), ("qat", 0.5), ("weight-int8", 0.5), ("float16", 0.6), ("bfloat16", 0.6)],
)
def test_what_stores_shorter_numbers_stores_fewer_bytes(
    lydite: Workshop, name: str, most: float
) -> None:
    before, after = (
        sum(inspect_quantized(file).weight_bytes.values())
        for file in (lydite.exported(), lydite.exported(name))
    )
    assert after <= most * before


def test_masks_shrink_nothing(lydite: Workshop) -> None:
    assert count_parameters(lydite.make("mask").network) == count_parameters(lydite.start.network)


@pytest.mark.slow
def test_each_technique_on_the_papers_networks(paper: Workshop, elsewhere: Elsewhere) -> None:
    hold_to_contract(paper, [(name,) for name in TECHNIQUES], elsewhere)


@pytest.mark.parametrize("name", ["prune", "factorize", "static-int8", "float16"])
def test_a_loaded_card_exports_the_same_file_again(lydite: Workshop, name: str) -> None:
    folder = lydite.save(name)
    assert export(Detector.load(folder)) == (folder / ONNX_NAME).read_bytes()


@pytest.mark.parametrize("first", BEGINNINGS)
def test_each_pair(lydite: Workshop, elsewhere: Elsewhere, first: str) -> None:
    hold_to_contract(lydite, [(first, name) for name in followers(first)], elsewhere)


@pytest.mark.slow
@pytest.mark.parametrize("first", BEGINNINGS)
def test_each_pair_on_the_papers_networks(
    paper: Workshop, elsewhere: Elsewhere, first: str
) -> None:
    hold_to_contract(paper, [(first, name) for name in followers(first)], elsewhere)


@pytest.mark.parametrize("first", sorted(FINAL))
def test_nothing_follows_integers(lydite: Workshop, first: str) -> None:
    for name in TECHNIQUES.keys() - {"adapt"}:
        with pytest.raises(ConfigError, match="cannot follow"):
            lydite.make(first, name)


def test_an_adapter_follows_integers_and_leaves_them_as_they_are(
    lydite: Workshop, elsewhere: Elsewhere
) -> None:
    hold_to_contract(lydite, [(first, "adapt") for first in sorted(FINAL)], elsewhere)
    for first in ("static-int8", "qat"):
        base, adapted = lydite.make(first), lydite.make(first, "adapt")
        assert base.card.quantization is not None
        assert adapted.card.quantization is not None
        ranges = adapted.card.quantization.ranges
        assert base.card.quantization.ranges.items() <= ranges.items()
        with pytest.raises(ConfigError, match="cannot follow"):
            lydite.make(first, "adapt", "prune")


def test_rounding_is_taken_back(lydite: Workshop, elsewhere: Elsewhere) -> None:
    with pytest.raises(ConfigError, match="needs a quantized detector"):
        lydite.make(BACK)
    hold_to_contract(lydite, [(first, BACK) for first in sorted(FINAL)], elsewhere)
    hold_to_contract(lydite, [("static-int8", BACK, "prune"), ("qat", "adapt", BACK)], elsewhere)


@pytest.mark.parametrize(("pair", "reason"), REFUSED.items())
def test_orders_that_make_no_sense(lydite: Workshop, pair: tuple[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        lydite.make(*pair)
