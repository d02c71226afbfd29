"""Cards and weights: what does not fit is refused, and what fits comes back unchanged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from lydite.card import (
    Architecture,
    Card,
    ConformalBand,
    Preprocess,
    Quantization,
    ScoreMeaning,
    load_card,
    parse_card,
)
from lydite.detector import Detector
from lydite.edits import KeepChannels
from lydite.errors import CardError, FileError, LyditeError
from lydite.files import sha256_file, write_json
from lydite.models.surgery import keep_channels_

TINY = Architecture(network="lydite-small", input_size=64, config={"widths": [4, 8]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Detector.start(TINY, seed=3).save(tmp_path / "detector")
    return tmp_path / "detector"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a card's JSON as a stranger would."""
    path = folder / "card.json"
    value = json.loads(path.read_text("utf-8"))
    change(value)
    write_json(path, value)


def fix_digest(folder: Path) -> None:
    """Make the card's digest fit its weights again, as a careful stranger would."""
    path = folder / "model.safetensors"

    def change(value: dict[str, Any]) -> None:
        value["files"]["model.safetensors"] = {
            "sha256": sha256_file(path),
            "size_bytes": path.stat().st_size,
        }

    rewrite(folder, change)


def conv_edit(**changes: Any) -> dict[str, Any]:
    edit = {"op": "factorize_conv", "layer": "x", "method": "tucker2", "ranks": [1, 1]}
    return edit | changes


def linear_edit(**changes: Any) -> dict[str, Any]:
    return {"op": "factorize_linear", "layer": "x", "rank": 1} | changes


def test_round_trip(folder: Path) -> None:
    images = torch.randn(2, 3, 64, 64)
    before, after = Detector.start(TINY, seed=3).network.eval(), Detector.load(folder)
    assert torch.equal(before(images), after.network(images))
    assert after.card.digest == Detector.load(folder).card.digest


def test_equal_scores_in_a_fresh_process_after_surgery(tmp_path: Path) -> None:
    detector = Detector.start(TINY, seed=3)
    group = next(g for g in detector.network.groups() if g.size >= 4)
    keep_channels_(detector.network, group.name, [0, 2])
    edits = (KeepChannels(group=group.name, keep=(0, 2)),)
    detector.evolve(edits=edits).save(tmp_path / "pruned")
    script = (
        "import sys, torch; from pathlib import Path; from lydite.detector import Detector\n"
        "torch.manual_seed(9); network = Detector.load(Path(sys.argv[1])).network\n"
        "print(network(torch.randn(2, 3, 64, 64)).tolist())\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "pruned")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    torch.manual_seed(9)
    here = detector.network.eval()(torch.randn(2, 3, 64, 64))
    assert torch.allclose(torch.tensor(json.loads(done.stdout)), here, atol=1e-6)


def test_only_a_detector_is_replaced_and_what_lies_beside_it_stays(
    folder: Path, tmp_path: Path
) -> None:
    detector = Detector.load(folder)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"mine")
    with pytest.raises(FileError, match="is no detector"):
        detector.save(photos)
    assert (photos / "a.jpg").read_bytes() == b"mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["detector", "photos"]
    beside = tmp_path / "beside"
    detector.save(beside)
    (beside / "README.md").write_text("mine")
    (beside / ".git").mkdir()
    (beside / ".git" / "HEAD").write_text("ref")
    detector.save(beside)
    assert (beside / "README.md").read_text() == "mine"
    assert (beside / ".git" / "HEAD").read_text() == "ref"
    Detector.load(beside)
    # one that is damaged is replaced as well
    (beside / "README.md").unlink()
    shutil.rmtree(beside / ".git")
    (beside / "card.json").write_text("{")
    detector.save(beside)
    Detector.load(beside)


def test_equal_seeds_give_equal_weights_and_keys() -> None:
    one, other = Detector.start(TINY, seed=5), Detector.start(TINY, seed=5)
    states = one.network.state_dict(), other.network.state_dict()
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    assert one.card.key == other.card.key
    assert Detector.start(TINY, seed=6).card.key != one.card.key


def test_a_card_says_the_lowest_version_that_knows_what_it_uses(folder: Path) -> None:
    plain = load_card(folder)
    assert plain.version == 1
    split = Card.model_validate(plain.model_dump() | {"edits": [linear_edit()]})
    assert split.version == 2
    halves = {"quantization": {"scheme": "float16"}}
    assert Card.model_validate(plain.model_dump() | halves).version == 2
    whole = {"quantization": {"scheme": "linear-int8"}}
    assert Card.model_validate(plain.model_dump() | whole).version == 1
    adapter = {"op": "add_adapter", "after": "body.0", "kind": "affine", "channels": 4}
    assert Card.model_validate(plain.model_dump() | {"edits": [adapter]}).version == 3
    band = {"alpha": 0.05, "low": 0.0, "high": 1.0, "n_real": 19, "n_fake": 19}
    promise = {"score": {"conformal": band}}
    assert Card.model_validate(plain.model_dump() | promise).version == 4
    assert Card.model_validate(plain.model_dump() | {"score": {"n": 3}}).version == 1
    eight = {"quantization": {"scheme": "static-int8"}}
    narrow = {"quantization": {"scheme": "static-int8", "weight_bits": 7}}
    made = Card.model_validate(plain.model_dump() | narrow)
    assert made.version == 5
    assert Card.model_validate(made.to_json()) == made
    # what is usual is not said, so that cards of before keep their digests
    usual = Card.model_validate(plain.model_dump() | eight)
    assert usual.version == 1
    assert "weight_bits" not in usual.to_json()["quantization"]
    with pytest.raises(ValidationError, match="`weight_bits` is for static-int8"):
        Quantization(scheme="float16", weight_bits=7)
    both = {"edits": [linear_edit(), adapter], **halves}
    assert Card.model_validate(plain.model_dump() | both).version == 3


@pytest.mark.parametrize("name", ["model.safetensors", "card.json"])
@pytest.mark.parametrize("where", [0, 100, -1])
def test_one_changed_byte_is_refused(folder: Path, name: str, where: int) -> None:
    path = folder / name
    data = bytearray(path.read_bytes())
    data[where] ^= 0x41
    path.write_bytes(bytes(data))
    if name == "card.json":
        try:
            assert load_card(folder) != Detector.start(TINY, seed=3).card
        except LyditeError as error:
            assert str(error)
    else:
        with pytest.raises(CardError, match="SHA-256"):
            Detector.load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(surprise=1), "surprise"),
        (lambda v: v.update(version=99), "Upgrade lydite"),
        (lambda v: v.update(version="new"), "version"),
        (lambda v: v.update(edits=7), "edits"),
        (lambda v: v.update(format="other"), "not the card of a lydite detector"),
        (lambda v: v["files"].update({"../x": v["files"]["model.safetensors"]}), "plain name"),
        (lambda v: v["files"].update({"a/b": v["files"]["model.safetensors"]}), "plain name"),
        (lambda v: v["files"].update(gone={"sha256": "0" * 64, "size_bytes": 1}), "lacks the file"),
        (lambda v: v["architecture"].update(input_size=96), "96 px"),
        (lambda v: v["score"].update(temperature=0), "temperature"),
        (lambda v: v["score"].update(band=[0.6, 0.9]), "0.5"),
        (lambda v: v["preprocess"].update(std=[0, 1, 1]), "std"),
        (lambda v: v.update(edits=[{"op": "run", "code": "1"}]), "edits"),
        (lambda v: v.update(edits=[{"op": "keep_channels", "group": "x", "keep": [3, 1]}]), "keep"),
        (lambda v: v.update(edits=[conv_edit(method="cp")]), "method"),
        (lambda v: v.update(edits=[conv_edit(ranks=[0, 1])]), "ranks"),
        (lambda v: v.update(edits=[conv_edit(ranks=[1])]), r"tucker2 has 2 rank\(s\), not 1"),
        (lambda v: v.update(edits=[conv_edit(method="spatial")]), r"spatial has 1 rank"),
        (lambda v: v.update(edits=[linear_edit(rank=0)]), "rank"),
        (lambda v: v.update(edits=[{"op": "add_adapter", "after": "body.0"}]), "channels"),
        (lambda v: v.update(edits=[linear_edit(dropout=1.0)]), "dropout"),
        (lambda v: v.update(edits=[linear_edit(bottleneck="tanh")]), "bottleneck"),
    ],
)
def test_foreign_cards_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(CardError, match=words):
        load_card(folder)


@pytest.mark.parametrize(
    "edit",
    [
        {"op": "keep_channels", "group": "nowhere", "keep": [0]},
        {"op": "keep_channels", "group": "stem", "keep": [0, 10_000]},
        {"op": "mask_weights", "parameters": ["nowhere"]},
        {"op": "factorize_linear", "layer": "patch", "rank": 1},
        {"op": "factorize_conv", "layer": "nowhere", "method": "svd", "ranks": [1]},
        {"op": "factorize_conv", "layer": "patch", "method": "svd", "ranks": [3]},
        {"op": "add_adapter", "after": "nowhere", "kind": "affine", "channels": 4},
        {"op": "add_adapter", "after": "body.0", "kind": "affine", "channels": 10_000_000},
    ],
)
def test_edits_that_do_not_fit_are_refused(folder: Path, edit: dict[str, Any]) -> None:
    rewrite(folder, lambda v: v.update(edits=[edit]))
    with pytest.raises(CardError):
        Detector.load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(next(iter(t))), "missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra"),
        (lambda t: t.update({k: v.unsqueeze(0) for k, v in list(t.items())[:1]}), "wants"),
        (lambda t: t.update({k: v.double() for k, v in list(t.items())[:1]}), "float64"),
        (lambda t: next(v for v in t.values() if v.ndim == 4).fill_(float("nan")), "NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], words: str
) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    fix_digest(folder)
    with pytest.raises(CardError, match=words):
        Detector.load(folder)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xff\xff\xff\xff\xff\xff\x7f{}",  # a header said to be enormous
        b"\x02\x00\x00\x00\x00\x00\x00\x00{}trailing",
        b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94.",  # a pickle
        b"\x58\x00\x00\x00\x00\x00\x00\x00"  # overlapping tensors
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    ],
)
def test_what_is_no_safetensors_is_refused(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)
    fix_digest(folder)
    with pytest.raises(CardError, match="safetensors"):
        Detector.load(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    fix_digest(folder)
    with pytest.raises(CardError, match="safetensors"):
        Detector.load(folder)


def test_no_card_and_a_huge_card(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"no card\.json"):
        load_card(tmp_path)
    (tmp_path / "card.json").write_bytes(b" " * (10 * 1024 * 1024 + 1))
    with pytest.raises(LyditeError, match="larger than"):
        load_card(tmp_path)


@pytest.mark.parametrize("value", [None, [], {}, {"format": "lydite-detector"}, "text", 3])
def test_what_is_no_card(value: object) -> None:
    with pytest.raises(CardError):
        parse_card(value, "card.json")


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CardError, match="lacks the file"):
        Detector.load(folder)


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="64 px"):
        Detector.start(TINY, Preprocess(size=96))


def test_a_card_that_says_less_goes_back_to_the_lower_version() -> None:
    detector = Detector.start(Architecture(network="lydite-small"))
    promise = ConformalBand(alpha=0.05, low=-1.0, high=1.0, n_real=40, n_fake=40)
    promised = detector.evolve(score=ScoreMeaning(conformal=promise))
    assert promised.card.version == 4
    assert promised.evolve(score=ScoreMeaning()).card.version == detector.card.version < 4
