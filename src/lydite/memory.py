"""Resident memory of this process: what it is now, and the most it was."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def resident_bytes(*, peak: bool) -> int:
    """Return this process's resident memory now, or the most it was since `forget_peak`."""
    # Not getrusage first: its peak also holds what the parent had when it started this process.
    found = _from_status("VmHWM:" if peak else "VmRSS:")
    if found is not None:
        return found
    if peak and sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    import psutil

    info = psutil.Process().memory_info()
    return int(getattr(info, "peak_wset", info.rss) if peak else info.rss)


def forget_peak() -> bool:
    """Let the peak begin anew at what is resident now.

    Returns:
        Whether it does. Only Linux can, where it is allowed; elsewhere the peak stays that of the
        process's whole life.
    """
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _from_status(key: str) -> int | None:
    """Return what Linux says under a key, in bytes; None where there is no such line."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith(key)), None)
