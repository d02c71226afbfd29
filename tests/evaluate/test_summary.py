"""Figures out of scores: the exact slices, the pairs of generators, failures, the unseen mean."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from lydite.card import ConformalBand, Figure, ScoreMeaning
from lydite.errors import DataError
from lydite.evaluate.score import SCORES_SCHEMA
from lydite.evaluate.summary import METRICS, summarize
from lydite.evaluate.unseen import Roles
from lydite.evaluate.verdicts import VERDICTS


def table(
    count: int = 40, domains: tuple[str, ...] = ("a", "b", "c"), split: str = "test", seed: int = 0
) -> pa.Table:
    """Return scores of `count` reals and fakes a domain; fakes are of two generators."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, domain in enumerate(domains):
        for target in (0, 1):
            for image in range(count):
                z = float(rng.normal(target * (2.0 - 0.7 * number), 1.0))
                rows.append(
                    {
                        "key": "k",
                        "detector": "d",
                        "runtime": "torch",
                        "degradation": "none",
                        "path": f"{domain}{target}{image}",
                        "sha256": "0" * 64,
                        "label": ("real", "fake")[target],
                        "target": target,
                        "generator": f"g{image % 2}" if target else "camera",
                        "domain": domain,
                        "split": split,
                        "group": f"{domain}{target}{image}",
                        "z": z,
                        "p_fake": float(1 / (1 + np.exp(-(z - 1)))),
                        "error": None,
                    }
                )
    return pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)


def found(figures: tuple[Figure, ...], metric: str, **where: str) -> Figure:
    (figure,) = [f for f in figures if f.metric == metric and f.slice == where]
    return figure


def columns(scores: pa.Table, *names: str) -> list[np.ndarray]:
    return [np.array(scores[name].to_pylist()) for name in names]


def failed(scores: pa.Table, rows: list[int]) -> pa.Table:
    values = scores.to_pylist()
    for row in rows:
        values[row] |= {"z": None, "p_fake": None, "error": "truncated"}
    return pa.Table.from_pylist(values, schema=SCORES_SCHEMA)


def test_slices_are_exactly_these() -> None:
    figures = summarize(table(), roles=Roles(["a"]), n_boot=20)
    slices = {tuple(sorted(figure.slice.items())) for figure in figures}
    pairs = [(d, g) for d in "abc" for g in ("g0", "g1")]
    assert slices == (
        {(("domain", d), ("split", "test")) for d in "abc"}
        | {(("domain", d), ("generator", g), ("split", "test")) for d, g in pairs}
        | {(("group", "seen"), ("split", "test")), (("group", "unseen-mean"), ("split", "test"))}
    )
    assert {f.metric for f in figures} == {*METRICS, "unreadable"} - VERDICTS.keys()
    assert len({(f.metric, tuple(f.slice.items())) for f in figures}) == len(figures)


def test_values_equal_scikit_learn() -> None:
    scores = table()
    figures = summarize(scores, roles=Roles(["a"]), n_boot=50)
    z, p, targets, domain, generator = columns(
        scores, "z", "p_fake", "target", "domain", "generator"
    )
    here = domain == "b"
    auc = found(figures, "auc", domain="b", split="test")
    assert auc.value == pytest.approx(roc_auc_score(targets[here], z[here]))
    assert auc.n == 80
    assert auc.low < auc.value < auc.high
    pair = here & ((targets == 0) | (generator == "g1"))
    one = found(figures, "auc", domain="b", generator="g1", split="test")
    assert one.value == pytest.approx(roc_auc_score(targets[pair], z[pair]))
    assert one.n == 60
    seen = found(figures, "balanced_accuracy", group="seen", split="test")
    a = domain == "a"
    assert seen.value == pytest.approx(balanced_accuracy_score(targets[a], p[a] > 0.5))


def test_unseen_mean_weighs_domains_equally_and_is_narrower_than_its_parts() -> None:
    scores = pa.concat_tables([table(40, ("a", "b")), table(10, ("c",), seed=1)])
    figures = summarize(scores, roles=Roles(["a"]), n_boot=300)
    parts = [found(figures, "auc", domain=d, split="test") for d in "bc"]
    mean = found(figures, "auc", group="unseen-mean", split="test")
    assert mean.value == pytest.approx((parts[0].value + parts[1].value) / 2)
    assert mean.n == 100
    assert mean.low < mean.value < mean.high
    assert mean.high - mean.low < max(part.high - part.low for part in parts)


def test_failures_are_left_out_and_counted() -> None:
    scores = failed(table(), [0, 1, 80])  # two of a, one of b
    figures = summarize(scores, roles=Roles(["a"]), n_boot=20)
    lost = found(figures, "unreadable", domain="a", split="test")
    assert (lost.value, lost.n) == (2.0, 80)
    assert found(figures, "accuracy", domain="a", split="test").n == 78
    assert found(figures, "unreadable", group="seen", split="test").value == 2.0
    assert found(figures, "unreadable", group="unseen-mean", split="test").value == 1.0
    assert found(figures, "unreadable", domain="c", split="test").value == 0.0


def test_a_source_is_a_group_of_its_own_and_not_unseen() -> None:
    scores = failed(table(), [0, 80, 81, 160])  # one of a, two of b, one of c
    figures = summarize(scores, roles=Roles(["a"], ["b"]), n_boot=50)
    plain = summarize(scores, roles=Roles(["a"]), n_boot=50)
    for metric in ("auc", "accuracy"):
        one = found(figures, metric, group="source", split="test")
        here = found(figures, metric, domain="b", split="test")
        assert (one.value, one.n) == (here.value, here.n)
        mean = found(figures, metric, group="unseen-mean", split="test")
        rest = found(figures, metric, domain="c", split="test")
        assert (mean.value, mean.n) == (rest.value, rest.n)
        assert mean.value != found(plain, metric, group="unseen-mean", split="test").value
    lost = [
        found(figures, "unreadable", group=group, split="test").value
        for group in ("seen", "source", "unseen-mean")
    ]
    assert lost == [1.0, 2.0, 1.0]
    others = [f for f in figures if f.slice.get("group") not in ("source", "unseen-mean")]
    assert others == [f for f in plain if f.slice.get("group") != "unseen-mean"]


def test_several_source_domains_are_taken_together_and_may_leave_nothing_unseen() -> None:
    figures = summarize(table(), roles=Roles(["a"], ["b", "c"]), n_boot=20)
    assert found(figures, "accuracy", group="source", split="test").n == 160
    assert not [f for f in figures if f.slice.get("group") == "unseen-mean"]


def test_a_domain_without_usable_images_leaves_the_mean_undefined() -> None:
    scores = failed(table(4), list(range(16, 24)))  # all of c
    figures = summarize(scores, roles=Roles(["a"]), n_boot=20)
    assert found(figures, "auc", domain="c", split="test").value is None
    assert found(figures, "auc", group="unseen-mean", split="test").value is None
    assert found(figures, "auc", domain="b", split="test").value is not None


def test_a_perfect_accuracy_has_an_interval_with_width() -> None:
    values = table(20, ("a",)).to_pylist()
    perfect = [row | {"z": 9.0 * row["target"], "p_fake": float(row["target"])} for row in values]
    figures = summarize(
        pa.Table.from_pylist(perfect, schema=SCORES_SCHEMA), roles=Roles(["a"]), n_boot=20
    )
    accuracy = found(figures, "accuracy", domain="a", split="test")
    assert accuracy.value == accuracy.high == 1.0
    assert accuracy.low == pytest.approx(0.9124, abs=1e-4)  # Wilson, 40 of 40


def test_another_meaning_moves_decisions_only() -> None:
    scores = table()
    strict = summarize(scores, ScoreMeaning(threshold=99.0), roles=Roles(["a"]), n_boot=20)
    own = summarize(scores, roles=Roles(["a"]), n_boot=20)
    where = {"domain": "a", "split": "test"}
    assert found(strict, "recall", **where).value == 0.0
    assert found(strict, "precision", **where).value is None
    assert found(strict, "auc", **where) == found(own, "auc", **where)


def test_verdicts_and_their_promise_are_measured_on_every_slice() -> None:
    scores = table()
    promise = ConformalBand(alpha=0.1, low=0.2, high=1.8, n_real=40, n_fake=30)
    meaning = ScoreMeaning(
        threshold=1.0, band=(0.3, 0.7), fitted_on="a" * 64, n=80, conformal=promise
    )
    figures = summarize(scores, meaning, roles=Roles(["a"]), n_boot=50)
    assert {f.metric for f in figures} == {*METRICS, "unreadable", "alpha"}
    alpha = found(figures, "alpha", split="test")
    assert (alpha.value, alpha.n) == (0.1, 30)
    z, targets, domain = columns(scores, "z", "target", "domain")
    p = 1 / (1 + np.exp(-(z - 1.0)))
    wrong = {}
    for name in "abc":
        here = (domain == name) & (targets == 0)
        wrong[name] = float(np.mean(p[here] > 0.7))
        figure = found(figures, "miscoverage_real", domain=name, split="test")
        assert figure.value == pytest.approx(wrong[name])
        assert figure.low <= figure.value <= figure.high
    mean = found(figures, "miscoverage_real", group="unseen-mean", split="test")
    assert mean.value == pytest.approx((wrong["b"] + wrong["c"]) / 2)
    decided = found(figures, "decided", group="seen", split="test")
    assert decided.value == pytest.approx(np.mean(np.abs(p[domain == "a"] - 0.5) > 0.2))
    slices = {tuple(f.slice.items()) for f in figures if f.metric == "auc"}
    for metric in ("ece", "decided_error", "miscoverage_fake"):
        assert {tuple(f.slice.items()) for f in figures if f.metric == metric} == slices


def test_a_band_without_a_promise_is_measured_and_one_that_was_never_fitted_is_not() -> None:
    fitted = ScoreMeaning(threshold=1.0, band=(0.3, 0.7), fitted_on="a" * 64, n=80)
    metrics = {f.metric for f in summarize(table(4), fitted, roles=Roles(["a"]), n_boot=20)}
    assert metrics == {*METRICS, "unreadable"}
    metrics = {f.metric for f in summarize(table(4), ScoreMeaning(), roles=Roles(["a"]), n_boot=20)}
    assert not metrics & {*VERDICTS, "alpha"}


def test_only_the_wanted_split_counts() -> None:
    both = pa.concat_tables([table(10, ("a",)), table(30, ("a",), split="val")])
    figures = summarize(both, roles=Roles(["a"]), split="val", n_boot=20)
    assert found(figures, "auc", domain="a", split="val").n == 60
    with pytest.raises(DataError, match="no scores of the split 'train'"):
        summarize(both, roles=Roles(["a"]), split="train")


def test_scores_of_two_detectors_are_refused() -> None:
    other = table(4).set_column(0, SCORES_SCHEMA.field("key"), pa.array(["x"] * 24))
    with pytest.raises(DataError, match="several detectors"):
        summarize(pa.concat_tables([table(4), other]), roles=Roles(["a"]))


def test_a_mean_without_one_error_is_not_certain_either() -> None:
    rows = table(domains="ab", count=20).to_pylist()
    for row in rows:
        row |= {"z": 50.0 * (2 * row["target"] - 1), "p_fake": float(row["target"])}
    figures = summarize(
        pa.Table.from_pylist(rows, schema=SCORES_SCHEMA), roles=Roles(["a"]), n_boot=50
    )
    alone = found(figures, "accuracy", domain="b", split="test")
    mean = found(figures, "accuracy", group="unseen-mean", split="test")
    assert alone.value == mean.value == 1.0
    assert mean.low == pytest.approx(alone.low) and 0.8 < mean.low < 1


def test_cats_and_dogs_are_no_domain_of_reals_and_fakes() -> None:
    rows = table(20, ("a", "pets")).to_pylist()
    for row in rows:
        if row["domain"] == "pets":
            row["label"] = {"real": "cat", "fake": "dog"}[row["label"]]
    both = pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)
    with pytest.raises(DataError, match="several tasks"):
        summarize(both, roles=Roles(["a"]), n_boot=10)
