"""Models that would open other files or run foreign operators are refused before they load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lydite import onnx_guard
from lydite.card import Card
from lydite.errors import CardError
from lydite.onnx_guard import check_onnx
from lydite.predictor import Predictor

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def refused(data: bytes) -> str:
    with pytest.raises(CardError) as caught:
        check_onnx(data, "model.onnx")
    return str(caught.value)


def node(domain: str, operator: str = "Relu") -> Any:
    return helper.make_node(operator, ["f"], ["unused"], domain=domain)


def test_a_sound_model_passes(make_onnx: Callable[..., Any]) -> None:
    check_onnx(make_onnx().SerializeToString(), "model.onnx")
    check_onnx(make_onnx(nodes=(node("ai.onnx"),)).SerializeToString(), "model.onnx")


def test_external_data_is_refused_and_never_read(
    make_onnx: Callable[..., Any], tiny_card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_onnx()
    (tmp_path / "w.bin").write_bytes(np.ones((2, 3), np.float32).tobytes())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    monkeypatch.chdir(tmp_path)
    assert "other files" in refused(model.SerializeToString())
    with pytest.raises(CardError, match="other files"):
        Predictor.from_bytes(tiny_card, model.SerializeToString())
    tensor.ClearField("data_location")
    assert "other files" in refused(model.SerializeToString())


def test_external_data_is_found_wherever_a_tensor_may_stand(make_onnx: Callable[..., Any]) -> None:
    outside = numpy_helper.from_array(np.ones(3, np.float32), "o")
    outside.data_location = TensorProto.EXTERNAL
    constant = helper.make_node("Constant", [], ["c"], value=outside)
    inner = helper.make_graph([constant], "inner", [], [])
    branch = helper.make_node("If", ["f"], ["i"], then_branch=inner, else_branch=inner)
    function = helper.make_function(
        "local", "F", [], ["c"], [constant], [helper.make_opsetid("", 17)]
    )
    for nodes in ((constant,), (branch,)):
        assert "other files" in refused(make_onnx(nodes=nodes).SerializeToString())
    model = make_onnx()
    model.functions.append(function)
    assert "other files" in refused(model.SerializeToString())
    model = make_onnx()
    model.graph.sparse_initializer.add().values.CopyFrom(outside)
    assert "other files" in refused(model.SerializeToString())
    # protobuf merges a repeated message, so a second graph counts as well
    first, second = make_onnx(), make_onnx(nodes=(constant,))
    assert "other files" in refused(first.SerializeToString() + second.SerializeToString())


@pytest.mark.parametrize("domain", ["com.example", "ai.onnx.ml", "pkg.onnxscript.torch_lib"])
def test_foreign_operators_are_refused(make_onnx: Callable[..., Any], domain: str) -> None:
    message = refused(make_onnx(nodes=(node(domain),)).SerializeToString())
    assert f"{domain}::Relu" in message


def test_of_the_runtimes_own_operators_only_integer_forms_are_allowed(
    make_onnx: Callable[..., Any],
) -> None:
    check_onnx(make_onnx(nodes=(node("com.microsoft", "QLinearAdd"),)).SerializeToString(), "m")
    assert "Attention" in refused(
        make_onnx(nodes=(node("com.microsoft", "Attention"),)).SerializeToString()
    )


def test_size_is_limited(make_onnx: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_guard, "MAX_ONNX_BYTES", 100)
    assert "larger than the 100 bytes" in refused(make_onnx().SerializeToString())


def test_damage_ends_in_our_own_error(make_onnx: Callable[..., Any], tiny_card: Card) -> None:
    sound = make_onnx().SerializeToString()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(150):
        data = bytearray(sound)
        for place in rng.integers(0, len(data), 3):
            data[place] = int(rng.integers(0, 256))
        try:
            Predictor.from_bytes(tiny_card, bytes(data[: int(rng.integers(1, len(data) + 1))]))
            outcomes.add("loads")
        except CardError:
            outcomes.add("refused")
    assert "refused" in outcomes


def test_nesting_is_bounded() -> None:
    def wrap(field: int, payload: bytes) -> bytes:
        length = len(payload)
        size = b""
        while length > 127:
            size += bytes([length & 127 | 128])
            length >>= 7
        return bytes([field << 3 | 2]) + size + bytes([length]) + payload

    inner = b""
    for _ in range(60):
        inner = wrap(1, wrap(5, wrap(6, inner)))
    assert "nested too deeply" in refused(wrap(7, inner))
