"""Sensitivity: every group pruned alone, against pruning it by hand; its figure and command."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from lydite.card import Architecture, Preprocess, Quantization
from lydite.cli import main
from lydite.compress.channels import group_scores, top_channels
from lydite.compress.sensitivity import choose_images, measure_sensitivity
from lydite.compress.sensitivity_result import Sensitivity, write_sensitivity
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import ConfigError, DataError
from lydite.evaluate.score import score_detector
from lydite.models.surgery import keep_channels_
from lydite.report.sensitivity import sensitivity_map

TINY = Architecture(network="lydite-small", input_size=32, config={"widths": [4, 6]})


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.start(TINY, Preprocess(size=32, tiles=2), seed=1)


@pytest.fixture(scope="module")
def val(tiny_manifest: Manifest) -> Manifest:
    return tiny_manifest.select(split="val")


@pytest.fixture(scope="module")
def result(detector: Detector, val: Manifest) -> Sensitivity:
    return measure_sensitivity(detector, val, shares=(0.5, 0.9))


def test_each_point_is_the_detector_with_that_group_cut(
    detector: Detector, val: Manifest, result: Sensitivity
) -> None:
    sizes = {g.name: g.size for g in detector.network.groups()}
    assert [(p.group, p.share) for p in result.points] == [
        (n, s) for n in sizes for s in (0.5, 0.9)
    ]
    scores = group_scores(detector.network, "l1", 0)
    for point in result.points:
        assert point.kept == max(1, sizes[point.group] - round(point.share * sizes[point.group]))
        network = copy.deepcopy(detector.network)
        keep_channels_(network, point.group, top_channels(scores[point.group], point.kept))
        table = score_detector(detector.evolve(network=network), val)
        z, y = table["z"].to_numpy(), table["target"].to_numpy()
        assert point.measures.auc == pytest.approx(roc_auc_score(y, z))
        assert point.measures.accuracy == pytest.approx(((z > 0) == y).mean())
        assert point.measures.loss == pytest.approx(log_loss(y, 1 / (1 + np.exp(-z))))
        assert point.parameters == sum(p.numel() for p in network.parameters())


def test_drops_are_losses(result: Sensitivity) -> None:
    point, whole = result.points[0], result.whole
    assert None not in (whole.auc, whole.loss, point.measures.auc, point.measures.loss)
    assert result.drop(point, "auc") == whole.auc - point.measures.auc  # type: ignore[operator]
    assert result.drop(point, "loss") == point.measures.loss - whole.loss  # type: ignore[operator]
    undefined = point.model_copy(
        update={"measures": point.measures.model_copy(update={"auc": None})}
    )
    assert result.drop(undefined, "auc") is None


def test_a_dead_group_costs_nothing_and_the_parent_stays(val: Manifest) -> None:
    detector = Detector.start(TINY, Preprocess(size=32, tiles=1), seed=1)
    with torch.no_grad():
        detector.network.get_parameter("body.0.blocks.0.conv2.weight").zero_()
    before = {k: v.clone() for k, v in detector.network.state_dict().items()}
    result = measure_sensitivity(detector, val, shares=(0.75,))
    costs = {p.group: abs(result.drop(p, "loss") or 0) for p in result.points}
    assert costs["body.0.blocks.0"] < 1e-6
    assert costs["body.1"] > 1e-4
    assert all(torch.equal(v, before[k]) for k, v in detector.network.state_dict().items())


def test_equal_counts_are_measured_once(
    detector: Detector, val: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lydite.compress import sensitivity

    calls = []

    def counted(*args: Any, **more: Any) -> Any:
        calls.append(1)
        return score_detector(*args, **more)

    monkeypatch.setattr(sensitivity, "score_detector", counted)
    result = measure_sensitivity(detector, val, shares=(0.9, 0.95))
    assert len(calls) == 1 + 4  # all groups keep one channel at both shares
    assert [p.share for p in result.points] == [0.9, 0.95] * 4


@pytest.mark.parametrize("score", ["fisher", "domains"])
def test_scores_from_images_need_training_images(
    detector: Detector, val: Manifest, tiny_manifest: Manifest, score: Any
) -> None:
    with pytest.raises(DataError, match="made of training images, and there are none"):
        measure_sensitivity(detector, val, score=score)
    train = tiny_manifest.select(split="train")
    found = measure_sensitivity(detector, val, score=score, shares=(0.5,), train=train, crops=16)
    assert found.score == score
    assert len(found.points) == 4


@pytest.mark.parametrize("shares", [(), (0.5, 1.0), (0.0,)])
def test_shares_are_fractions(detector: Detector, val: Manifest, shares: Any) -> None:
    with pytest.raises(ConfigError, match=r"`shares` must be in \(0, 1\)"):
        measure_sensitivity(detector, val, shares=shares)


def test_quantized_detectors_are_refused(detector: Detector, val: Manifest) -> None:
    quantized = detector.evolve(quantization=Quantization(scheme="linear-int8"))
    with pytest.raises(ConfigError, match="is quantized.*float detector"):
        measure_sensitivity(quantized, val)


def test_chosen_images_are_balanced_and_follow_the_seed(tiny_manifest: Manifest) -> None:
    one, again, other = (choose_images(tiny_manifest, 10, seed) for seed in (0, 0, 1))
    assert one.column("path") == again.column("path") != other.column("path")
    assert one.targets.sum() == 5
    backwards = Manifest(tiny_manifest.table.take(list(range(len(tiny_manifest)))[::-1]), one.root)
    assert choose_images(backwards, 10, 0).digest == one.digest
    with pytest.raises(DataError, match="Got 44 real and 0 fake"):
        choose_images(tiny_manifest.select(label="real"), 10, 0)


def test_results_are_read_back_and_never_overwritten(result: Sensitivity, tmp_path: Path) -> None:
    first, second = (write_sensitivity(tmp_path, result) for _ in "ab")
    assert first != second
    for path in (first, second):
        assert Sensitivity.model_validate_json(path.read_text()) == result


def test_the_figure_shows_every_drop_and_repeats_itself(result: Sensitivity) -> None:
    svg = sensitivity_map(result)
    assert svg == sensitivity_map(result)
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own text
    words = [e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}text")]
    for point in result.points:
        assert f"{point.group} ({point.size})" in words
        drop = result.drop(point, "auc")
        assert drop is not None
        assert f"{round(drop, 3) + 0.0:.3f}" in words
    assert {"50%", "90%"} <= set(words)
    (worst,) = (e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}desc"))
    assert f"{max(result.drop(p, 'auc') or 0 for p in result.points):.3f}" in worst


# ----------------------------------------------------------------------------------- command


@pytest.fixture(scope="module")
def folders(
    detector: Detector, tiny_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("command")
    detector.save(folder / "tiny")
    tiny_manifest.write(folder / "manifest.parquet")
    return str(folder / "tiny"), str(folder / "manifest.parquet")


def test_the_command_prints_and_writes_the_same(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "sensitivity",
        *folders,
        "--images",
        "8",
        "--shares",
        "0.5",
        "0.9",
        "-o",
        str(tmp_path),
    ]
    assert main([*words, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["n"], value["unreadable"], len(value["points"])) == (8, 0, 8)
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text()) == value
    assert file.with_suffix(".svg").read_text().startswith("<svg")


def test_domains_can_be_chosen(
    folders: tuple[str, str], tiny_manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sensitivity", *folders, "--shares", "0.5", "--json", "--seen", "one"]
    assert main(words) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["n"] == len(tiny_manifest.select(split="val", domain="one"))


def test_people_get_a_table_of_drops(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sensitivity", *folders, "--images", "8", "--score", "taylor"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["group", "channels", "-25%", "-50%", "-75%", "-90%"]
    assert [line.split()[:2] for line in lines[1:3]] == [["body.0", "4"], ["body.0.blocks.0", "4"]]
    assert "ranked by taylor, on 8 images" in lines[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "tset"], "--split must be one of"),
        (["--score", "talyor"], "Unknown score 'talyor'. Did you mean 'taylor'?"),
        (["--seen", "ones"], "Unknown domain 'ones'. Did you mean 'one'?"),
        (["--images", "1"], "--images must be 2 or more"),
        (["--shares", "90"], "`shares` must be in (0, 1). Got 90"),
        (["-o", __file__], "is a file"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    folders: tuple[str, str],
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["sensitivity", *folders, *words]) == 2
    (error,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("error:"))
    assert said in error
