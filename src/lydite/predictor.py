"""Prediction: numpy, Pillow and onnxruntime; no torch.

Each image is decoded by the one strict decoder, cut by the card's preprocessing, and run as one
batch of its own tiles. A score therefore never depends on what else is predicted, and a path, the
file's bytes, a PIL image, an array, a list and a folder give the same number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from lydite.card import ONNX_NAME, Card, load_card
from lydite.data.decode import Source, decode, describe
from lydite.data.folder import image_files, is_folder
from lydite.data.preprocess import prepare, probability, score_of, verdict
from lydite.data.reasons import refuse
from lydite.errors import CardError, DecodeError
from lydite.explain.patches import PatchMap, Stride, patch_map
from lydite.files import read_bytes
from lydite.onnx_guard import MAX_ONNX_BYTES
from lydite.pack import BASE_NAME, Pack, PackCard
from lydite.pack_folder import load_packs, require_together
from lydite.session import first_line, open_session

Float32 = NDArray[np.float32]
#: dimensions of an array that is several images
_BATCH = 4
#: of a list: paths alone, say, are a list of paths and no list of everything that may be one
AnySource = TypeVar("AnySource", bound=Source)


@dataclass(frozen=True)
class Failure:
    """Why an image has no prediction: a code of `lydite.data.decode.REASONS`, and the sentence."""

    code: str
    message: str


@dataclass(frozen=True)
class Prediction:
    """What a detector says of one image.

    Attributes:
        source: the path as given, or the kind of object ("<bytes>", "<image>", "<array>").
        verdict: "fake", "real" or "unsure"; None after a failure.
        p_fake: probability of being fake as the card defines it, 0 to 1; None after a failure.
        score: the network's z, mean over tiles of logit(fake) - logit(real).
        width: in pixels, upright.
        height: in pixels, upright.
        error: why there is no verdict, else None.
        by: with packs, which variant gave this answer: a pack's name or "base"; else None.
    """

    source: str
    verdict: str | None = None
    p_fake: float | None = None
    score: float | None = None
    width: int | None = None
    height: int | None = None
    error: Failure | None = None
    by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as JSON values, with `by` where packs are in use."""
        values = asdict(self)
        if self.by is None:
            del values["by"]
        return values


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a detector says of one image, and of every place in it.

    Attributes:
        prediction: the same as `Predictor.predict` gives.
        map: scores of the image's tiles, by the variant that spoke for the image.
    """

    prediction: Prediction
    map: PatchMap

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON values."""
        return {"prediction": self.prediction.to_dict(), "map": self.map.to_dict()}


class Predictor:
    """A detector that is ready to predict; made by `lydite.load`.

    It may be used from several threads at once.

    >>> import lydite
    >>> detector = lydite.load()  # doctest: +SKIP
    >>> detector.predict("photo.jpg").verdict  # doctest: +SKIP
    'real'

    With packs each image is judged by several variants of the detector: by the base as it is, and
    by the base with each pack. They see the same tiles, and the one that is surest of a fake speaks
    for the image, because each knows generators that the others do not. That has a price on
    photographs: any of the variants may be wrong about one. If each calls a share a of the
    photographs fake, the k variants together call up to k * a of them fake, and
    1 - (1 - a)^k where their errors have nothing to do with each other. Measure it with the very
    packs in use, or use fewer. Time per image grows with k as well.

    Attributes:
        card: everything about the detector that is not a weight.
        packs: the cards of the packs in use.
    """

    def __init__(self, card: Card, session: ort.InferenceSession) -> None:
        self.card = card
        self.packs: tuple[PackCard, ...] = ()
        self._session = session
        self._input: str = session.get_inputs()[0].name
        self._output: str = session.get_outputs()[0].name
        #: who may answer: this detector as it is, and each pack's own predictor
        self._variants: dict[str, Predictor] = {BASE_NAME: self}
        #: what `from_bytes` was given, to open it again elsewhere
        self._given: tuple[Card, bytes, tuple[Pack, ...], int | None] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Open the same detector again, in another process say; a session cannot be copied."""
        if self._given is None:
            raise TypeError("A predictor made of a session cannot be copied. Use `from_bytes`.")
        return _reopened, self._given

    @classmethod
    def open(
        cls,
        detector: str | Path | None = None,
        *,
        packs: Sequence[str | Path] | str | Path = (),
        threads: int | None = None,
    ) -> Predictor:
        """Open a detector folder.

        Args:
            detector: the folder, or None for the detector inside the package.
            packs: folders of adapter packs for this detector, single or merged; or one folder.
            threads: CPU threads to use; None lets the runtime decide.

        Raises:
            CardError: no detector, a damaged one, or one that was never exported; or a pack that
                is damaged or belongs to another detector.
            ConfigError: two packs have one name, or `threads` is below 1.
            FileError: unreadable.
        """
        folder = packaged_detector() if detector is None else Path(detector)
        card = load_card(folder)
        if ONNX_NAME not in card.files:
            raise CardError(f"{folder} holds no {ONNX_NAME}. Make one with: lydite export {folder}")
        onnx = read_bytes(folder / ONNX_NAME, MAX_ONNX_BYTES)
        folders = [packs] if isinstance(packs, str | Path) else packs
        loaded = [pack for path in folders for pack in load_packs(Path(path))]
        return cls.from_bytes(card, onnx, packs=loaded, threads=threads)

    @classmethod
    def from_bytes(
        cls, card: Card, onnx: bytes, *, packs: Sequence[Pack] = (), threads: int | None = None
    ) -> Predictor:
        """Return a predictor for a card and an exported network.

        Args:
            card: preprocessing and meaning of the score.
            onnx: the ONNX file's content; float32 (N, 3, S, S) to (N, 2), N free.
            packs: adapter packs for this very file.
            threads: CPU threads to use; None lets the runtime decide.

        Raises:
            CardError: not an ONNX model, not allowed, or not one that fits the card; or a pack that
                belongs to another detector.
            ConfigError: two packs have one name.
        """
        predictor = cls(card, open_session(card, onnx, threads))
        for pack in packs:
            pack.require_base(card, onnx)
        require_together(packs)
        for pack in packs:
            adapted, made = pack.apply(card, onnx)
            predictor._variants[pack.card.name] = cls(adapted, open_session(adapted, made, threads))
        predictor.packs = tuple(pack.card for pack in packs)
        predictor._given = (card, onnx, tuple(packs), threads)
        return predictor

    def logits(self, batch: Float32) -> Float32:
        """Return the base's logits (T, 2), real then fake, for a normalized batch (T, 3, S, S).

        Raises:
            CardError: the network's answer is not finite or has the wrong shape.
        """
        try:
            (values,) = self._session.run([self._output], {self._input: batch})
        except Exception as error:
            raise CardError(f"The detector {self.card.name} failed: {first_line(error)}") from error
        logits = np.asarray(values, dtype=np.float32)
        if logits.shape != (len(batch), 2):
            raise CardError(
                f"The detector {self.card.name} answered with shape {logits.shape}; "
                f"expected {(len(batch), 2)}."
            )
        if not np.isfinite(logits).all():
            raise CardError(
                f"The detector {self.card.name} answered NaN or infinity; its weights are damaged."
            )
        return logits

    def score(self, source: Source) -> float:
        """Return an image's score z; with packs, that of the variant which speaks for it.

        Raises:
            DecodeError: the image cannot be used.
        """
        _, _, z = self._speaker(decode(source))
        return z

    @overload
    def predict(self, source: bytes | Image.Image | NDArray[Any]) -> Prediction: ...
    @overload
    def predict(self, source: list[AnySource] | tuple[AnySource, ...]) -> list[Prediction]: ...
    @overload
    def predict(self, source: str | Path) -> Prediction | list[Prediction]: ...
    def predict(
        self, source: Source | list[AnySource] | tuple[AnySource, ...]
    ) -> Prediction | list[Prediction]:
        """Predict one image, a list of images, or a folder.

        Args:
            source: a path, a file's bytes, a PIL image, or an array (see
                `lydite.data.decode.decode`); a list of these; or a folder's path.

        Returns:
            One prediction, or for lists and folders a list of them (see `predict_many`).

        Raises:
            DecodeError: a single image cannot be used. In a list or folder such an image gets a
                prediction that carries the error.
        """
        if isinstance(source, list | tuple):
            return list(self.predict_many(source))
        if isinstance(source, str | Path) and is_folder(source):
            return list(self.predict_many([source]))
        return self._predict(source)

    def predict_many(self, sources: Iterable[Source] | Source) -> Iterator[Prediction]:
        """Yield a prediction for each image, in order; bad images yield their error.

        A folder stands for every file in it and below, sorted by path. Names that begin with a dot
        are left out, links to folders are not followed, and a file's suffix does not matter: a
        file that is not an image yields an error. A single source counts as a list of one.
        """
        if isinstance(sources, str | Path | bytes | Image.Image):
            sources = [sources]  # not its letters, of which "/" is a folder
        elif isinstance(sources, np.ndarray) and sources.ndim < _BATCH:
            sources = [sources]  # not its rows
        for source in sources:
            if isinstance(source, str | Path) and is_folder(source):
                for file, error in image_files(Path(source)):
                    yield _failed(file, error) if error else self._attempt(file)
            else:
                yield self._attempt(source)

    def explain(self, source: Source, *, stride: Stride | None = None) -> Explanation:
        """Predict one image, and show which places of it made the score.

        Every tile of a grid is scored by the network, nothing else. With stride "card" these are
        the tiles of a prediction, and the mean of the map's `z` is the image's score; with any
        other stride there are more tiles, and their mean is near the score but not equal to it.

        Args:
            source: a path, a file's bytes, a PIL image, or an array.
            stride: pixels between neighboring tiles at most, from edge to edge; half a tile unless
                given (a whole one in images of many tiles); or "card".

        Raises:
            DecodeError: the image cannot be used.
            ConfigError: a stride that is not allowed, or that makes too many tiles.
        """
        rgb = decode(source)
        prediction = self._judge(source, rgb)
        variant = self._variants[prediction.by or BASE_NAME]
        card = variant.card
        scores = patch_map(rgb, card.preprocess, card.score, variant.logits, stride)
        return Explanation(prediction, scores)

    def _attempt(self, source: Source) -> Prediction:
        try:
            return self._predict(source)
        except DecodeError as error:
            return _failed(source, error)

    def _predict(self, source: Source) -> Prediction:
        return self._judge(source, decode(source))

    def _judge(self, source: Source, rgb: NDArray[np.uint8]) -> Prediction:
        try:
            name, p_fake, z = self._speaker(rgb)
        except DecodeError as error:  # too small; decoding has named the image in its own errors
            raise DecodeError(f"{describe(source)}: {error}", error.code) from error
        except MemoryError as error:
            raise refuse("out-of-memory", describe(source)) from error
        return Prediction(
            source=_name(source),
            verdict=verdict(p_fake, self._variants[name].card.score),
            p_fake=p_fake,
            score=z,
            width=rgb.shape[1],
            height=rgb.shape[0],
            by=name if self.packs else None,
        )

    def _speaker(self, rgb: NDArray[np.uint8]) -> tuple[str, float, float]:
        """Return name, p_fake and z of the variant that is surest of a fake; of equals, the first.

        The image is cut once, by the preprocessing that all variants share.
        """
        batch = prepare(rgb, self.card.preprocess)
        scores = {name: score_of(each.logits(batch)) for name, each in self._variants.items()}
        chances = {
            name: float(probability(z, self._variants[name].card.score))
            for name, z in scores.items()
        }
        name = max(chances, key=chances.__getitem__)
        return name, chances[name], scores[name]


def packaged_detector() -> Path:
    """Return the folder of the detector inside the package.

    Raises:
        CardError: this installation holds none.
    """
    folder = Path(str(resources.files("lydite").joinpath("weights", "default")))
    if not folder.is_dir():
        raise CardError(
            "This installation of lydite holds no detector. Name one with --detector DIR, or "
            "reinstall with: pip install --force-reinstall lydite"
        )
    return folder


def _failed(source: Source, error: DecodeError) -> Prediction:
    return Prediction(_name(source), error=Failure(error.code, str(error)))


def _name(source: Source) -> str:
    return str(source) if isinstance(source, str | Path) else describe(source)


def _reopened(card: Card, onnx: bytes, packs: tuple[Pack, ...], threads: int | None) -> Predictor:
    """Return a predictor of what another one was made of."""
    return Predictor.from_bytes(card, onnx, packs=packs, threads=threads)
