"""Scores: one row per image, detector and degradation; every number is made from them.

An image that could not be scored has its row too, with the reason.

A detector is scored by what will answer for it: an exported or quantized one in onnxruntime, on
the very bytes that are shipped, any other in torch. Both go through the one decoder and the card's
one preprocessing.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from lydite.card import ONNX_NAME, Preprocess, ScoreMeaning
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest, Row, read_parquet
from lydite.data.preprocess import Float32, prepare, probability, score_of
from lydite.detector import Detector
from lydite.errors import CardError, ConfigError, DataError, DecodeError, FileError
from lydite.evaluate.degrade import NONE, degrade, parse
from lydite.files import write_bytes
from lydite.predictor import Predictor
from lydite.recipe import Progress, silent

Runtime = Literal["auto", "torch", "onnxruntime"]

#: values of network input that one torch batch may hold (21 tiles of 224 px, 256 of 64 px)
BATCH_VALUES = 256 * 3 * 64 * 64
#: `error` of an image for which the network answered NaN or infinity
NOT_FINITE = "not-finite"
SCORES_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # of the detector
        pa.field("detector", pa.string(), nullable=False),  # its name
        pa.field("runtime", pa.string(), nullable=False),  # torch or onnxruntime
        pa.field("degradation", pa.string(), nullable=False),  # what was done to the image: none
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("target", pa.int8(), nullable=False),  # 1 for fake (or dog)
        pa.field("generator", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("z", pa.float64()),  # the score; null after a failure
        pa.field("p_fake", pa.float64()),  # as the card says; null after a failure
        pa.field("error", pa.string()),  # reason code of a failure, else null
    ]
)


def score_detector(
    detector: Detector,
    manifest: Manifest,
    *,
    progress: Progress = silent,
    runtime: Runtime = "auto",
    threads: int | None = None,
    images: ImageStore | None = None,
    degradation: str = NONE,
) -> pa.Table:
    """Score every image of a manifest.

    Args:
        detector: what to score; its network is left in the mode and place it was in, and a
            network on a GPU is scored there.
        manifest: the images.
        progress: told how many images are done.
        runtime: "torch", "onnxruntime", or "auto": onnxruntime for a quantized detector or one
            that carries an exported file, else torch.
        threads: CPU threads; None leaves them as they are.
        images: decoded images, kept by the caller for several detectors.
        degradation: what is done to every image first, see `lydite.evaluate.degrade`.

    Returns:
        One row per image as in `SCORES_SCHEMA`, in the manifest's order. An image that cannot be
        used has a null score and its reason code.

    Raises:
        ConfigError: an unknown runtime or degradation, or torch for a quantized detector.
        CardError: the exported file does not fit the card.
    """
    runtime = _chosen(detector, runtime)
    degradation = parse(degradation).name
    rows = list(manifest.rows())
    store = ImageStore(0) if images is None else images  # an empty one is false
    note = detector.card.name + ("" if degradation == NONE else f", {degradation}")
    run = _in_torch if runtime == "torch" else _in_onnxruntime
    z = np.full(len(rows), np.nan)
    errors: list[str | None] = [None] * len(rows)

    def load(number: int) -> Float32 | None:
        try:
            row = rows[number]
            rgb = degrade(store.get(row), degradation, row.sha256)
            return prepare(rgb, detector.card.preprocess)
        except DecodeError as error:
            errors[number] = error.code
            return None

    progress("score", 0, len(rows), note)
    for done, number, value in run(detector, len(rows), load, threads):
        if value is not None:
            z[number] = value
            errors[number] = None if np.isfinite(value) else NOT_FINITE
        progress("score", done, len(rows), note)
    card = detector.card
    constant = {"key": card.key, "detector": card.name, "runtime": runtime}
    constant["degradation"] = degradation
    return scores_table(constant, rows, z, probability(z, card.score), errors)


def rescale(scores: pa.Table, meaning: ScoreMeaning) -> pa.Table:
    """Return scores with `p_fake` as another meaning has it; no network runs."""
    z = scores["z"].to_numpy()
    p_fake = pa.array(probability(z, meaning), pa.float64(), mask=np.isnan(z))
    index = scores.schema.get_field_index("p_fake")
    return scores.set_column(index, SCORES_SCHEMA.field("p_fake"), p_fake)


def write_scores(path: Path, scores: pa.Table) -> None:
    """Write scores as one Parquet file, atomically."""
    buffer = io.BytesIO()
    pq.write_table(scores, buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())


def read_scores(path: Path) -> pa.Table:
    """Read scores.

    Raises:
        FileError: no such file.
        DataError: not scores of this version of lydite.
    """
    if not path.is_file():
        raise FileError(f"There are no scores at {path}. Make some with: lydite evaluate")
    try:
        table = read_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a Parquet file of scores: {error}") from error
    if table.schema.names != SCORES_SCHEMA.names:
        raise DataError(f"{path} does not hold scores of this version of lydite.")
    return table.cast(SCORES_SCHEMA)


#: (detector, images, load, threads) -> (images done, image, its score or None) for each image
_Load = Callable[[int], Float32 | None]
_Done = Iterator[tuple[int, int, float | None]]


def _chosen(detector: Detector, runtime: Runtime) -> Literal["torch", "onnxruntime"]:
    """Decide what "auto" means, and refuse what cannot be."""
    if runtime == "auto":
        exported = detector.card.quantization or ONNX_NAME in (detector.files or {})
        return "onnxruntime" if exported else "torch"
    if runtime not in ("torch", "onnxruntime"):
        raise ConfigError(f"Unknown runtime {runtime!r}. Allowed: auto, torch, onnxruntime.")
    if runtime == "torch" and detector.card.quantization:
        raise ConfigError(
            f"{detector.card.name} is quantized: its arithmetic exists in the exported file "
            "only. Use the runtime onnxruntime."
        )
    return runtime


def _in_onnxruntime(detector: Detector, count: int, load: _Load, threads: int | None) -> _Done:
    """Score images one by one, as the predictor does."""
    from lydite.export.onnx import export

    data = (detector.files or {}).get(ONNX_NAME) or export(detector)
    predictor = Predictor.from_bytes(detector.card, data, threads=threads)
    for number in range(count):
        tiles = load(number)
        try:
            value = None if tiles is None else score_of(predictor.logits(tiles))
        except CardError:
            value = np.nan
        yield number + 1, number, value


def _in_torch(detector: Detector, count: int, load: _Load, threads: int | None) -> _Done:
    """Score images in batches of several images' tiles."""
    most = _tiles_a_batch(detector.card.preprocess)
    with _evaluating(detector.network, threads):
        waiting: list[tuple[int, Float32]] = []
        for number in range(count):
            tiles = load(number)
            if tiles is None:
                yield number + 1, number, None
            else:
                waiting.append((number, tiles))
            if waiting and (number == count - 1 or sum(len(t) for _, t in waiting) >= most):
                for index, value in _batch(detector.network, waiting):
                    yield number + 1, index, value
                waiting = []


def _tiles_a_batch(preprocess: Preprocess) -> int:
    return max(1, BATCH_VALUES // (3 * preprocess.size**2))


def _batch(
    network: torch.nn.Module, waiting: Sequence[tuple[int, Float32]]
) -> Iterator[tuple[int, float]]:
    """Run the tiles of several images at once; yield each image's number and score."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    stacked = torch.from_numpy(np.concatenate([tiles for _, tiles in waiting])).to(device)
    with torch.inference_mode():
        logits = network(stacked.contiguous(memory_format=torch.channels_last))
    values: NDArray[np.float32] = logits.float().cpu().numpy()
    ends = np.cumsum([len(tiles) for _, tiles in waiting])
    for (number, tiles), end in zip(waiting, ends, strict=True):
        yield number, score_of(values[end - len(tiles) : end])


@contextlib.contextmanager
def _evaluating(network: torch.nn.Module, threads: int | None) -> Iterator[None]:
    """Hold a network in evaluation mode and torch at `threads`, then put both back."""
    modes = {module: module.training for module in network.modules()}
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    network.eval()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        for module, mode in modes.items():
            module.training = mode


def scores_table(
    constant: Mapping[str, str],
    rows: Sequence[Row],
    z: NDArray[np.float64],
    p_fake: NDArray[np.float64],
    errors: Sequence[str | None],
) -> pa.Table:
    """Put scores into one table as in `SCORES_SCHEMA`.

    Args:
        constant: `key`, `detector` and `runtime`; `degradation`, if there was one.
        rows: (N,) the images.
        z: (N,) their scores, not finite where there is none.
        p_fake: (N,) their probabilities.
        errors: (N,) reason codes of failures, else None.
    """
    failed = ~np.isfinite(z)
    constant = {"degradation": NONE, **constant}
    columns: dict[str, object] = {name: [value] * len(rows) for name, value in constant.items()}
    for name in ("path", "sha256", "label", "target", "generator", "domain", "split", "group"):
        columns[name] = [getattr(row, name) for row in rows]
    columns["z"] = pa.array(z, pa.float64(), mask=failed)
    columns["p_fake"] = pa.array(p_fake, pa.float64(), mask=failed)
    columns["error"] = list(errors)
    return pa.table({name: columns[name] for name in SCORES_SCHEMA.names}, schema=SCORES_SCHEMA)
