"""Why an image is refused: a closed table of reason codes, and the sentence for each."""

from __future__ import annotations

import unicodedata

from lydite.errors import DecodeError

#: largest file that is read, in bytes
MAX_FILE_BYTES = 100_000_000
#: largest image that is decoded, in pixels; refused from the header
MAX_PIXELS = 8192 * 6144
#: most frames of an animation or pages of a document; refused from the header
MAX_FRAMES = 1000

#: what every code of a `DecodeError` means; there are no others
REASONS: dict[str, str] = {
    "missing": "there is no such file",
    "not-a-file": "this is a folder, pipe or device, not a file",
    "unreadable": "the file cannot be read",
    "empty": "the file is empty",
    "file-too-large": f"the file is larger than the {MAX_FILE_BYTES:,} bytes allowed",
    "not-an-image": "the content is not an image in a format that is read here "
    "(AVIF, BMP, GIF, JPEG, JPEG 2000, PNG, PNM, TIFF, WebP)",
    "vector": "SVG, EPS and PDF are drawings, not photographs; render it to PNG first",
    "heic": "HEIC is not supported; convert it to JPEG or PNG without editing it",
    "damaged-header": "the header is damaged",
    "too-many-pixels": f"the image has more than the {MAX_PIXELS:,} pixels allowed",
    "too-many-frames": f"the image has more than the {MAX_FRAMES:,} frames allowed",
    "truncated": "the file ends before its pixels do",
    "corrupt": "the pixel data is damaged",
    "digest": "the file is not the one whose digest is on record; if it was changed, scan again",
    "late-tables": "a quantization table of this JPEG only comes after its first scan",
    "unsupported-mode": "this kind of pixel has no fixed black and white "
    "(floating point, or integers of 32 bits); convert it to 8 or 16 bits first",
    "out-of-memory": "there is not enough memory to decode the image",
    "bad-array": "an array of pixels must be uint8 of shape (height, width, 3), RGB, or "
    "(height, width), gray, and not empty",
    "bad-source": "an image is given as a path, bytes, a PIL image or an array",
    "too-small": "the image is smaller than the detector allows",
}


def printable(text: str) -> str:
    r"""Return `text` on one line: control and unpaired characters are written as escapes.

    >>> printable("a\nb")
    'a\\nb'
    """
    return "".join(c.encode("unicode_escape").decode("ascii") if _hidden(c) else c for c in text)


def refuse(code: str, where: str, detail: str = "") -> DecodeError:
    """Return the error for a reason code.

    Args:
        code: a key of `REASONS`.
        where: which image, for people.
        detail: what was found instead, if there is more to say.
    """
    sentence = f"{printable(where)}: {REASONS[code]}"
    return DecodeError(sentence + (f" ({printable(detail)[:200]})" if detail else ""), code)


def _hidden(character: str) -> bool:
    # Cc control, Cf bidirectional overrides, Cs surrogates of undecodable names, Zl/Zp line breaks
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
