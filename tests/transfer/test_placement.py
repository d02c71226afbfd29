"""Placements: ranks, choices, results that are read back, the figure and the command."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from scipy.stats import rankdata

from helpers.sweeps import placement
from helpers.transfer import changed, trained
from lydite.card import Architecture
from lydite.cli import main
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import ConfigError, DataError
from lydite.report.placement import placement_map
from lydite.transfer.observe import observe
from lydite.transfer.placement import measure_placement, ranks_of
from lydite.transfer.placement_result import Placement, PlaceRow, Prediction, write_placement
from lydite.transfer.predictors import PREDICTORS

TINY = Architecture(network="lydite-small", input_size=32, config={"widths": [4, 6, 5]})


@pytest.fixture(scope="module")
def detector() -> Detector:
    return trained(TINY)


@pytest.fixture(scope="module")
def result(detector: Detector, tiny_manifest: Manifest) -> Placement:
    train = tiny_manifest.select(split="train")
    return measure_placement(
        detector, train.select(domain="two"), train.select(domain="one"), crops=12, seed=3
    )


def with_ranks(*ranks: float | None) -> tuple[PlaceRow, ...]:
    return tuple(
        PlaceRow(
            stage=f"body.{number}",
            channels=4,
            predictions={"gradient": Prediction(value=rank, rank=rank)},
        )
        for number, rank in enumerate(ranks)
    )


def test_values_are_those_of_the_predictors(
    detector: Detector, tiny_manifest: Manifest, result: Placement
) -> None:
    train = tiny_manifest.select(split="train")
    seen = observe(
        detector, train.select(domain="two"), train.select(domain="one"), crops=12, seed=3
    )
    assert [(r.stage, r.channels) for r in result.places] == [
        ("body.0", 4),
        ("body.1", 6),
        ("body.2", 5),
    ]
    assert result.predictors == tuple(PREDICTORS)
    for name in PREDICTORS:
        predictor = PREDICTORS.get(name)
        values = [predictor.of(place) for place in seen]
        assert [row.predictions[name].value for row in result.places] == values
        sign = -1 if predictor.better == "higher" else 1
        ranks = rankdata([sign * (v or 0.0) for v in values])
        assert [row.predictions[name].rank for row in result.places] == ranks.tolist()
        best = min(zip(ranks, values, result.places, strict=True), key=lambda triple: triple[0])
        assert result.choice(name) == best[2].stage


def test_equal_seeds_give_equal_placements(
    detector: Detector, tiny_manifest: Manifest, result: Placement
) -> None:
    train, before = tiny_manifest.select(split="train"), trained(TINY)
    images, known = train.select(domain="two"), train.select(domain="one")
    again = measure_placement(detector, images, known, crops=12, seed=3)
    assert again.model_copy(update={"created": result.created}) == result
    other = measure_placement(detector, images, known, crops=12, seed=4)
    assert other.places != result.places
    assert changed(before, detector) == set()
    assert (result.images, result.known) == (images.digest, known.digest)
    assert result.card_digest == detector.card.digest


def test_ranks_against_scipy() -> None:
    values = [3.0, 1.0, 3.0, -2.0, 0.0]
    assert ranks_of(values, "lower") == rankdata(values).tolist()
    assert ranks_of(values, "higher") == rankdata([-v for v in values]).tolist()
    assert ranks_of([None, 2.0, None, 5.0], "higher") == [None, 2.0, None, 1.0]
    assert ranks_of([None], "higher") == [None]


def test_of_equals_the_place_nearest_to_the_input_is_chosen(result: Placement) -> None:
    made = result.model_copy(update={"places": with_ranks(3.0, None, 1.5, 1.5)})
    assert made.choice("gradient") == "body.2"
    with pytest.raises(DataError, match="not defined at any place"):
        result.model_copy(update={"places": with_ranks(None, None)}).choice("gradient")
    with pytest.raises(DataError, match="Unknown predictor 'gradeint'. Did you mean 'gradient'"):
        result.choice("gradeint")


def test_what_cannot_be_asked_is_refused(detector: Detector, tiny_manifest: Manifest) -> None:
    train = tiny_manifest.select(split="train")
    with pytest.raises(ConfigError, match="mmd needs images that the detector knows"):
        measure_placement(detector, train, predictors=["probe", "mmd"])
    with pytest.raises(ConfigError, match="Unknown predictor 'prob'. Did you mean 'probe'"):
        measure_placement(detector, train, predictors=["prob"])
    with pytest.raises(ConfigError, match="`crops` must be 2 or more"):
        measure_placement(detector, train, crops=1)


def test_results_are_read_back_and_never_overwritten(result: Placement, tmp_path: Path) -> None:
    first, second = (write_placement(tmp_path, result) for _ in "ab")
    assert first != second
    for path in (first, second):
        assert Placement.model_validate_json(path.read_text()) == result


def words_of(svg: str) -> tuple[list[str], str]:
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own text
    space = "{http://www.w3.org/2000/svg}"
    (description,) = (e.text or "" for e in root.iter(f"{space}desc"))
    return [e.text or "" for e in root.iter(f"{space}text")], description


def test_the_figure_shows_every_place_and_repeats_itself(result: Placement) -> None:
    svg = placement_map(result)
    assert svg == placement_map(result)
    words, description = words_of(svg)
    for row in result.places:
        assert f"{row.stage} ({row.channels})" in words
        for name, found in row.predictions.items():
            assert name in words
            assert f"{found.value:.3g}" in words
    for name in PREDICTORS:
        assert f"{name}: {result.choice(name)}" in description


def test_the_figure_says_what_is_not_defined(result: Placement) -> None:
    bare = result.model_copy(update={"places": with_ranks(None)})
    words, description = words_of(placement_map(bare))
    assert "–" in words
    assert "gradient: not defined" in description


def test_the_figure_shows_what_a_sweep_measured() -> None:
    ranks = {"gradient": (2, 1, 3)}
    made = placement(((0.1, 0.3), (0.25, None), (None, None)), ranks)
    svg = placement_map(made)
    words, description = words_of(svg)
    assert {"learned: t", "known: s", "body.0 (3)", "gradient"} <= set(words)
    assert "Measured gains in AUC on t are body.0 +0.200, body.1 +0.250." in description
    others, _ = words_of(placement_map(placement(((0.1,), (0.2,)), ranks, source=())))
    assert "other domains" in others
    # a seed that measures something else is seen
    assert placement_map(placement(((0.2, 0.2), (0.25, None), (None, None)), ranks)) != svg
    plain = placement_map(made.model_copy(update={"sweep": None}))
    assert "learned: t" not in words_of(plain)[0]


# ----------------------------------------------------------------------------------- command


@pytest.fixture(scope="module")
def folders(
    detector: Detector, tiny_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("command")
    detector.save(folder / "tiny")
    tiny_manifest.write(folder / "manifest.parquet")
    return str(folder / "tiny"), str(folder / "manifest.parquet")


def test_the_command_prints_and_writes_what_python_gives(
    folders: tuple[str, str],
    tmp_path: Path,
    result: Placement,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--seen", "two", "--source", "one", "--images", "12", "--seed", "3"]
    assert main(["place", *folders, *options, "-o", str(tmp_path), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert Placement.model_validate(value).places == result.places
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text()) == value
    assert file.with_suffix(".svg").read_text().startswith("<svg")


def test_without_a_source_all_domains_are_new(
    folders: tuple[str, str], tiny_manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    train = tiny_manifest.select(split="train")
    assert main(["place", *folders, "--images", "4", "--json"]) == 0
    value = Placement.model_validate_json(capsys.readouterr().out)
    assert (value.images, value.known) == (train.digest, None)
    assert "mmd" not in value.predictors
    assert main(["place", *folders, "--images", "4", "--json", "--source", "one"]) == 0
    value = Placement.model_validate_json(capsys.readouterr().out)
    assert value.images == train.select(domain="two").digest


def test_people_get_a_table_of_places(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["place", *folders, "--seen", "two", "--images", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [name for name in PREDICTORS if name != "mmd"]
    assert lines[0].split() == ["place", "channels", *names]
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["body.0", "4"],
        ["body.1", "6"],
        ["body.2", "5"],
    ]
    assert sum(line.count("(1)") for line in lines[1:4]) >= len(names) - 1
    assert any(line.startswith("nsr: ") and "lower is better" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seen", "ones"], "--seen: Unknown domain 'ones'. Did you mean 'one'?"),
        (["--source", "ones"], "--source: Unknown domain 'ones'"),
        (["--seen", "one", "two", "--source", "two"], "two is in both"),
        (["--source", "one", "two"], "none is left to learn"),
        (["--images", "1"], "--images must be 2 or more"),
        (["-o", __file__], "is a file"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    folders: tuple[str, str],
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["place", *folders, *words]) == 2
    (error,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("error:"))
    assert said in error
