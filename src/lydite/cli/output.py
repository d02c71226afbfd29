"""What commands print: values or text on stdout, progress on stderr."""

from __future__ import annotations

import json as jsonlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lydite.data.reasons import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from lydite.recipe import Progress

#: between two lines of plain progress about the same work
LINE_SECONDS = 10.0


def emit(value: Any, json: bool, text: str | Callable[[], str]) -> None:
    """Print a command's result on stdout.

    Args:
        value: the result as JSON values.
        json: print `value` as one JSON document instead of the text.
        text: what people read, or a function that makes it.
    """
    if json:
        # ASCII escapes keep any file name intact through any terminal or pipe
        shown = jsonlib.dumps(value, indent=2, allow_nan=False)
    else:
        shown = text if isinstance(text, str) else text()
    sys.stdout.write(shown + "\n" if shown else "")
    sys.stdout.flush()


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an aligned plain-text table; numbers stand at the right, None is shown as "-".

    >>> print(table(["name", "n"], [["a", 5], ["bc", 10]]))
    name   n
    a      5
    bc    10
    """
    cells = [["-" if v is None else printable(str(v)) for v in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    right = [
        bool(rows) and all(v is None or isinstance(v, int | float) for v in column)
        for column in zip(*rows, strict=True)
    ] or [False] * len(headers)

    def line(values: Sequence[str]) -> str:
        padded = (
            v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join(line(values) for values in [list(headers), *cells])


def progress_reporter() -> Progress:
    """Return what tells the user about long work: live bars on a terminal, plain lines in a pipe.

    Everything goes to stderr. A plain line is printed when a piece of work begins, when it ends,
    and every ten seconds between.
    """
    reporter = _LiveBars() if sys.stderr.isatty() else _PlainLines()
    if isinstance(reporter, _LiveBars):
        _open_bars.append(reporter)
    return reporter


def close_progress() -> None:
    """Take live bars off the terminal, so that other output is not drawn over."""
    while _open_bars:
        _open_bars.pop().close()


class _PlainLines:
    """Progress as lines."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: dict[str, tuple[float, int]] = {}
        self._said: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int, note: str) -> None:
        now = self._clock()
        ended = total > 0 and done >= total
        if what in self._began and not ended and now - self._said[what] < LINE_SECONDS:
            return
        # resumed work begins somewhere in the middle, which says nothing of its speed
        began, first = self._began.setdefault(what, (now, done))
        self._said[what] = now
        share = f" ({done / total:.0%})" if total > 0 else ""
        taken = now - began
        rest = ""
        if ended:
            rest = f", {taken:.0f} s"
            del self._began[what]
        elif done > first and total > 0 and taken >= 1:
            rest = f", about {taken * (total - done) / (done - first):.0f} s left"
        tail = f" {printable(note)}" if note else ""
        sys.stderr.write(f"{printable(what)}: {done}/{total}{share}{rest}{tail}\n")
        sys.stderr.flush()


class _LiveBars:
    """Progress as bars that are redrawn; a piece of work that ends leaves its bar standing."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int, note: str) -> None:
        if self._bars is None:
            self._bars = _new_bars()
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(printable(what), total=total or None, note="")
        self._bars.update(
            self._tasks[what], completed=done, total=total or None, note=printable(note)
        )
        if total > 0 and done >= total:
            del self._tasks[what]
            if not self._tasks:
                self.close()

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = None
        self._tasks.clear()


_open_bars: list[_LiveBars] = []


def _new_bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
    )
