"""The frame of the command line: commands by name, errors, signals, progress."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lydite
from lydite import cli
from lydite.cli import main, output
from lydite.cli.output import emit, progress_reporter, table
from lydite.errors import DataError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Return a module that stands for a command called `made-up`."""
    module = types.ModuleType("lydite_made_up")
    module.__spec__ = types.SimpleNamespace(name="lydite_made_up")  # type: ignore[assignment]

    def register(app: object) -> None:
        def run(*, json: bool = False) -> int:
            return module.body()

        app.command(run, name="made-up")  # type: ignore[attr-defined]

    module.register = register
    monkeypatch.setitem(sys.modules, "lydite_made_up", module)
    monkeypatch.setitem(cli.COMMANDS, "made-up", ("lydite_made_up", "For tests."))
    return module


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == lydite.__version__
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert 0 < shown.index("predict:") < shown.index("doctor:") < shown.index("--version:")
    assert main([]) == 0
    assert "predict" in capsys.readouterr().out
    assert main(["predict", "--help"]) == 0
    assert "--detector" in capsys.readouterr().out


def test_an_unknown_command_suggests_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predic", "x.png"]) == 2
    assert re.search(r"error: .*predic.*predict", capsys.readouterr().err)
    assert main(["predic", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


@pytest.mark.parametrize("flag", ["--json", "--json=true"])
def test_what_no_room_has_put_into_words_is_said_all_the_same(
    command: types.ModuleType, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    def denied() -> int:
        raise PermissionError(13, "Permission denied", "locked/x.json")

    command.body = denied
    assert main(["made-up"]) == 2
    assert capsys.readouterr().err == "error: locked/x.json: Permission denied.\n"
    assert main(["made-up", flag]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error == {"code": "file", "message": "locked/x.json: Permission denied."}


def test_a_dash_is_an_image_for_commands_that_read_one_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["data", "scan", ".", "--out", "-"]) == 2
    assert "\0" not in capsys.readouterr().err
    assert main(["explain", "x.png", "--out", "-"]) == 2
    assert "--out names a folder" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_disk_behind_the_output_is_an_error_of_its_own() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lydite", "models", "--json"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: the output cannot be written: No space left")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors as a shell does")
def test_closed_streams_lose_no_answer_and_hide_no_failure(tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m lydite"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    run = functools.partial(  # noqa: S604
        subprocess.run,
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    some = run(f"{command} predict gone a.png 2>&-", cwd=tmp_path)
    assert some.returncode == 1
    assert [line.split()[-1] for line in some.stdout.splitlines()] == ["gone", "a.png"]
    unseen = run(f"{command} predict a.png >&-", cwd=tmp_path)
    assert (unseen.returncode, unseen.stderr.count("\n")) == (2, 1)
    assert "cannot be written: it is closed" in unseen.stderr
    assert run(f"{command} predict --nope >&- 2>&-", cwd=tmp_path).returncode == 2


def test_a_command_whose_module_is_absent_breaks_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "later", ("lydite.cli.absent_module", "Not there."))
    assert main(["--help"]) == 0
    assert "later" not in capsys.readouterr().out
    assert main(["later"]) == 2


def test_statuses_of_commands(command: types.ModuleType) -> None:
    for answer, status in ((0, 0), (1, 1), (None, 0)):
        command.body = lambda answer=answer: answer
        assert main(["made-up"]) == status


def test_our_errors_are_one_line(
    command: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> None:
        raise DataError("two\nlines \x1b[31m")

    command.body = body
    assert main(["made-up"]) == 2
    assert capsys.readouterr().err == "error: two\\nlines \\x1b[31m\n"
    assert main(["made-up", "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {
        "error": {"code": "data", "message": "two\nlines \x1b[31m"}
    }


def test_a_missing_package_names_the_line_that_installs_it(
    command: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> None:
        raise ModuleNotFoundError("No module named 'sklearn.metrics'", name="sklearn.metrics")

    command.body = body
    assert main(["made-up"]) == 2
    # what needs this needs torch as well; one installation is enough
    assert "pip install 'lydite[train]'" in capsys.readouterr().err
    named = {
        ("data", "scan"): "data",
        ("data", "--json", "check"): "data",
        ("data", "align"): "train",
    }
    for words, extra in named.items():
        assert cli._extra_of(words, "sklearn") == extra
    assert cli._extra_of(["data", "scan"], "torch") == "train"


def test_lines_below_an_error_are_printed_one_by_one(
    command: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> None:
        error = DataError("two differ.")
        error.details = ("- one", "+ \x1b[31m\nother")
        raise error

    command.body = body
    assert main(["made-up"]) == 2
    assert capsys.readouterr().err == "error: two differ.\n  - one\n  + \\x1b[31m\\nother\n"
    assert main(["made-up", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)["error"]
    assert found["details"] == ["- one", "+ \x1b[31m\nother"]


def test_bugs_are_not_hidden(command: types.ModuleType) -> None:
    def body() -> None:
        raise ZeroDivisionError

    command.body = body
    with pytest.raises(ZeroDivisionError):
        main(["made-up"])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_in_order(
    command: types.ModuleType,
    number: signal.Signals,
    status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cleaned = []

    def body() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            cleaned.append(True)

    command.body = body
    before = signal.getsignal(signal.SIGTERM)
    assert main(["made-up"]) == status
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGTERM) is before
    assert "stopped" in capsys.readouterr().err


def test_the_module_runs_as_a_program() -> None:
    words = [sys.executable, "-m", "lydite"]
    done = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == lydite.__version__
    assert subprocess.run([*words, "nothing"], capture_output=True, check=False).returncode == 2


def test_emit(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": "é"}, True, "text")
    assert capsys.readouterr().out == '{\n  "a": "\\u00e9"\n}\n'
    emit({"a": 1}, False, "text")
    emit({"a": 1}, False, lambda: "made")
    assert capsys.readouterr().out == "text\nmade\n"
    with pytest.raises(ValueError, match="nan"):
        emit({"a": float("nan")}, True, "")


def test_table_aligns() -> None:
    assert table(["name", "n"], [["a", 5], ["long name", None], ["b\n", 10]]).split("\n") == [
        "name        n",
        "a           5",
        "long name   -",
        "b\\n        10",
    ]
    assert table(["name", "n"], []) == "name  n"


def test_plain_progress_is_rate_limited(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    report = output._PlainLines(clock=lambda: now[0])
    for second in range(31):
        now[0] = float(second)
        report("train", second, 30, "loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "train: 0/30 (0%) loss 0.5",
        "train: 10/30 (33%), about 20 s left loss 0.5",
        "train: 20/30 (67%), about 10 s left loss 0.5",
        "train: 30/30 (100%), 30 s loss 0.5",
    ]


def test_progress_in_a_pipe_writes_lines_to_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    report = progress_reporter()
    report("scan", 0, 2, "")
    report("scan", 1, 2, "a\nb")
    report("scan", 2, 2, "")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["scan: 0/2 (0%)", "scan: 2/2 (100%), 0 s"]


def test_live_bars_come_and_go(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    report = progress_reporter()
    assert isinstance(report, output._LiveBars)
    report("train [red]", 0, 3, "")
    assert report._bars is not None
    report("train [red]", 3, 3, "done")
    assert report._bars is None
    report("again", 1, 0, "")
    output.close_progress()
    assert report._bars is None
    assert "train [red]" in capsys.readouterr().err
