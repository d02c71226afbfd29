"""What tests of several rooms share: synthetic images, and a detector that needs no torch."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from lydite.card import ONNX_NAME, Architecture, Card, Preprocess, ScoreMeaning, file_entry
from lydite.files import write_bytes, write_json

if TYPE_CHECKING:
    from lydite.data.manifest import Manifest

# Before torch is imported, which reads these once: waiting threads must not spin on a shared
# machine, the tests' networks are too small for two threads, and figures need no window.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# a shell that starts the tests in the background ignores Ctrl-C for them and for their children
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SIZE = 32
#: logits of the hand-made network: these weights of the mean of |x| per channel, and a bias
WEIGHT = np.array([[0.5, -1.0, 0.25], [-0.75, 2.0, 1.0]], dtype=np.float32)
BIAS = np.array([0.1, -0.6], dtype=np.float32)

MakeOnnx = Callable[..., Any]


@pytest.fixture(scope="session")
def make_onnx() -> MakeOnnx:
    """Return a function that builds the hand-made network as an `onnx.ModelProto`."""
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    def make(
        *,
        weight: Any = WEIGHT,
        size: int | str = SIZE,
        batch: int | str = "n",
        outputs: int = 1,
        nodes: tuple[Any, ...] = (),
    ) -> Any:
        graph_nodes = [
            helper.make_node("Abs", ["x"], ["a"]),
            helper.make_node("GlobalAveragePool", ["a"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"], axis=1),
            helper.make_node("Gemm", ["f", "w", "b"], ["logits"], transB=1),
            *nodes,
        ]
        shape = [batch, 3, size, size]
        classes = len(np.asarray(weight))
        results = [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes]),
            helper.make_tensor_value_info("f", TensorProto.FLOAT, [batch, 3]),
        ]
        graph = helper.make_graph(
            graph_nodes,
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            results[:outputs],
            [
                numpy_helper.from_array(np.asarray(weight, np.float32), "w"),
                numpy_helper.from_array(np.resize(BIAS, classes), "b"),
            ],
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
            ir_version=8,
        )

    return make


@pytest.fixture(scope="session")
def tiny_card() -> Card:
    """Return the card of the hand-made network, without files."""
    return Card(
        name="tiny",
        architecture=Architecture(network="tiny", input_size=SIZE),
        preprocess=Preprocess(size=SIZE, tiles=2, min_side=16),
        score=ScoreMeaning(threshold=-0.2, temperature=0.5, band=(0.4, 0.6), rule="by hand"),
        key="0" * 64,
    )


@pytest.fixture
def save_detector(tmp_path: Path, tiny_card: Card) -> Callable[[bytes], Path]:
    """Return a function that writes a detector folder around an ONNX file."""

    def save(onnx: bytes) -> Path:
        folder = tmp_path / "detector"
        card = tiny_card.model_copy(update={"files": {ONNX_NAME: file_entry(onnx)}})
        write_bytes(folder / ONNX_NAME, onnx)
        write_json(folder / "card.json", card.to_json())
        return folder

    return save


@pytest.fixture
def tiny_detector(make_onnx: MakeOnnx, save_detector: Callable[[bytes], Path]) -> Path:
    """Return the folder of a hand-made detector that predicts."""
    return save_detector(make_onnx().SerializeToString())


#: side of the synthetic pictures in pixels, and how many of each label per split
SIDE = 72
COUNTS = {"train": 12, "val": 4, "test": 6}


def _environment_folder(name: str, what: str) -> Path:
    """Return the folder that an environment variable names, or skip the test."""
    value = os.environ.get(name)
    if not value:
        pytest.skip(f"{name} is not set to the folder of {what}")
    folder = Path(value)
    assert folder.is_dir(), f"{name} names {folder}, which is no folder"
    return folder


@pytest.fixture(scope="session")
def fieldpack() -> Path:
    """The folder of real and generated images, outside the project."""
    return _environment_folder("LYDITE_FIELDPACK", "real and generated test images")


@pytest.fixture(scope="session")
def malformed() -> Path:
    """The folder of odd, broken and hostile image files, outside the project."""
    return _environment_folder("LYDITE_MALFORMED", "malformed image files")


@pytest.fixture(scope="session")
def tiny_manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Two domains of 22 photograph-like images and 22 fakes, doubled in size by repetition."""
    pytest.importorskip("pyarrow")
    from lydite.data.manifest import SCHEMA, from_columns

    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(11)
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    for domain in ("one", "two"):
        for split, count in COUNTS.items():
            for number in range(count):
                for label in ("real", "fake"):
                    name = f"{domain}-{split}-{number}-{label}"
                    row = _row(root / f"{name}.jpg", _picture(rng, label))
                    row |= {
                        "label": label,
                        "generator": "camera" if label == "real" else f"double-{domain}",
                        "domain": domain,
                        "split": split,
                        "group": name,
                    }
                    for column in SCHEMA.names:
                        columns[column].append(row.get(column))
    return from_columns(columns, root)


def _row(path: Path, picture: np.ndarray) -> dict[str, object]:
    """Save a picture and return what the manifest says of the file."""
    Image.fromarray(picture).save(path, quality=95, subsampling=0)
    data = path.read_bytes()
    return {
        "path": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "width": SIDE,
        "height": SIDE,
        "bytes": len(data),
        "format": "JPEG",
        "quality": 95.0,
    }


def _picture(rng: np.random.Generator, label: str) -> np.ndarray:
    """Return a (72, 72, 3) picture: smooth color fields and fine grain, or the same doubled."""
    side = SIDE if label == "real" else SIDE // 2
    coarse = rng.uniform(40, 215, (4, 4, 3)).astype(np.uint8)
    fields = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    picture = np.clip(fields + rng.normal(0, 12, (side, side, 3)), 0, 255).astype(np.uint8)
    if label == "fake":
        picture = picture.repeat(2, axis=0).repeat(2, axis=1)
    return picture
