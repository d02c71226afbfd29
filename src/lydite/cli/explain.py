"""`lydite explain`: which places of an image made its score, as pictures and as numbers."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from lydite.cli import STDIN
from lydite.cli.output import emit
from lydite.cli.stdin import read_stdin
from lydite.data.reasons import printable

if TYPE_CHECKING:
    from lydite.data.decode import Source
    from lydite.errors import DecodeError
    from lydite.explain.patches import Stride
    from lydite.predictor import Explanation, Predictor

#: the list of everything in the folder
INDEX = "maps.json"
#: of a stride on the command line; Python refuses to read far longer ones
_MOST_DIGITS = 9


def register(app: App) -> None:
    """Add the command to the application."""
    app.command(explain, name="explain")


def explain(
    *paths: Annotated[str, Parameter(required=True, allow_leading_hyphen=False)],
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("maps"),
    stride: str | None = None,
    detector: Path | None = None,
    pack: Annotated[tuple[Path, ...], Parameter(consume_multiple=False)] = (),
    json: bool = False,
    threads: int | None = None,
) -> int:
    """Show which places of an image look generated to the detector.

    Every image gets a picture (blue where a tile looks real, orange where it looks fake, gray
    where the detector cannot tell) and a JSON file with the scores of all tiles. The verdict is
    that of `lydite predict`. The exit status is 1 when an image could not be read.

    Args:
        paths: images or folders; "-" reads one image from standard input. Names that begin with a
            dash go after "--", and a file that is called "-" is written "./-".
        out: a new or empty folder for the maps; maps.json in it lists them.
        stride: pixels between neighboring tiles at most, or "card" for exactly the tiles of a
            prediction; half a tile unless given.
        detector: a detector folder, instead of the detector inside the package.
        pack: folder of an adapter pack for this detector, single or merged; may be repeated.
        json: print one JSON document, the content of maps.json.
        threads: CPU threads to use.
    """
    from lydite.cli.folder import new_folder
    from lydite.cli.predict import described
    from lydite.errors import ConfigError
    from lydite.predictor import Predictor

    if threads is not None and threads < 1:
        raise ConfigError(f"--threads must be 1 or more. Got {threads}.")
    if str(out) in (STDIN, "-"):
        raise ConfigError("--out names a folder for the maps; they cannot go to standard output.")
    wanted = _parse_stride(stride)
    with new_folder(out) as folder:
        predictor = Predictor.open(detector, packs=pack, threads=threads)
        maps = []
        for number, (name, source) in enumerate(_sources(paths), start=1):
            maps.append(_write_map(predictor, number, name, source, wanted, folder))
            if not json:
                _print_line(maps[-1])
        value = {
            "format": "lydite-maps",
            "version": 1,
            "detector": described(predictor.card),
            **({"packs": [described(p) for p in predictor.packs]} if predictor.packs else {}),
            "maps": maps,
        }
        _write_json(folder / INDEX, value)
    emit(value, json, f"maps in {printable(str(out))}")
    return 1 if any(entry["error"] for entry in maps) else 0


def _parse_stride(text: str | None) -> Stride | None:
    from lydite.errors import ConfigError

    if text is None or text == "card":
        return text  # type: ignore[return-value]
    digits = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    if not digits or int(text) < 1:
        raise ConfigError(f"--stride must be 1 pixel or more, or 'card'. Got {text!r}.")
    return int(text)


def _sources(paths: tuple[str, ...]) -> Iterator[tuple[str, Source | DecodeError]]:
    """Yield every image's name, and where it is read from or why it cannot be."""
    from lydite.data.folder import image_files, is_folder
    from lydite.errors import DecodeError

    for path in paths:
        if path in (STDIN, "-"):
            try:
                yield "-", read_stdin()
            except DecodeError as closed:
                yield "-", closed
        elif is_folder(path):
            for file, error in image_files(Path(path)):
                yield str(file), error or file
        else:
            yield path, path


def _write_map(
    predictor: Predictor,
    number: int,
    name: str,
    source: Source | DecodeError,
    stride: Stride | None,
    folder: Path,
) -> dict[str, Any]:
    """Write picture and numbers of one image; return its entry in the list."""
    from lydite.cli.folder import safe_name
    from lydite.data.decode import decode, describe
    from lydite.errors import DecodeError
    from lydite.explain.overlay import picture_bytes
    from lydite.explain.patches import TooManyTilesError
    from lydite.files import write_bytes

    try:
        if isinstance(source, DecodeError):
            raise source
        rgb = decode(source)
    except DecodeError as error:
        return _refused(name, error.code, str(error))
    try:
        found = predictor.explain(rgb, stride=stride)
    except (DecodeError, TooManyTilesError) as error:
        code = error.code if isinstance(error, DecodeError) else "too-many-tiles"
        words = str(error).removeprefix(f"{describe(rgb)}: ")
        return _refused(name, code, f"{printable(name)}: {words}")
    stem = safe_name(number, "stdin" if name == "-" else name)
    entry = found.prediction.to_dict() | {"source": name}
    write_bytes(folder / f"{stem}.png", picture_bytes(rgb, found.map, _caption(found)))
    _write_json(folder / f"{stem}.json", {"prediction": entry, "map": found.map.to_dict()})
    return entry | {"picture": f"{stem}.png", "scores": f"{stem}.json"}


def _refused(name: str, code: str, message: str) -> dict[str, Any]:
    """Return the entry of an image of which there is no map."""
    from lydite.predictor import Failure, Prediction

    failed = Prediction(name, error=Failure(code, message))
    return failed.to_dict() | {"picture": None, "scores": None}


def _caption(found: Explanation) -> str:
    """Return what stands beneath the picture."""
    said = found.prediction
    return (
        f"p(fake) of each place, blue real, orange fake; image: {said.verdict}, {said.p_fake:.3f}"
    )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON whose ASCII escapes keep any file name intact, also one that is no text."""
    from lydite.files import write_bytes

    write_bytes(path, (jsonlib.dumps(value, allow_nan=False) + "\n").encode("ascii"))


def _print_line(entry: dict[str, Any]) -> None:
    """Print the verdict as soon as it is known; say on stderr why there is none."""
    name = printable(entry["source"])
    if entry["error"]:
        emit(None, False, f"{'error':<6}     -  {name}")
        sys.stderr.write(f"{printable(entry['error']['message'])}\n")
    else:
        picture = entry["picture"]
        emit(None, False, f"{entry['verdict']:<6} {entry['p_fake']:5.3f}  {name}  {picture}")
