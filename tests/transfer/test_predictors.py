"""Predictors of places: known matrices, formulas written out, and what each has to tell apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.linear_model import Ridge

from helpers.networks import picture
from helpers.transfer import trained
from lydite.card import Architecture
from lydite.edits import AddAdapter
from lydite.models.surgery import add_adapter_
from lydite.transfer.observe import Observed, place_gradients
from lydite.transfer.predictors import (
    PREDICTORS,
    RIDGE,
    effective_rank,
    first_step,
    fisher_trace,
    label_cka,
    noise_to_signal,
    probe_accuracy,
    squared_mmd,
)

RNG = np.random.default_rng(3)


# --------------------------------------------------------------------------------- gradients


def test_the_first_step_is_a_nuclear_norm_of_the_mean() -> None:
    gradients = np.stack([np.diag([3.0, -4.0]), np.diag([1.0, 0.0])]).astype(np.float32)
    assert first_step(gradients) == pytest.approx(2 + 2)
    turn, _ = np.linalg.qr(RNG.normal(size=(2, 2)))
    assert first_step(gradients @ turn) == pytest.approx(4)


def test_no_small_share_lowers_the_loss_further_than_the_first_step_says() -> None:
    architecture = Architecture(network="lydite-small", input_size=32, config={"widths": [4, 6]})
    network = trained(architecture).network.double().eval().requires_grad_(False)
    images, targets = picture(4, 32).double(), torch.tensor([0, 1, 0, 1])
    (gradients,) = place_gradients(network, ["body.0"], images, targets)[0].values()
    add_adapter_(network, AddAdapter(after="body.0", kind="linear", channels=4))
    network.double().requires_grad_(False)
    weight = network.adapters["body_0"].get_parameter("pointwise.weight")
    left, _, right = torch.linalg.svd(gradients.mean(0))

    def fall(direction: torch.Tensor, share: float = 1e-5) -> float:
        before = F.cross_entropy(network(images), targets)
        weight[:, :, 0, 0] -= share * direction
        after = F.cross_entropy(network(images), targets)
        weight[:, :, 0, 0] += share * direction
        return float(before - after) / share

    promised = first_step(gradients.numpy())
    assert fall(left @ right) == pytest.approx(promised, rel=1e-2)
    for _ in range(5):
        other, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
        assert fall(other) < promised


def test_effective_ranks_of_known_matrices() -> None:
    assert effective_rank(np.eye(5)) == pytest.approx(5)
    assert effective_rank(np.outer([1.0, 2, 3], [1.0, -1])) == pytest.approx(1, abs=1e-6)
    shares = np.array([3, 1]) / 4
    wanted = np.exp(-(shares * np.log(shares)).sum())
    wide = np.zeros((2, 7))
    wide[0, 3], wide[1, 0] = 3.0, -1.0
    assert effective_rank(wide) == pytest.approx(wanted)
    assert effective_rank(100 * wide.T) == pytest.approx(wanted)
    assert effective_rank(np.zeros((3, 4))) is None


def test_effective_rank_against_singular_values() -> None:
    rows = RNG.normal(size=(6, 20)) * np.arange(1, 7)[:, None]
    values = np.linalg.svd(rows, compute_uv=False)
    shares = values / values.sum()
    assert effective_rank(rows) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_fisher_and_noise_by_hand() -> None:
    gradients = np.array([[[1.0, 2], [0, 0]], [[3.0, 0], [0, 0]]])
    assert fisher_trace(gradients) == pytest.approx((1 + 4 + 9) / 8)
    # means 2 and 1; unbiased variances 2 and 2
    assert noise_to_signal(gradients) == pytest.approx((2 + 2) / (4 + 1))
    assert noise_to_signal(7 * gradients) == pytest.approx(4 / 5)
    assert noise_to_signal(gradients[[0, 0, 0]]) == 0
    assert noise_to_signal(np.stack([gradients[0], -gradients[0]])) is None
    assert noise_to_signal(gradients[:1]) is None


# -------------------------------------------------------------------------------------- maps


def test_mmd_written_out() -> None:
    x, y = RNG.normal(size=(5, 3)), RNG.normal(1, 2, size=(4, 3))
    points = np.concatenate([x, y])
    squares = [float(((a - b) ** 2).sum()) for i, a in enumerate(points) for b in points[i + 1 :]]

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / (2 * np.median(squares))))

    def within(z: np.ndarray) -> float:
        pairs = [kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]
        return sum(pairs) / len(pairs)

    across = np.mean([kernel(a, b) for a in x for b in y])
    assert squared_mmd(x, y) == pytest.approx(within(x) + within(y) - 2 * across)


def test_mmd_tells_a_shift_from_none() -> None:
    rng = np.random.default_rng(0)
    same = [squared_mmd(*rng.normal(size=(2, 60, 4))) or 0.0 for _ in range(30)]
    assert abs(np.mean(same)) < 2e-3  # a biased estimate would be near 2 / 60
    values = [
        squared_mmd(rng.normal(size=(60, 4)), rng.normal(size=(60, 4)) + by) or 0.0
        for by in (0.5, 1.0, 2.0)
    ]
    assert max(same) < values[0] < values[1] < values[2]


def test_mmd_of_too_little_is_not_defined() -> None:
    points = RNG.normal(size=(5, 2))
    assert squared_mmd(points[:1], points) is None
    assert squared_mmd(np.ones((4, 2)), np.ones((3, 2))) is None


def test_label_cka_against_gram_matrices() -> None:
    x, y = RNG.normal(size=(12, 5)), np.arange(12) % 2
    center = np.eye(12) - 1 / 12
    k = center @ x @ x.T @ center
    hot = np.eye(2)[y]
    for other in (hot, (2.0 * y - 1)[:, None]):
        m = center @ other @ other.T @ center
        wanted = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())
        assert label_cka(x, y) == pytest.approx(wanted)
    turn, _ = np.linalg.qr(RNG.normal(size=(5, 5)))
    assert label_cka(9 * x @ turn + 4, y) == pytest.approx(label_cka(x, y))


def test_label_cka_of_labels_is_one_and_of_nothing_undefined() -> None:
    y = np.array([0, 1, 1, 0, 1])
    assert label_cka(3.0 * y[:, None] + 2, y) == pytest.approx(1)
    assert label_cka(np.array([[1.0], [1], [-1], [-1]]), np.array([0, 1, 0, 1])) == pytest.approx(0)
    assert label_cka(np.ones((5, 2)), y) is None
    assert label_cka(np.eye(5), np.ones(5, dtype=np.int64)) is None


def test_a_probe_is_ridge_regression_on_held_out_groups() -> None:
    rng = np.random.default_rng(8)
    x, y = rng.normal(2, 3, size=(20, 3)), rng.integers(2, size=20)
    x[:, 0] += 2 * y
    groups = np.array([f"g{number // 2}" for number in range(20)])
    part = np.random.default_rng(0).permutation(10)[np.unique(groups, return_inverse=True)[1]] % 5
    right = 0
    for number in range(5):
        fit, held = part != number, part == number
        mean, spread = x[fit].mean(0), x[fit].std(0)
        model = Ridge(alpha=RIDGE * fit.sum()).fit((x[fit] - mean) / spread, 2 * y[fit] - 1)
        right += ((model.predict((x[held] - mean) / spread) > 0) == y[held]).sum()
    assert probe_accuracy(x, y, groups) == right / 20
    assert 0.5 < right / 20 < 1


def test_a_probe_cannot_learn_groups_by_heart() -> None:
    # every group has a feature of its own, and both its images have one label
    groups = np.repeat([f"g{number:02}" for number in range(20)], 2)
    names = np.unique(groups, return_inverse=True)[1]
    y = (names % 2).astype(np.int64)
    assert (probe_accuracy(np.eye(20)[names], y, groups) or 0) <= 0.5
    assert probe_accuracy(np.eye(20)[names] + 5 * y[:, None], y, groups) == 1
    assert probe_accuracy(np.eye(4), np.array([0, 1, 0, 1]), np.array(["a"] * 4)) is None


# ---------------------------------------------------------------------------------- registry


def observed(known: bool) -> Observed:
    rng = np.random.default_rng(1)
    return Observed(
        stage="body.0",
        gradients=rng.normal(size=(8, 3, 3)).astype(np.float32),
        maps=rng.normal(size=(8, 3)),
        targets=np.arange(8) % 2,
        groups=np.array(list("aabbccdd")),
        known=rng.normal(2, 1, size=(8, 3)) if known else None,
    )


@pytest.mark.parametrize("name", list(PREDICTORS))
def test_every_predictor_says_what_it_is_and_gives_a_number(name: str) -> None:
    predictor = PREDICTORS.get(name)
    assert predictor.meaning
    assert predictor.reference
    value = predictor.of(observed(known=True))
    assert isinstance(value, float)
    assert np.isfinite(value)
    # known images count where the registry says so, and nowhere else
    assert predictor.of(observed(known=False)) == (None if predictor.known else value)


def test_the_registry_calls_the_functions_it_names() -> None:
    seen = observed(known=True)
    assert seen.known is not None
    assert {name: PREDICTORS.get(name).of(seen) for name in PREDICTORS} == {
        "gradient": first_step(seen.gradients),
        "gradient-rank": effective_rank(seen.gradients.reshape(8, 9)),
        "fisher": fisher_trace(seen.gradients),
        "nsr": noise_to_signal(seen.gradients),
        "mmd": squared_mmd(seen.maps, seen.known),
        "label-cka": label_cka(seen.maps, seen.targets),
        "probe": probe_accuracy(seen.maps, seen.targets, seen.groups),
    }
    assert [n for n in PREDICTORS if PREDICTORS.get(n).better == "lower"] == ["nsr"]
