"""Losses on feature maps against numpy, and the pupil that holds student and regressor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lydite.card import Architecture
from lydite.models import Network, build
from lydite.training.hints import (
    Hint,
    Pupil,
    attention,
    attention_loss,
    coarser,
    feature_shape,
    hint_loss,
    look,
    patch_loss,
    scores_positions,
)

Floats = NDArray[np.float64]


def fresh(name: str, **config: object) -> Network:
    torch.manual_seed(0)
    return build(Architecture(network=name, config=config))


def halved(x: Floats) -> Floats:
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))


def draw(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=shape)


def attention_reference(x: Floats) -> Floats:
    q = (x**2).sum(1).reshape(len(x), -1)
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def test_attention_against_the_papers_formula() -> None:
    student, teacher = draw(3, 5, 4, 4), draw(3, 7, 4, 4, seed=1)
    wanted = ((attention_reference(student) - attention_reference(teacher)) ** 2).sum(1).mean()
    got = attention_loss(torch.tensor(student), torch.tensor(teacher))
    assert float(got) == pytest.approx(wanted, rel=1e-9)


def test_attention_of_a_finer_map_is_averaged() -> None:
    student, teacher = draw(2, 3, 8, 8), draw(2, 4, 4, 4, seed=1)
    q = halved((student**2).sum(1, keepdims=True)).reshape(2, -1)
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    wanted = ((q - attention_reference(teacher)) ** 2).sum(1).mean()
    for a, b in ((student, teacher), (teacher, student)):
        assert float(attention_loss(torch.tensor(a), torch.tensor(b))) == pytest.approx(wanted)


def test_attention_does_not_see_scale_and_survives_silence() -> None:
    x = torch.tensor(draw(2, 3, 4, 4))
    assert float(attention_loss(x, 5 * x)) == pytest.approx(0.0, abs=1e-12)
    silent = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention_loss(silent, x.float()).backward()
    assert silent.grad is not None
    assert bool(torch.isfinite(silent.grad).all())
    assert attention(silent, (2, 2)).shape == (2, 4)


def test_hint_is_the_mean_squared_difference_on_the_hints_grid() -> None:
    hint, teacher = draw(2, 6, 4, 4), draw(2, 6, 8, 8, seed=1)
    wanted = ((hint - halved(teacher)) ** 2).mean()
    assert float(hint_loss(torch.tensor(hint), torch.tensor(teacher))) == pytest.approx(wanted)


def test_patches_against_numpy() -> None:
    student, one, other = draw(2, 2, 4, 4), draw(2, 2, 4, 4, seed=1), draw(2, 2, 8, 8, seed=2)
    t, total = 3.0, 0.0
    coarse = halved(other)
    for n in range(2):
        for y in range(4):
            for x in range(4):
                p = np.exp(student[n, :, y, x] / t)
                teachers = [np.exp(z[n, :, y, x] / t) for z in (one, coarse)]
                q = np.mean([z / z.sum() for z in teachers], axis=0)
                total += (q * np.log(q / (p / p.sum()))).sum() * t * t / 32
    got = patch_loss(torch.tensor(student), [torch.tensor(one), torch.tensor(other)], t)
    assert float(got) == pytest.approx(total, rel=1e-9)


def test_coarser_is_taken_per_side() -> None:
    assert coarser((1, 9, 2), (4, 3, 8)) == (3, 2)


@pytest.mark.parametrize("name", ["lydite-small", "paper-student-0.44m"])
def test_looking_gives_the_networks_own_answer(name: str) -> None:
    network = fresh(name).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        seen = look(network, x, {"features"})
        torch.testing.assert_close(seen["logits"], network(x))
        assert torch.equal(seen["features"], network.features(x))
        assert look(network, x, ()).keys() == {"logits"}


def test_votes_average_to_the_logits() -> None:
    network = fresh("lydite-small").eval()
    with torch.no_grad():
        seen = look(network, torch.randn(2, 3, 64, 64), {"votes"})
    assert seen.keys() == {"logits", "votes"}
    assert torch.equal(seen["votes"].mean((2, 3)), seen["logits"])


def test_shapes_are_known_without_values() -> None:
    assert feature_shape(fresh("lydite-small"), 64) == (24, 16, 16)
    assert feature_shape(fresh("paper-baseline"), 96) == (128, 3, 3)
    assert scores_positions(fresh("lydite-small"), 64)
    assert not scores_positions(fresh("paper-student-0.44m"), 64)


def test_pupil_regresses_the_pooled_features() -> None:
    student = fresh("lydite-small", widths=[4, 6]).eval()
    pupil = Pupil(student, (), Hint(6, 10, (4, 4)))
    x = torch.randn(2, 3, 64, 64)
    seen = pupil(x)
    assert pupil.regressor is not None
    weight = pupil.regressor.weight[:, :, 0, 0]
    pooled = student.features(x).reshape(2, 6, 4, 8, 4, 8).mean((3, 5))
    wanted = torch.einsum("oc,nchw->nohw", weight, pooled) + pupil.regressor.bias[:, None, None]
    torch.testing.assert_close(seen["hint"], wanted)


def test_pupil_without_hint_has_no_weights_of_its_own() -> None:
    student = fresh("lydite-small", widths=[4, 6])
    pupil = Pupil(student, {"votes"}, None)
    assert [*pupil.parameters()] == [*student.parameters()]
    assert pupil(torch.randn(1, 3, 64, 64)).keys() == {"logits", "votes"}
