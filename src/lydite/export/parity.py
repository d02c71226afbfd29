"""Parity: does the exported file answer like the network it came from?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lydite.data.decode import decode
from lydite.data.manifest import Manifest
from lydite.data.preprocess import normalize, prepare
from lydite.detector import Detector
from lydite.errors import DataError, ParityError
from lydite.export.onnx import evaluating
from lydite.predictor import Predictor

Float32 = NDArray[np.float32]

#: largest logit difference of a float32 file, for logits of magnitude 1
FLOAT_BOUND = 1e-4
#: tiles that run at once
CHUNK = 32


@dataclass(frozen=True)
class Parity:
    """How far an exported file is from its network.

    A decision is the sign of z - threshold for one tile, z = logit(fake) - logit(real).

    Attributes:
        n: tiles compared.
        max_abs: largest difference of a logit.
        mean_abs: mean difference of a logit.
        scale: largest magnitude of the network's logits.
        flips: tiles that the file decides differently.
        firm_flips: those of them whose z is farther than the float bound from the threshold, so
            that rounding alone does not explain them.
        quantized: the file's weights or arithmetic have fewer bits; differences are the price, not
            a fault.
    """

    n: int
    max_abs: float
    mean_abs: float
    scale: float
    flips: int
    firm_flips: int
    quantized: bool

    @property
    def bound(self) -> float:
        """Largest logit difference that rounding in float32 explains."""
        return FLOAT_BOUND * max(1.0, self.scale)

    @property
    def flip_share(self) -> float:
        """Share of the decisions that changed, 0 to 1."""
        return self.flips / self.n

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return asdict(self) | {"bound": self.bound, "flip_share": self.flip_share}


def check_parity(detector: Detector, onnx_bytes: bytes, batch: Float32) -> Parity:
    """Compare an exported file with the network of its detector.

    Args:
        detector: network, threshold and preprocessing.
        onnx_bytes: the exported file.
        batch: preprocessed tiles, (N, 3, S, S) float32, N at least 1.

    Raises:
        CardError: the file cannot be run, or does not fit the card.
    """
    assert len(batch), "parity of no tiles"
    predictor = Predictor.from_bytes(detector.card, onnx_bytes, threads=1)
    chunks = [batch[i : i + CHUNK] for i in range(0, len(batch), CHUNK)]
    ours = network_logits(detector, chunks)
    theirs = np.concatenate([predictor.logits(chunk) for chunk in chunks])
    quantized = detector.card.quantization is not None
    return compare(ours, theirs, detector.card.score.threshold, quantized=quantized)


def compare(
    reference: Float32, answer: Float32, threshold: float, *, quantized: bool = False
) -> Parity:
    """Return the parity of two sets of logits.

    Args:
        reference: (N, 2), the network's.
        answer: (N, 2), the file's.
        threshold: z at which the decision turns.
        quantized: the file's weights or arithmetic have fewer bits.
    """
    difference = np.abs(answer.astype(np.float64) - reference)
    scale = float(np.abs(reference).max())
    z = reference[:, 1].astype(np.float64) - reference[:, 0] - threshold
    other = answer[:, 1].astype(np.float64) - answer[:, 0] - threshold
    flipped = (z > 0) != (other > 0)
    firm = flipped & (np.abs(z) > FLOAT_BOUND * max(1.0, scale))
    return Parity(
        n=len(reference),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        scale=scale,
        flips=int(flipped.sum()),
        firm_flips=int(firm.sum()),
        quantized=quantized,
    )


def require_parity(parity: Parity, max_flips: float | None = None) -> Parity:
    """Refuse an exported file that answers differently; return the parity where it does not.

    A float32 file must agree up to rounding. A quantized file differs by nature: it is refused only
    where more than `max_flips` of its decisions changed.

    Args:
        parity: of `check_parity`.
        max_flips: largest share of changed decisions of a quantized file; None only reports.

    Raises:
        ParityError: beyond the bound.
    """
    if parity.quantized:
        if max_flips is not None and parity.flip_share > max_flips:
            raise ParityError(
                f"The quantized file decides {parity.flips} of {parity.n} tiles differently; at "
                f"most {max_flips:.1%} are allowed. Calibrate on more images (`images`), try "
                "another `method`, keep `float_input` on, train with `qat`, or export float32."
            )
        return parity
    if not parity.max_abs <= parity.bound or parity.firm_flips:
        raise ParityError(
            f"The exported file does not answer like its network: logits differ by up to "
            f"{parity.max_abs:.2g} (allowed {parity.bound:.2g}) and {parity.firm_flips} of "
            f"{parity.n} decisions changed. The file was not written; please report this "
            "network and the versions that `lydite doctor` shows."
        )
    return parity


def network_logits(detector: Detector, chunks: list[Float32]) -> Float32:
    """Return the network's logits (N, 2) for preprocessed tiles, in evaluation mode."""
    network = detector.network
    with evaluating(network), torch.inference_mode():
        return np.concatenate([network(torch.from_numpy(c)).numpy() for c in chunks])


def manifest_tiles(detector: Detector, manifest: Manifest, count: int, seed: int = 0) -> Float32:
    """Return the preprocessed tiles of `count` images drawn from a manifest, or of all it has.

    Raises:
        DataError: the manifest has no readable image.
        DecodeError: a drawn image cannot be read.
    """
    rows = list(manifest.readable().rows())
    if not rows:
        raise DataError("The manifest for the check holds no readable image.")
    drawn = np.random.default_rng(seed).permutation(len(rows))[:count]
    preprocess = detector.card.preprocess
    return np.concatenate([prepare(decode(rows[i].file), preprocess) for i in sorted(drawn)])


def synthetic_tiles(detector: Detector, count: int = 32, seed: int = 0) -> Float32:
    """Return preprocessed tiles for a check without images: smooth, noisy and flat ones.

    Returns:
        (count, 3, S, S) float32 with pixel values of the whole 0 to 255 range.
    """
    preprocess = detector.card.preprocess
    size = preprocess.size
    draw = np.random.default_rng(seed)
    tiles = np.empty((count, size, size, 3), dtype=np.uint8)
    ramp = np.linspace(0, 1, size)
    for index in range(count):
        slope = draw.normal(0, 80, (2, 3))
        smooth = ramp[:, None, None] * slope[0] + ramp[None, :, None] * slope[1]
        noise = draw.normal(0, (0, 2, 10, 60)[index % 4], (size, size, 3))
        tiles[index] = np.clip(draw.uniform(0, 255, 3) + smooth + noise, 0, 255)
    return normalize(tiles, preprocess)
