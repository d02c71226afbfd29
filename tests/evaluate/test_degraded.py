"""What degradations cost: figures by hand, the same as `summarize`'s, pairing and failures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lydite.card import Architecture, Figure, Preprocess, ScoreMeaning
from lydite.data.images import ImageStore
from lydite.data.manifest import from_columns
from lydite.detector import Detector
from lydite.errors import ConfigError, DataError
from lydite.evaluate.degrade import degrade
from lydite.evaluate.degraded import (
    degradations_of,
    of_degradation,
    score_degraded,
    summarize_degraded,
)
from lydite.evaluate.score import SCORES_SCHEMA, rescale, score_detector
from lydite.evaluate.summary import summarize
from lydite.evaluate.unseen import Roles
from lydite.files import sha256_file

PLAIN = ScoreMeaning()


def table(
    z: list[float | None], targets: list[int], domains: list[str], name: str = "none"
) -> pa.Table:
    """Return scores of images named by their place."""
    rows = [
        {
            "key": "k", "detector": "d", "runtime": "torch", "degradation": name,
            "path": f"{place}.png", "sha256": f"{place:064x}", "label": ("real", "fake")[target],
            "target": target, "generator": "g", "domain": domain, "split": "test",
            "group": str(place // 2), "z": score, "p_fake": None, "error": None,
        }
        for place, (score, target, domain) in enumerate(zip(z, targets, domains, strict=True))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)


def of(figures: tuple[Figure, ...], metric: str, **where: str) -> Figure:
    gains = {"against": "clean"} if metric.endswith("_gain") or metric == "flipped" else {}
    wanted = {"split": "test", "degradation": "jpeg-75"} | where | gains
    (found,) = [f for f in figures if f.metric == metric and f.slice == wanted]
    return found


def test_losses_by_hand() -> None:
    targets, domains = [0, 0, 1, 1] * 2, ["a"] * 4 + ["b"] * 4
    clean = table([-2, -1, 1, 2, -2, 1, 1, 2], targets, domains)  # all right on a, 3 of 4 on b
    worn = table([-2, 1, -1, 2, -2, -1, 1, 2], targets, domains, "jpeg-75")  # two lost, one mended
    figures = summarize_degraded(pa.concat_tables([clean, worn]), PLAIN, roles=Roles(["a"]))
    for where in ({"group": "seen"}, {"domain": "a"}):
        assert of(figures, "accuracy", **where).value == 0.5
        assert of(figures, "accuracy_gain", **where).value == -0.5
        assert of(figures, "auc", **where).value == 0.75  # one of four pairs is in wrong order
        assert of(figures, "auc_gain", **where).value == -0.25
        assert of(figures, "flipped", **where).value == 0.5
        assert of(figures, "false_alarm_rate", **where).value == 0.5  # one of two photographs
        assert of(figures, "false_alarm_gain", **where).value == 0.5
        assert of(figures, "recall", **where).value == 0.5
        assert of(figures, "recall_gain", **where).value == -0.5
    for where in ({"group": "unseen-mean"}, {"domain": "b"}):
        assert of(figures, "accuracy", **where).value == 1
        assert of(figures, "accuracy_gain", **where).value == 0.25
        assert of(figures, "auc_gain", **where).value == 0.125  # a tie is half a pair
        assert of(figures, "false_alarm_gain", **where).value == -0.5
        assert of(figures, "recall_gain", **where).value == 0
    assert {f.n for f in figures} == {4}
    assert degradations_of(figures) == ["jpeg-75"]


def made(seed: int, apart: float, name: str) -> pa.Table:
    rng = np.random.default_rng(seed)
    targets = [0, 1] * 60
    domains = ["a"] * 40 + ["b"] * 40 + ["c"] * 40
    z = rng.normal(np.array(targets) * apart - apart / 2, 1.0)
    return table(z.tolist(), targets, domains, name)


def test_figures_of_the_degraded_images_are_those_of_summarize() -> None:
    clean, worn = made(1, 3.0, "none"), made(2, 1.0, "jpeg-75")
    found = summarize_degraded(
        pa.concat_tables([worn, clean]), PLAIN, roles=Roles(["a"], ["b"]), n_boot=50
    )
    at = worn.schema.get_field_index("degradation")
    alone = worn.set_column(at, worn.schema.field(at), pa.array(["none"] * worn.num_rows))
    alone = alone.sort_by([("sha256", "ascending")])
    expected = summarize(alone, PLAIN, roles=Roles(["a"], ["b"]), n_boot=50)
    compared = 0
    for figure in expected:
        wanted = ("accuracy", "balanced_accuracy", "auc", "recall", "unreadable")
        if "generator" in figure.slice or figure.metric not in wanted:
            continue
        where = {k: v for k, v in figure.slice.items() if k != "split"}
        same = of(found, figure.metric, **where)
        assert same.value == pytest.approx(figure.value)
        if figure.metric != "unreadable":
            assert (same.low, same.high) == pytest.approx((figure.low, figure.high))
        assert same.n == figure.n
        compared += 1
    assert compared == 5 * 6  # metrics by slices
    assert not [f for f in expected if "degradation" in f.slice]


def test_fakes_of_a_held_out_generator_are_unseen_as_they_are_in_clean_figures() -> None:
    rows = made(1, 1.5, "none").to_pylist()
    for place, row in enumerate(rows):
        row["generator"] = ("camera", "AB"[place // 2 % 2])[row["target"]]
    roles = Roles(["a"], ["b"], ["B"])

    def figures(gone: str | None = None) -> tuple[tuple[Figure, ...], tuple[Figure, ...]]:
        for row in rows:
            if row["domain"] == "a" and row["generator"] == gone:
                row |= {"z": None, "error": "truncated"}
        clean = pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)
        at = clean.schema.get_field_index("degradation")
        field = clean.schema.field(at)
        worn = clean.set_column(at, field, pa.array(["jpeg-75"] * len(rows)))
        both = pa.concat_tables([clean, worn])
        return (
            summarize(clean, PLAIN, roles=roles, n_boot=50),
            summarize_degraded(both, PLAIN, roles=roles, n_boot=50),
        )

    expected, found = figures()
    sizes = {}
    for figure in expected:
        wanted = ("accuracy", "balanced_accuracy", "auc", "recall", "unreadable")
        if "group" in figure.slice and figure.metric in wanted:
            same = of(found, figure.metric, group=figure.slice["group"])
            assert same.value == pytest.approx(figure.value)
            assert same.n == figure.n
            if figure.low is not None:
                assert (same.low, same.high) == pytest.approx((figure.low, figure.high))
            sizes[figure.slice["group"]] = figure.n
    assert sizes == {"seen": 30, "source": 30, "unseen-mean": 70}  # 10 reals count on both sides
    expected, found = figures(gone="B")
    assert of(found, "auc", group="unseen-mean").value is None
    assert of(found, "unreadable", group="unseen-mean").value == 10
    assert of(found, "unreadable", group="seen").value == 0


def test_pairs_make_the_interval_of_a_loss_narrow() -> None:
    clean = made(1, 2.0, "none")
    z = np.array(clean["z"].to_pylist()) + np.random.default_rng(5).normal(0, 0.05, clean.num_rows)
    worn = made(1, 2.0, "jpeg-75").drop(["z"])
    index = clean.schema.get_field_index("z")
    worn = worn.add_column(index, clean.schema.field("z"), pa.array(z))
    figures = summarize_degraded(pa.concat_tables([clean, worn]), PLAIN, roles=Roles(["a"]))
    gain, alone = (of(figures, name, group="seen") for name in ("auc_gain", "auc"))
    assert gain.high - gain.low < (alone.high - alone.low) / 4
    assert gain.low <= gain.value <= gain.high


def test_images_without_a_score_are_left_out_of_both_and_counted() -> None:
    targets, domains = [0, 0, 1, 1], ["a"] * 4
    clean = table([1, -1, 1, None], targets, domains)
    worn = table([None, -1, 1, 1], targets, domains, "jpeg-75")
    figures = summarize_degraded(pa.concat_tables([clean, worn]), PLAIN, roles=Roles(["a"]))
    gain = of(figures, "accuracy_gain", group="seen")
    assert (gain.value, gain.n) == (0, 2)  # the first, wrong while clean, is no gain
    lost = of(figures, "unreadable", group="seen")
    assert (lost.value, lost.n) == (1, 4)
    gone = table([None] * 4, targets, domains, "jpeg-75")
    figures = summarize_degraded(pa.concat_tables([clean, gone]), PLAIN, roles=Roles(["a"]))
    assert of(figures, "accuracy", group="seen").value is None
    assert of(figures, "unreadable", group="seen").value == 4


def test_what_is_no_pair_is_refused() -> None:
    clean = table([1, 2], [0, 1], ["a", "a"])
    worn = table([1, 2, 3], [0, 1, 1], ["a"] * 3, "jpeg-75")
    with pytest.raises(DataError, match="Other images were scored after jpeg-75"):
        summarize_degraded(pa.concat_tables([clean, worn]), PLAIN, roles=Roles(["a"]))
    with pytest.raises(DataError, match="degraded images too .jpeg-75."):
        summarize(worn, PLAIN, roles=Roles(["a"]))
    with pytest.raises(DataError, match="no scores of the split 'val'"):
        summarize_degraded(clean, PLAIN, roles=Roles(["a"]), split="val")
    assert summarize_degraded(clean, PLAIN, roles=Roles(["a"])) == ()


def test_scoring_degrades_whole_images_before_preprocessing(tmp_path: Path) -> None:
    start = Architecture(network="lydite-small", input_size=32)
    detector = Detector.start(start, Preprocess(size=32, min_side=32), seed=1)
    rng = np.random.default_rng(0)
    sides = [32, 80, 64]
    columns: dict[str, list[object]] = {}
    for place, side in enumerate(sides):
        pixels = rng.integers(0, 256, (side, side + 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{place}.png")
        key = sha256_file(tmp_path / f"{place}.png")
        if side > 32:  # the same, degraded by hand
            by_hand = degrade(pixels, "resize-0.5+noise-5", key)
            Image.fromarray(by_hand).save(tmp_path / f"{place}-worn.png")
        row = {
            "path": f"{place}.png", "sha256": key, "label": ("real", "fake")[place % 2],
            "generator": "g", "domain": "a", "split": "test", "group": str(place), "bytes": 1,
        }  # fmt: skip
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    manifest = from_columns(columns, tmp_path)
    worn = [f"{place}-worn.png" for place in (1, 2)]
    picked = {name: values[1:] for name, values in columns.items()} | {"path": worn}
    picked["sha256"] = [sha256_file(tmp_path / name) for name in worn]
    expected = score_detector(detector, from_columns(picked, tmp_path))["z"].to_pylist()

    scores = score_degraded(detector, manifest, ["resize-0.50+noise-5", "none"])
    assert scores["degradation"].unique().to_pylist() == ["none", "resize-0.5+noise-5"]
    found = of_degradation(scores, "resize-0.5+noise-5")
    assert found["z"].to_pylist() == [None, *map(pytest.approx, expected)]
    assert found["error"].to_pylist() == ["too-small", None, None]
    assert of_degradation(scores, "none").equals(score_detector(detector, manifest))
    store = ImageStore()
    score_degraded(detector, manifest, [], images=store)
    assert len(store) == 3
    for place in range(3):  # decoded once: the files are not needed any more
        (tmp_path / f"{place}.png").unlink()
    kept = score_degraded(detector, manifest, ["resize-0.5+noise-5"], images=store)
    assert kept.equals(scores)
    assert rescale(found, PLAIN)["p_fake"].null_count == 1
    with pytest.raises(ConfigError, match="Did you mean"):
        score_detector(detector, manifest, degradation="resise-0.5")
