"""How exported networks are opened: integers are exact, and files in float are left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from lydite.card import ONNX_NAME, Quantization
from lydite.predictor import packaged_detector
from lydite.session import EXACT_INTEGERS, session_options

STORED = Path(__file__).parent / "regression" / "detectors" / "0.1.0"


def exact(data: bytes) -> bool:
    """Tell whether a session of this file would be told to add without cutting off."""
    key, wanted = EXACT_INTEGERS
    try:
        return bool(session_options(data).get_session_config_entry(key) == wanted)
    except RuntimeError:  # how onnxruntime says that an option was not given
        return False


def test_files_that_round_activations_are_computed_exactly() -> None:
    assert exact((STORED / "int8" / ONNX_NAME).read_bytes())
    assert exact((packaged_detector() / ONNX_NAME).read_bytes())
    assert not exact((STORED / "float" / ONNX_NAME).read_bytes())


@pytest.mark.parametrize("scheme", ["weight-int8", "float16"])
def test_files_with_small_weights_alone_are_not(scheme: Literal["weight-int8", "float16"]) -> None:
    pytest.importorskip("onnx")
    from lydite.export.quantized import apply_quantization

    data = (STORED / "float" / ONNX_NAME).read_bytes()
    made = apply_quantization(data, Quantization(scheme=scheme))
    assert len(made) < len(data)
    assert not exact(made)
