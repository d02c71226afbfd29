"""What the contract's tests share: a second process, and the slow part of exporting."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save as to_safetensors
from torch import nn

from lydite.compress import qat, quantize
from lydite.export import onnx as onnx_export
from lydite.export.onnx import to_onnx
from lydite.files import sha256_bytes
from lydite.transfer import packs

#: the modules that turn networks into files here
EXPORTING = (onnx_export, quantize, qat, packs)
ANSWER = """
import json, pathlib, sys
from lydite.detector import Detector
from lydite.export.parity import network_logits, synthetic_tiles
for line in sys.stdin:
    detector = Detector.load(pathlib.Path(line.rstrip("\\n")))
    logits = network_logits(detector, [synthetic_tiles(detector, 8)])
    print(json.dumps([line.rstrip("\\n"), logits.tolist()]), flush=True)
"""


class Elsewhere:
    """A fresh process that knows of a detector only what its folder says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    @classmethod
    @contextlib.contextmanager
    def started(cls) -> Iterator[Elsewhere]:
        """Start the process, and end it afterwards."""
        command, pipe = [sys.executable, "-c", ANSWER], subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            yield cls(process)

    def ask(self, folder: Path) -> None:
        """Let it load a saved detector and score it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()

    def answer(self, folder: Path) -> np.ndarray:
        """Return the logits for a folder, past what a failed test left unread."""
        assert self.process.stdout is not None
        named, logits = "", []
        while named != str(folder):
            line = self.process.stdout.readline()
            assert line, f"the process ended before {folder}; its own message is on stderr"
            named, logits = json.loads(line)
        return np.array(logits)


class SharedFloatFiles:
    """Exports each float network once: what only rounds it differently needs the same file.

    Equal networks have equal files; the contract looks at that too, without this.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def to_onnx(self, network: nn.Module, size: int) -> bytes:
        """Return the file that `lydite.export.onnx.to_onnx` returns."""
        name = sha256_bytes(repr((size, network)).encode() + to_safetensors(network.state_dict()))
        if name not in self.files:
            self.files[name] = to_onnx(network, size)
        return self.files[name]

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Let everything that exports use these files."""
        with pytest.MonkeyPatch.context() as patch:
            for module in EXPORTING:
                patch.setattr(module, "to_onnx", self.to_onnx)
            yield
