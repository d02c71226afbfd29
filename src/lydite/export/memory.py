"""Peak memory of an exported file: what a process that only runs it needs more than before."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from lydite.errors import CardError
from lydite.memory import resident_bytes

#: calls after loading; the runtime's arena has its full size after the first few
_CALLS = 5
_TIMEOUT_S = 120


def peak_memory_bytes(
    name: str, data: bytes, size: int, *, threads: int = 1, batch: int = 1
) -> int:
    """Return how much resident memory loading and running a file takes at most, in bytes.

    A fresh process imports the runtime, notes its memory, loads the file and runs it a few times;
    the difference of its peak counts: weights, the runtime's copies of them, and activations.

    Args:
        name: of the file, for the message.
        data: ONNX file.
        size: side of the input in pixels.
        threads: CPU threads of the runtime.
        batch: tiles in a call.

    Raises:
        CardError: the file cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="lydite-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        # -P: a module that lies in the current folder, beside a foreign detector, is not ours
        command = [sys.executable, "-P", "-m", __name__, str(path)]
        command += map(str, (size, threads, batch))
        try:
            done = subprocess.run(  # noqa: S603 - our own module on a file we just wrote
                command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise CardError(
                f"The memory of {name} cannot be measured: {_CALLS} calls took over {_TIMEOUT_S} "
                "s. Use a smaller batch, or leave memory out (--no-memory)."
            ) from None
    last = done.stdout.strip().splitlines()[-1:] or [""]
    if done.returncode or not last[0].isdigit():
        said = done.stderr.strip().splitlines()[-1:] or ["it ended without an answer"]
        raise CardError(f"The memory of {name} cannot be measured: {said[0]}")
    return int(last[0])


def _main(path: str, size: int, threads: int, batch: int) -> None:
    """Load and run a file, and print the memory that took."""
    import numpy as np

    from lydite.export.bench import open_session

    tile = np.zeros((batch, 3, size, size), np.float32)
    data = Path(path).read_bytes()
    before = resident_bytes(peak=False)
    session, feed = open_session("the file", data, tile, threads)
    for _ in range(_CALLS):
        session.run(None, feed)
    sys.stdout.write(f"{max(0, resident_bytes(peak=True) - before)}\n")


if __name__ == "__main__":
    _main(sys.argv[1], *map(int, sys.argv[2:]))
