"""Lydite: small detectors of AI-generated images, made, measured and shipped.

>>> import lydite
>>> detector = lydite.load()          # the detector inside the package; no torch needed
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

# read when onnxruntime is imported: without it, the runtime writes an identifier of this computer
# into the user's home and reports to its maker
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lydite.predictor import Predictor


def load(
    detector: str | Path | None = None,
    *,
    packs: Sequence[str | Path] | str | Path = (),
    threads: int | None = None,
) -> Predictor:
    """Open a detector for prediction.

    Args:
        detector: a detector folder with a `model.onnx`, or None for the one in the package.
        packs: folders of adapter packs, each of which teaches this detector another generator, or
            one such folder; see `lydite.predictor.Predictor` for how they are combined and what
            that costs.
        threads: CPU threads to use; None lets the runtime decide.

    Returns:
        A predictor; see `lydite.predictor.Predictor`.

    Raises:
        CardError: the folder is not a detector, is damaged, or holds no exported file; or a
            pack is damaged or belongs to another detector.
        ConfigError: two packs have one name, or `threads` is below 1.
        FileError: a file of it cannot be read.
    """
    from lydite.predictor import Predictor

    return Predictor.open(detector, packs=packs, threads=threads)
