"""`lydite pack` and `lydite predict --pack`, as people and programs call them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lydite
from helpers.packs import hand_made_pack
from lydite.card import ONNX_NAME, load_card
from lydite.cli import main
from lydite.pack_folder import load_packs, save_pack

WEIGHTS = {
    "alpha": np.array([[0.5, -1.0, 0.25], [4.0, 2.0, 1.0]]),
    "beta": np.array([[9.0, -1.0, 0.25], [-0.75, 2.0, 1.0]]),
}


@pytest.fixture
def packs(tiny_detector: Path, make_onnx: Callable[..., Any], tmp_path: Path) -> dict[str, str]:
    card, onnx = load_card(tiny_detector), (tiny_detector / ONNX_NAME).read_bytes()
    for name, weight in WEIGHTS.items():
        full = make_onnx(weight=weight).SerializeToString()
        limits = ("only small pictures",)
        save_pack(hand_made_pack(card, onnx, full, name, limits=limits), tmp_path / name)
    return {name: str(tmp_path / name) for name in WEIGHTS}


@pytest.fixture
def photo(tmp_path: Path) -> str:
    rgb = np.random.default_rng(2).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str) -> tuple[int, str, str]:
        status = main(list(words))
        return status, *capsys.readouterr()

    return call


Run = Callable[..., tuple[int, str, str]]


def test_predict_names_the_speaker(
    run: Run, tiny_detector: Path, packs: dict[str, str], photo: str
) -> None:
    words = ["predict", "--detector", str(tiny_detector), photo]
    both = ["--pack", packs["alpha"], "--pack", packs["beta"]]
    _, plain, _ = run(*words)
    status, out, _ = run(*words, *both)
    assert (status, out.split()) == (0, ["fake", out.split()[1], "alpha", photo])
    assert len(plain.split()) == 3
    _, out, _ = run(*words, *both, "--json")
    value = json.loads(out)
    assert [pack["name"] for pack in value["packs"]] == ["alpha", "beta"]
    assert value["packs"][0]["threshold"] == 0.3
    assert value["predictions"][0]["by"] == "alpha"
    _, out, _ = run(*words, "--json")
    assert "packs" not in json.loads(out) and "by" not in out
    # one folder is one pack, and no row of letters
    (card,) = lydite.load(tiny_detector, packs=packs["alpha"]).packs
    assert card.name == "alpha"


def test_predict_keeps_its_columns_where_an_image_fails(
    run: Run, tiny_detector: Path, packs: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bad").write_text("no image")
    words = ["predict", "--detector", str(tiny_detector), "--pack", packs["beta"]]
    status, out, err = run(*words, str(tmp_path / "bad"))
    assert status == 1 and err
    assert out.split() == ["error", "-", "-", str(tmp_path / "bad")]


def test_show_merge_and_remove(run: Run, packs: dict[str, str], tmp_path: Path) -> None:
    both, rest = tmp_path / "both", tmp_path / "rest"
    status, out, _ = run("pack", "merge", packs["beta"], packs["alpha"], "-o", str(both))
    assert status == 0 and str(both) in out
    assert [pack.card.name for pack in load_packs(both)] == ["beta", "alpha"]
    before = {f: f.read_bytes() for f in both.rglob("*") if f.is_file()}
    status, out, _ = run("pack", "remove", str(both), "beta", "-o", str(rest), "--json")
    assert [member["name"] for member in json.loads(out)["members"]] == ["alpha"]
    assert {f: f.read_bytes() for f in both.rglob("*") if f.is_file()} == before
    assert load_packs(rest) == load_packs(Path(packs["alpha"]))
    for folder in (rest, Path(packs["alpha"])):
        _, out, _ = run("pack", "show", str(folder), "--json")
        value = json.loads(out)
        assert value["base"]["name"] == "tiny"
        (member,) = value["members"]
        assert member["size_bytes"] == load_packs(folder)[0].size_bytes
    status, out, _ = run("pack", "show", str(both))
    assert "For the detector tiny" in out and "alpha: only small pictures" in out


def test_mistakes_are_one_line(run: Run, packs: dict[str, str], tmp_path: Path) -> None:
    for words, reason in (
        (["merge", packs["alpha"], packs["alpha"], "-o", str(tmp_path / "x")], "called alpha"),
        (["merge", packs["alpha"], "-o", packs["beta"]], "there already"),
        (["merge", "-o", str(tmp_path / "x")], "lydite pack --help"),
        (["remove", packs["alpha"], "alpha", "-o", str(tmp_path / "x")], "only member"),
        (["remove", packs["alpha"], "alp", "-o", str(tmp_path / "x")], "Did you mean"),
        (["show", str(tmp_path)], "not an adapter pack"),
    ):
        status, out, err = run("pack", *words)
        assert status == 2 and reason in err and err.count("\n") == 1, words
    status, out, _ = run("pack", "show", str(tmp_path), "--json")
    assert status == 2 and json.loads(out)["error"]["code"] == "card"
    assert not (tmp_path / "x").exists()
