"""Losses on logits against plain numpy written from the papers' formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lydite.training.objectives import (
    UNLABELED,
    decoupled_loss,
    labeled_cross_entropy,
    matched_loss,
    soft_target_loss,
    soft_targets,
)

Floats = NDArray[np.float64]


def softmax(z: Floats) -> Floats:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(q: Floats, p: Floats) -> Floats:
    return np.where(q > 0, q * np.log(q / p), 0).sum(-1)


def draw(classes: int, seed: int = 0, n: int = 6) -> tuple[Floats, Floats, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(0, 2, (n, classes)),
        rng.normal(0, 3, (n, classes)),
        rng.integers(0, classes, n),
    )


def dkd_reference(
    student: Floats, teacher: Floats, target: NDArray[np.int64], t: float, alpha: float, beta: float
) -> float:
    """Zhao et al. 2022, equations 3 to 7, image by image."""
    total = 0.0
    for s, w, y in zip(student, teacher, target, strict=True):
        p, q = softmax(s / t), softmax(w / t)
        b_p, b_q = np.array([p[y], 1 - p[y]]), np.array([q[y], 1 - q[y]])
        others = np.delete(np.arange(len(s)), y)
        p_hat, q_hat = softmax(s[others] / t), softmax(w[others] / t)
        total += alpha * kl(b_q, b_p) + beta * kl(q_hat, p_hat)
    return total / len(student) * t * t


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_decoupled_against_the_papers_formula(classes: int, temperature: float) -> None:
    student, teacher, target = draw(classes)
    soft = soft_targets([torch.tensor(teacher)], temperature)
    got = decoupled_loss(
        torch.tensor(student), soft, torch.tensor(target), temperature, alpha=1.5, beta=8.0
    )
    wanted = dkd_reference(student, teacher, target, temperature, 1.5, 8.0)
    assert float(got) == pytest.approx(wanted, rel=1e-9)


def test_decoupled_with_two_classes_is_the_ordinary_loss() -> None:
    student, teacher, target = (torch.tensor(x) for x in draw(2, seed=3))
    soft = soft_targets([teacher], 2.0)
    got = decoupled_loss(student, soft, target, 2.0, alpha=1.0, beta=1e3)
    assert float(got) == pytest.approx(float(matched_loss(student, soft, 2.0)), rel=1e-9)


def test_decoupled_parts_add_up_to_the_divergence() -> None:
    """Equation 6: KL = TCKD + (1 - p of the target) NCKD, for one image and K = 5."""
    student, teacher, target = (torch.tensor(x) for x in draw(5, seed=4, n=1))
    soft = soft_targets([teacher], 1.0)
    rest = 1 - float(soft[0, target[0]].exp())
    got = decoupled_loss(student, soft, target, 1.0, alpha=1.0, beta=rest)
    assert float(got) == pytest.approx(float(matched_loss(student, soft, 1.0)), rel=1e-9)


def test_decoupled_takes_the_teachers_class_where_none_is_known() -> None:
    student, teacher, target = draw(5, seed=5)
    blank = target.copy()
    blank[::2] = UNLABELED
    filled = np.where(blank == UNLABELED, teacher.argmax(1), target)
    soft = soft_targets([torch.tensor(teacher)], 3.0)
    got = decoupled_loss(torch.tensor(student), soft, torch.tensor(blank), 3.0, 1.0, 8.0)
    assert float(got) == pytest.approx(dkd_reference(student, teacher, filled, 3.0, 1.0, 8.0))


def test_decoupled_stays_finite_where_a_class_is_certain() -> None:
    student = torch.tensor([[200.0, -200.0]], requires_grad=True)
    soft = soft_targets([torch.tensor([[-300.0, 300.0]])], 1.0)
    loss = decoupled_loss(student, soft, torch.tensor([0]), 1.0, 1.0, 8.0)
    loss.backward()
    assert loss.item() == pytest.approx(400.0)
    assert student.grad is not None
    assert bool(torch.isfinite(student.grad).all())


def test_teachers_probabilities_are_averaged() -> None:
    one, other, third = (draw(5, seed)[1] for seed in (1, 2, 3))
    wanted = np.mean([softmax(z / 4) for z in (one, other, third)], axis=0)
    got = soft_targets([torch.tensor(z) for z in (one, other, third)], 4.0).exp()
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-12)


def test_one_teacher_is_its_own_mean_to_the_bit() -> None:
    logits = torch.randn(7, 2)
    assert torch.equal(soft_targets([logits], 4.0), torch.log_softmax(logits / 4.0, dim=1))


def test_soft_targets_against_numpy() -> None:
    student, teacher, _ = draw(2)
    wanted = kl(softmax(teacher / 4), softmax(student / 4)).mean() * 16
    got = soft_target_loss(torch.tensor(student), torch.tensor(teacher), 4.0)
    assert float(got) == pytest.approx(wanted, rel=1e-9)


def test_cross_entropy_is_the_mean_over_labels_however_a_batch_is_cut() -> None:
    logits = torch.tensor(draw(2)[0])
    targets = torch.tensor([0, 1, 1, 0, UNLABELED, UNLABELED])
    wanted = -np.log(softmax(logits.numpy())[np.arange(4), targets[:4]]).mean()
    whole = labeled_cross_entropy(logits, targets, 4 / 6)
    assert float(whole) == pytest.approx(wanted, rel=1e-9)
    parts = zip(logits.chunk(3), targets.chunk(3), strict=True)
    total = sum(float(labeled_cross_entropy(a, b, 4 / 6)) * len(b) / 6 for a, b in parts)
    assert total == pytest.approx(wanted, rel=1e-9)
