"""`lydite predict`: a verdict for every image."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from lydite.cli import STDIN
from lydite.cli.output import emit
from lydite.cli.stdin import read_stdin
from lydite.data.reasons import printable

if TYPE_CHECKING:
    from lydite.card import Card
    from lydite.pack import PackCard
    from lydite.predictor import Prediction, Predictor


def register(app: App) -> None:
    """Add the command to the application."""
    app.command(predict, name="predict")


def predict(
    *paths: Annotated[str, Parameter(required=True, allow_leading_hyphen=False)],
    detector: Path | None = None,
    pack: Annotated[tuple[Path, ...], Parameter(consume_multiple=False)] = (),
    json: bool = False,
    threads: int | None = None,
) -> int:
    """Say of images whether they look AI-generated.

    Each line gives a verdict ("fake", "real", or "unsure" where the detector cannot tell), the
    probability of being fake, and the path. With packs, the base or the pack that is surest of a
    fake speaks for the image, and the line names it before the path; the more packs, the more
    photographs are called fake. The exit status is 1 when an image could not be read.

    Args:
        paths: images or folders; "-" reads one image from standard input. Names that begin with a
            dash go after "--", and a file that is called "-" is written "./-".
        detector: a detector folder, instead of the detector inside the package.
        pack: folder of an adapter pack for this detector, single or merged; may be repeated.
        json: print one JSON document.
        threads: CPU threads to use.
    """
    from lydite.errors import ConfigError
    from lydite.predictor import Predictor

    if threads is not None and threads < 1:
        raise ConfigError(f"--threads must be 1 or more. Got {threads}.")
    predictor = Predictor.open(detector, packs=pack, threads=threads)
    bad = _print_json(predictor, paths) if json else _print_lines(predictor, paths)
    return 1 if bad else 0


def _predictions(predictor: Predictor, paths: tuple[str, ...]) -> Iterator[Prediction]:
    from lydite.errors import DecodeError
    from lydite.predictor import Failure, Prediction

    for path in paths:
        if path in (STDIN, "-"):
            try:
                data = read_stdin()
            except DecodeError as error:
                yield Prediction("-", error=Failure(error.code, str(error)))
                continue
            for prediction in predictor.predict_many([data]):
                failure = prediction.error
                if failure is not None:
                    message = "-" + failure.message.removeprefix("<bytes>")
                    failure = replace(failure, message=message)
                yield replace(prediction, source="-", error=failure)
        else:
            yield from predictor.predict_many([path])


def _print_json(predictor: Predictor, paths: tuple[str, ...]) -> bool:
    predictions = list(_predictions(predictor, paths))
    value = {
        "detector": described(predictor.card),
        **({"packs": [described(pack) for pack in predictor.packs]} if predictor.packs else {}),
        "predictions": [prediction.to_dict() for prediction in predictions],
    }
    emit(value, True, "")
    return any(prediction.error for prediction in predictions)


def _print_lines(predictor: Predictor, paths: tuple[str, ...]) -> bool:
    """Print each line as soon as it is known; say on stderr why an image has no verdict."""
    from lydite.pack import BASE_NAME

    bad = False
    names = [BASE_NAME, *(pack.name for pack in predictor.packs)] if predictor.packs else []
    width = max(map(len, names), default=0)
    for prediction in _predictions(predictor, paths):
        name = printable(prediction.source)
        if prediction.error is not None:
            bad = True
            by = f"{'-':<{width}}  " if width else ""
            emit(None, False, f"{'error':<6}     -  {by}{name}")
            sys.stderr.write(f"{printable(prediction.error.message)}\n")
        else:
            by = f"{prediction.by:<{width}}  " if width else ""
            emit(None, False, f"{prediction.verdict:<6} {prediction.p_fake:5.3f}  {by}{name}")
    return bad


def described(card: Card | PackCard) -> dict[str, Any]:
    """Return what a document says of the detector or pack that answered."""
    return {
        "name": card.name,
        "digest": card.digest,
        "threshold": card.score.threshold,
        "temperature": card.score.temperature,
        "band": list(card.score.band),
        **({} if card.score.conformal is None else {"alpha": card.score.conformal.alpha}),
        "limits": list(card.limits),
    }
