"""`lydite data spectra` as people and programs call it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from lydite.cli import main
from lydite.data.manifest import Manifest


@pytest.fixture
def manifest(tiny_manifest: Manifest, tmp_path: Path) -> Path:
    path = tmp_path / "manifest.parquet"
    tiny_manifest.write(path)
    return path


def test_figure_and_numbers(
    manifest: Path, tiny_manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {row.file: row.file.read_bytes() for row in tiny_manifest.rows()}
    out = tmp_path / "out"
    words = ["data", "spectra", str(manifest), "-o", str(out), "--count", "6", "--split", "train"]
    assert main([*words, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert sorted(p.name for p in out.iterdir()) == ["spectra.json", "spectra.npz", "spectra.svg"]
    assert value == json.loads((out / "spectra.json").read_text("utf-8"))
    assert value["size"] == 64 and value["settings"]["count"] == 6
    assert [pair["fake"]["n"] for pair in value["pairs"]] == [6, 6]
    with np.load(out / "spectra.npz", allow_pickle=False) as arrays:
        assert arrays["0-real"].shape == (64, 64)
    # a file of its own, which any reader of XML understands, with the pixels inside
    tree = ElementTree.parse(out / "spectra.svg")  # noqa: S314
    hrefs = [element.get("href") or "" for element in tree.iter() if element.tag.endswith("image")]
    assert len(hrefs) >= 6 and all(h.startswith("data:image/png;base64,") for h in hrefs)
    assert {row.file: row.file.read_bytes() for row in tiny_manifest.rows()} == before
    # the same again is refused, and changes nothing
    kept = (out / "spectra.json").read_bytes()
    assert main(words) == 2
    assert "is there already" in capsys.readouterr().err
    assert (out / "spectra.json").read_bytes() == kept


def test_people_read_a_table(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(manifest), "-o", str(tmp_path / "out"), "--generators", "--count", "3"]
    assert main(["data", "spectra", *words]) == 0
    said = capsys.readouterr().out
    assert "two: double-two" in said and "Center crops of 64 pixels, fake minus real." in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "tset"], "--split must be one of"),
        (["--count", "0"], "`count` must be"),
        (["--size", "512"], "sides of 512 pixels"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    out = tmp_path / "out"
    assert main(["data", "spectra", str(manifest), "-o", str(out), *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not out.exists()
