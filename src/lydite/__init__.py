"""Lydite: small detectors of AI-generated images, made, measured and shipped.

>>> import lydite
>>> detector = lydite.load()          # the detector inside the package; no torch needed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from pathlib import Path

    from lydite.predictor import Predictor


def load(detector: str | Path | None = None, *, threads: int | None = None) -> Predictor:
    """Open a detector for prediction.

    Args:
        detector: a detector folder with a `model.onnx`, or None for the one in the package.
        threads: CPU threads to use; None lets the runtime decide.

    Returns:
        A predictor; see `lydite.predictor.Predictor`.

    Raises:
        CardError: the folder is not a detector, is damaged, or holds no exported file.
    """
    from lydite.predictor import Predictor

    return Predictor.open(detector, threads=threads)
