"""`lydite models`: one row a network, in text and JSON."""

from __future__ import annotations

import json

import pytest

from lydite.cli import main
from lydite.models import NETWORKS


def test_table_names_every_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--size", "64"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in NETWORKS)
    assert "MMAC at 64 px" in text
    assert "does not take" not in text


def test_json_carries_the_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--size", "224", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["paper-baseline"]["parameters"] == 4_590_786
    assert rows["paper-baseline"]["macs"] == 8_527_577_600
    assert rows["lydite-small"]["config"]["residual"] == "highpass"


def test_size_that_some_networks_refuse_leaves_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--size", "48"]) == 0
    text = capsys.readouterr().out
    assert "-: does not take 48 px" in text


def test_impossible_size_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--size", "7"]) == 2
    assert "`--size` must be from 32 to 1024 px. Got 7" in capsys.readouterr().err
