"""Every error that Lydite raises on purpose, and the sentence each of them speaks.

An error says what was wrong, the value, what is allowed, and what to do. `LyditeError` is the only
exception that the command line catches: anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LyditeError(Exception):
    """Base of all errors that a user can cause and mend.

    Attributes:
        code: a short, stable reason code for machines (`--json` prints it).
        exit_code: what the command line exits with.
        details: lines that people are shown below the sentence, as a difference needs them.
    """

    code = "error"
    exit_code = 2
    details: tuple[str, ...] = ()


class ConfigError(LyditeError):
    """A recipe, study, option or card field is not allowed."""

    code = "config"


class DecodeError(LyditeError):
    """An image file was refused.

    Args:
        message: the sentence for people.
        code: the reason for machines, one of `lydite.data.decode.REASONS`.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class CardError(LyditeError):
    """A detector's card or weights are damaged, foreign or do not fit together."""

    code = "card"


class DataError(LyditeError):
    """A manifest, folder or selection cannot be used."""

    code = "data"


class FileError(LyditeError):
    """A file could not be read or written; the message names the path."""

    code = "file"


class ResumeError(LyditeError):
    """A run in this folder cannot be continued by this command."""

    code = "resume"


class BusyError(LyditeError):
    """Another process works in the same folder."""

    code = "busy"


class TrainingError(LyditeError):
    """Training cannot go on, for instance because the loss is not finite."""

    code = "training"


class ParityError(LyditeError):
    """An exported file does not answer like the network it came from."""

    code = "parity"


class MissingExtraError(LyditeError):
    """A command needs an optional part of Lydite that is not installed."""

    code = "missing-extra"

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(
            f"This needs {package}, which is not installed. "
            f"Install it with: pip install 'lydite[{extra}]'"
        )
        self.extra = extra


def unknown_name(kind: str, name: str, available: Iterable[str]) -> str:
    """Return the sentence for a name that no registry knows, with a suggestion.

    >>> unknown_name("step", "prun", ["prune", "train"])
    "Unknown step 'prun'. Did you mean 'prune'? Available: prune, train."
    """
    names = sorted(available)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"Unknown {kind} '{name}'.{hint} Available: {', '.join(names)}."
