"""Adapter packs made by hand, without torch."""

from __future__ import annotations

from typing import Any

from lydite.card import ONNX_NAME, Card, ScoreMeaning, file_entry
from lydite.delta import make_delta
from lydite.pack import ADAPTER_NAME, DELTA_NAME, Pack, PackBase, PackCard


def hand_made_pack(
    base: Card, onnx: bytes, full: bytes, name: str = "one", /, **changes: Any
) -> Pack:
    """Return a pack that turns the file `onnx` of a detector into `full`."""
    files = {DELTA_NAME: make_delta(onnx, full), ADAPTER_NAME: b"no weights"}
    fields: dict[str, Any] = {
        "name": name,
        "base": PackBase(
            name=base.name, card=base.digest, onnx=base.files[ONNX_NAME].sha256, weights="0" * 64
        ),
        "preprocess": base.preprocess,
        "score": ScoreMeaning(threshold=0.3, temperature=0.7, band=(0.3, 0.8), rule="by hand"),
        "key": "1" * 64,
        "steps": ({"adapt": {"place": "last"}},),
        "composed": file_entry(full),
        "files": {file: file_entry(data) for file, data in files.items()},
    }
    return Pack(PackCard(**(fields | changes)), files)
