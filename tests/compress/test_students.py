"""Students sized for a rate."""

from __future__ import annotations

import pytest
import torch

from lydite.card import Architecture
from lydite.compress.students import student_for_rate
from lydite.errors import ConfigError
from lydite.models import NETWORKS, build
from lydite.models.cost import count_parameters


def parameters(architecture: Architecture) -> int:
    with torch.device("meta"):
        return count_parameters(build(architecture))


@pytest.mark.parametrize("rate", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["paper-baseline", "paper-student-0.44m", "lydite-large"])
def test_the_rate_is_reached_and_hardly_passed(name: str, rate: float) -> None:
    teacher = Architecture(network=name, input_size=64)
    student = student_for_rate(teacher, parameters(teacher), rate)
    saved = 1 - parameters(student) / parameters(teacher)
    assert rate <= saved <= rate + 0.09
    assert student.network == name


@pytest.mark.parametrize("name", ["paper-student-1.8m", "lydite-medium"])
def test_against_every_share(name: str) -> None:
    """Bisection finds what trying all thousand shares finds."""
    teacher = Architecture(network=name, input_size=64)
    whole = parameters(teacher)
    scaled = NETWORKS.get(name).scaled
    assert scaled is not None
    counts = {n: parameters(scaled(teacher, n / 1000)) for n in range(20, 1001, 20)}
    assert sorted(counts.values()) == list(counts.values())
    best = max(count for count in counts.values() if count <= 0.3 * whole)
    assert best <= parameters(student_for_rate(teacher, whole, 0.7)) <= 0.3 * whole


def test_widths_are_scaled_from_the_teachers_own() -> None:
    teacher = Architecture(network="lydite-small", config={"widths": [16, 32], "blocks": 2})
    student = student_for_rate(teacher, parameters(teacher), 0.7)
    assert student.config == {"widths": [8, 16], "blocks": 2}
    narrow = Architecture(network="paper-baseline", config={"width": 0.5, "dropout": 0.1})
    student = student_for_rate(narrow, parameters(narrow), 0.5)
    assert student.config["width"] < 0.4
    assert student.config["dropout"] == 0.1


def test_a_pruned_teacher_is_measured_as_it_is() -> None:
    teacher = Architecture(network="lydite-medium")
    student = student_for_rate(teacher, parameters(teacher) // 2, 0.5)
    assert parameters(student) <= 0.25 * parameters(teacher)


def test_an_unreachable_rate_is_refused_with_the_most_that_goes() -> None:
    teacher = Architecture(network="lydite-small")
    with pytest.raises(ConfigError, match=r"narrowest lydite-small saves 0\.\d+ .* Got 0\.99\."):
        student_for_rate(teacher, parameters(teacher), 0.99)


def test_networks_of_fixed_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot scale timm/resnet18: its widths are fixed"):
        student_for_rate(Architecture(network="timm/resnet18"), 1000, 0.5)
