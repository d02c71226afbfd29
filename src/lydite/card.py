"""The card: everything about a detector that is not a weight, as data.

A detector on disk is a folder with `card.json` and the files that the card lists with their
digests (`model.safetensors` for training, `model.onnx` for prediction). From the card alone the
network is rebuilt: its name, its input, and every structural edit that pruning or factorization
made, replayed in order. Nothing here needs torch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from lydite.config import Fraction, Frozen, Sha256, validation_sentence
from lydite.edits import Edit
from lydite.errors import CardError
from lydite.files import digest, is_file, parse_json, read_bytes, sha256_file

CARD_NAME = "card.json"
CARD_VERSION = 5
#: which format a word came with, all others with the first; a card says the lowest version that
#: knows its words, so that an older lydite asks for an upgrade instead of calling it damaged
_SINCE = {
    **dict.fromkeys(("keep_slices", "factorize_linear", "factorize_conv"), 2),
    **dict.fromkeys(("weight-int8", "float16", "bfloat16"), 2),
    "add_adapter": 3,
    "conformal": 4,
    "weight_bits": 5,
}
WEIGHTS_NAME = "model.safetensors"
#: bits of an int8 weight that "static-int8" may use, and those that it uses unless told otherwise
WeightBits = Literal[7, 8]
FULL_BITS: WeightBits = 8
ONNX_NAME = "model.onnx"
#: what an image is normalized by; beyond these a float32 input is infinite, and says nothing
Mean = Annotated[float, Field(ge=-1e3, le=1e3)]
Deviation = Annotated[float, Field(ge=1e-3, le=1e3)]
MAX_CARD_BYTES = 10 * 1024 * 1024


class Preprocess(Frozen):
    """How an image becomes the network's input, once for training, export and every runtime.

    The upright RGB image is cut into square tiles of `size` pixels, never resized: `tiles` per
    side at most, evenly spaced from edge to edge. An image with a side under `size` is mirrored
    outwards up to `size`; one with a side under `min_side` is refused. With `fit="resize"` the
    whole image is scaled to one square instead (what the paper does).

    Attributes:
        size: side of the network's input in pixels.
        fit: "tiles" (crops at the image's own scale) or "resize" (one scaled copy).
        tiles: largest number of tiles per side; an image yields 1 to `tiles` squared tiles.
        min_side: an image with a shorter side than this is refused.
        mean: per-channel mean on the 0..1 scale, subtracted.
        std: per-channel standard deviation on the 0..1 scale, divided by.
    """

    size: Annotated[int, Field(ge=32, le=1024)] = 64
    fit: Literal["tiles", "resize"] = "tiles"
    tiles: Annotated[int, Field(ge=1, le=8)] = 3
    min_side: Annotated[int, Field(ge=1)] = 32
    mean: tuple[Mean, Mean, Mean] = (0.5, 0.5, 0.5)
    std: tuple[Deviation, Deviation, Deviation] = (0.5, 0.5, 0.5)


class Architecture(Frozen):
    """Which network, before any edit.

    Attributes:
        network: a name of `lydite.models.NETWORKS`, or `timm/<name>`.
        input_size: side of the square input in pixels.
        config: further arguments of the network's builder.
    """

    network: str
    input_size: Annotated[int, Field(ge=32, le=1024)] = 64
    config: dict[str, Any] = {}


class Quantization(Frozen):
    """Numbers of fewer bits in the exported file.

    Attributes:
        scheme: "linear-int8" (the paper's: weights of linear layers in int8, activations quantized
            on the fly) or "static-int8" (all convolutions and linear layers, QDQ, uint8
            activations and int8 weights) compute in integers; "weight-int8", "float16" and
            "bfloat16" store weights that small and compute in float32.
        ranges: for "static-int8", the calibrated (low, high) of each tensor of the exported float
            graph, by the tensor's name.
        calibration: digest of the images that the ranges were measured on.
        n: how many images.
        weight_bits: of the int8 weights of "static-int8", how many are used. With 7 (-64 to 64) two
            products with uint8 fit in 16 bits, so that sums are exact on every processor, with its
            faster kernels too; see `lydite.session.session_options`.
    """

    scheme: Literal["linear-int8", "static-int8", "weight-int8", "float16", "bfloat16"]
    ranges: dict[str, tuple[float, float]] = {}
    calibration: Sha256 | None = None
    n: int = 0
    weight_bits: WeightBits = FULL_BITS

    @model_serializer(mode="wrap")
    def _plainly(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the usual bits, so that cards of before there were others keep their digest."""
        value: dict[str, Any] = handler(self)
        return {k: v for k, v in value.items() if k != "weight_bits" or v != FULL_BITS}

    @model_validator(mode="after")
    def _bits_of_layers(self) -> Quantization:
        if self.weight_bits != FULL_BITS and self.scheme != "static-int8":
            raise ValueError(f"`weight_bits` is for static-int8; got it with {self.scheme}")
        return self


class ConformalBand(Frozen):
    """What is promised of verdicts on images like those of the validation split.

    At most a share `alpha` of the reals has a z above `high`, and of the fakes a z under `low`; see
    `lydite.evaluate.conformal`. The band that verdicts go by follows from it and the threshold.

    Attributes:
        alpha: share of each class that may be called wrong.
        low: end of the fakes, in z.
        high: end of the reals, in z.
        n_real: groups of validation reals that `high` rests on.
        n_fake: groups of validation fakes that `low` rests on.
    """

    alpha: Annotated[float, Field(gt=0, lt=0.5)]
    low: float
    high: float
    n_real: Annotated[int, Field(ge=1)]
    n_fake: Annotated[int, Field(ge=1)]


class ScoreMeaning(Frozen):
    """What the score means and where the verdict turns.

    The network's score of an image is z, the mean over tiles of logit(fake) - logit(real). The
    probability is p = 1 / (1 + exp(-(z - threshold) / temperature)); p above `band[1]` reads
    "fake", below `band[0]` "real", anything between "unsure". `p > 0.5` is the forced decision.

    Attributes:
        threshold: z at which p is one half, chosen on the validation split.
        temperature: spread of z, fitted on the validation split.
        band: (low, high) probabilities of the "unsure" band.
        fitted_on: digest of the validation selection; None while nothing was fitted.
        n: how many validation images.
        rule: how threshold and band were chosen, in words.
        conformal: the promise that the band keeps; None where it was chosen otherwise.
    """

    threshold: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    temperature: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    band: tuple[Fraction, Fraction] = (0.5, 0.5)
    fitted_on: Sha256 | None = None
    n: int = 0
    rule: str = "not fitted"
    conformal: ConformalBand | None = None

    @model_serializer(mode="wrap")
    def _plainly(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an absent promise, so that cards without one keep their digest."""
        value: dict[str, Any] = handler(self)
        return {k: v for k, v in value.items() if k != "conformal" or v is not None}

    @model_validator(mode="after")
    def _band_around_half(self) -> ScoreMeaning:
        low, high = self.band
        if not low <= 0.5 <= high:
            raise ValueError(f"the unsure band must hold 0.5; got {self.band}")
        return self


class Figure(Frozen):
    """One measured number, with everything needed to believe it.

    Attributes:
        metric: "accuracy", "auc", "latency_ms", ...
        value: the number; None where it is not defined (for instance the AUC of one class).
        low: lower end of the 95 % interval, if there is one.
        high: upper end.
        n: how many images (or repetitions) it rests on.
        slice: what it was measured on, such as {"domain": "stargan", "split": "test"}.
    """

    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    slice: dict[str, str] = {}


class FileEntry(Frozen):
    """A file beside the card."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class Card(Frozen):
    """A detector, less its weights.

    Attributes:
        format: always "lydite-detector".
        version: of this format, the lowest that can say all of this; a newer one is refused.
        name: for people.
        architecture: the network before any edit.
        edits: structural edits, replayed in order when the network is rebuilt.
        preprocess: how an image becomes input.
        score: what the number means.
        quantization: fewer bits in the exported file, if any.
        key: digest of the recipe so far and of its data; what the cache goes by.
        parent: key of the detector this one was made from.
        steps: the steps that made it, first to last, as they stand in a recipe.
        data: digests of the selections it saw, by role ("train", "val", ...).
        sources: what the data were and under which licences, in words.
        seed: of the recipe.
        versions: of lydite and the libraries that made it.
        training: what the last step reports of itself (steps run, loss, seconds).
        measured: numbers measured on this very detector.
        limits: what it cannot do, in plain words.
        files: the files beside the card.
    """

    format: Literal["lydite-detector"] = "lydite-detector"
    version: Annotated[int, Field(ge=1, le=CARD_VERSION)] = 1
    name: Annotated[str, Field(min_length=1, max_length=120)]
    architecture: Architecture
    edits: tuple[Edit, ...] = ()
    preprocess: Preprocess = Preprocess()
    score: ScoreMeaning = ScoreMeaning()
    quantization: Quantization | None = None
    key: Sha256
    parent: Sha256 | None = None
    steps: tuple[dict[str, Any], ...] = ()
    data: dict[str, Sha256] = {}
    sources: tuple[str, ...] = ()
    seed: int = 0
    versions: dict[str, str] = {}
    training: dict[str, float | int | str | None] = {}
    measured: tuple[Figure, ...] = ()
    limits: tuple[str, ...] = ()
    files: dict[str, FileEntry] = {}

    @model_validator(mode="before")
    @classmethod
    def _lowest_version(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("version", 1), int):
            return value
        edits = value.get("edits")
        listed = edits if isinstance(edits, list | tuple) else ()
        named: set[Any] = {_member(edit, "op") for edit in listed}
        named.add(_member(value.get("quantization"), "scheme"))
        named.add("conformal" if promises(value.get("score")) else None)
        bits = _member(value.get("quantization"), "weight_bits")
        named.add("weight_bits" if bits not in (None, FULL_BITS) else None)
        needed = max(_SINCE.get(word, 1) for word in named)
        return value | {"version": max(value.get("version", 1), needed)}

    @field_validator("files")
    @classmethod
    def _plain_names(cls, value: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or ".." in name:
                raise ValueError(f"file name {name!r} must be a plain name without folders")
        return value

    @model_validator(mode="after")
    def _sizes_agree(self) -> Card:
        if self.architecture.input_size != self.preprocess.size:
            raise ValueError(
                f"the network takes {self.architecture.input_size} px "
                f"but preprocessing gives {self.preprocess.size} px"
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON values, in the order of the fields."""
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """SHA-256 over the card, and through its file digests over the weights."""
        return digest(self.to_json())


def _member(item: Any, name: str) -> str | int | None:
    """Return a word or number of a JSON object or of the model made from it."""
    found = item.get(name) if isinstance(item, dict) else getattr(item, name, None)
    return found if isinstance(found, str | int) else None


def promises(score: Any) -> bool:
    """Tell whether a score's meaning, as JSON or as a model, has a conformal band."""
    found = score.get("conformal") if isinstance(score, dict) else getattr(score, "conformal", None)
    return found is not None


def parse_card(value: Any, where: str) -> Card:
    """Return the card in a JSON value.

    Args:
        value: what `json.loads` gave.
        where: the file's name, for the message.

    Raises:
        CardError: wrong format, newer version, unknown key, or a value that is not allowed.
    """
    if not isinstance(value, dict) or value.get("format") != "lydite-detector":
        raise CardError(f"{where} is not the card of a lydite detector.")
    version = value.get("version")
    if isinstance(version, int) and version > CARD_VERSION:
        raise CardError(
            f"{where} has format version {version}; this lydite reads up to {CARD_VERSION}. "
            "Upgrade lydite to use it."
        )
    try:
        return Card.model_validate_json(_as_json_text(value))
    except ValidationError as error:
        raise CardError(f"{where} is not a valid card: {validation_sentence(error)}") from error


def load_card(folder: Path, *, verify: bool = True) -> Card:
    """Read and check `folder/card.json` and, with `verify`, the digest of every file it lists.

    Raises:
        CardError: no card, a damaged card, or a file that is missing or not the one described.
        FileError: unreadable.
    """
    path = folder / CARD_NAME
    if not is_file(path):
        raise CardError(f"{folder} is not a detector: it has no {CARD_NAME}.")
    try:
        value = parse_json(read_bytes(path, MAX_CARD_BYTES))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CardError(f"{path} is not valid JSON: {error}.") from error
    card = parse_card(value, str(path))
    if verify:
        for name, entry in card.files.items():
            file = folder / name
            if file.is_symlink() or not is_file(file):
                raise CardError(f"{folder} lacks the file {name} that its card lists.")
            if file.stat().st_size != entry.size_bytes or sha256_file(file) != entry.sha256:
                raise CardError(
                    f"{file} is not the file its card describes (size or SHA-256 differ). "
                    "It is damaged or was exchanged; get the detector anew."
                )
    return card


def file_entry(data: bytes) -> FileEntry:
    """Return the card's entry for a file with this content."""
    from lydite.files import sha256_bytes

    return FileEntry(sha256=sha256_bytes(data), size_bytes=len(data))


def _as_json_text(value: dict[str, Any]) -> str:
    import json

    return json.dumps(value)
