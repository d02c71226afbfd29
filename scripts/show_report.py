"""Say where a study's report lies, and open it where somebody is there to see it."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path


def somebody_watches() -> bool:
    """Return whether a browser window would reach a person."""
    if os.environ.get("CI") or not sys.stdout.isatty():
        return False
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(display) or sys.platform in {"darwin", "win32"}


def main(folder: Path) -> int:
    """Print the report's path and address; return the exit status."""
    report = (folder / "report.html").resolve()
    if not report.is_file():
        print(f"{folder} holds no report.html: the study did not finish.", file=sys.stderr)
        return 1
    print(f"\nThe report: {report}\n            {report.as_uri()}")
    if somebody_watches():
        webbrowser.open(report.as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
