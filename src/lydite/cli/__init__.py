"""The command line: it parses, calls the same functions that Python users call, and prints.

Every command is one small module with a `register(app)`; only the module of the command that was
typed is imported, so that `lydite predict` loads neither torch nor pyarrow. Whatever goes wrong
ends as one line on stderr, or with `--json` as one object on stdout, and an exit status:

| status | meaning |
|---|---|
| 0 | done |
| 1 | done, and something was found wrong with the user's images, data or installation |
| 2 | not done: the arguments, a file or a setting is wrong |
| 130, 143 | stopped by Ctrl-C, by SIGTERM; the same command goes on where it can |
| 141 | whoever read the output went away |
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lydite import __version__
from lydite.errors import FileError, LyditeError, MissingExtraError

if TYPE_CHECKING:
    from cyclopts import App

#: every command, the module that registers it, and one line of help
COMMANDS: dict[str, tuple[str, str]] = {
    "predict": ("lydite.cli.predict", "Say of images whether they look AI-generated."),
    "explain": ("lydite.cli.explain", "Show which places of an image made its score."),
    "pack": ("lydite.cli.pack", "Show, merge and divide adapter packs."),
    "doctor": ("lydite.cli.doctor", "Check the installation."),
    "data": ("lydite.cli.data", "Scan folders of images, check them, make demo data."),
    "run": ("lydite.cli.run", "Make a detector by a recipe."),
    "study": ("lydite.cli.study", "Run several recipes over one data set, with a report."),
    "adapt": ("lydite.cli.adapt", "Teach a detector a new generator; the difference is a pack."),
    "compress": ("lydite.cli.compress", "Make a detector smaller, down to a rate or a budget."),
    "evaluate": ("lydite.cli.evaluate", "Score a detector on a manifest."),
    "export": ("lydite.cli.export", "Export a detector for prediction, and check that it agrees."),
    "bench": ("lydite.cli.bench", "Measure latency and size of exported detectors."),
    "sensitivity": ("lydite.cli.sensitivity", "Measure which channel groups can be spared."),
    "place": ("lydite.cli.place", "Predict where an adapter belongs, before any training."),
    "report": ("lydite.cli.report", "Turn results into one offline HTML page."),
    "publish": ("lydite.cli.publish", "Write a study's detector as a folder to give away."),
    "models": ("lydite.cli.models", "List the networks and what they cost."),
    "schema": ("lydite.cli.schema", "Print the JSON schema of recipes and studies."),
}

#: which extra brings a package, for commands that find it missing
EXTRAS: dict[str, str] = {
    "pyarrow": "data",
    "imagehash": "data",
    "scipy": "data",
    "sklearn": "data",
    "torch": "train",
    "safetensors": "train",
    "lightning": "train",
    "lightning_fabric": "train",
    "onnx": "train",
    "onnxscript": "train",
    "matplotlib": "train",
    "jinja2": "train",
    "filelock": "train",
    "psutil": "train",
    "threadpoolctl": "train",
    "timm": "timm",
    "torch_pruning": "timm",
}

#: stands for a lone dash, which cyclopts takes for an option; no path can hold this character
STDIN = "\0"
#: commands for which a lone dash is an image
READS_STDIN = frozenset({"predict", "explain"})
#: what a system says where no more can be written
FULL = frozenset({errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EDQUOT})
AS_JSON = frozenset({"--json", "--json=true", "--json=True", "--json=1", "--json=yes"})


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; raised where Ctrl-C would raise, so that both clean up alike."""


def build_app(command: str | None = None) -> App:
    """Return the application with `command` ready to run and every other one listed for help."""
    from cyclopts import App, Parameter

    app = App(
        name="lydite",
        help="Small detectors of AI-generated images: make, measure and use them.",
        version=__version__,
        help_formatter="plain",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
        default_parameter=Parameter(negative=()),
    )
    for place, (name, (module, summary)) in enumerate(COMMANDS.items()):
        if importlib.util.find_spec(module) is None:
            continue
        if name == command:
            importlib.import_module(module).register(app)
        else:
            app.command(App(name=name, help=summary, sort_key=place))
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after the program's name; None takes the process's own.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # before torch is imported: waiting threads that spin cost a shared machine most of its speed
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    options = words[: words.index("--")] if "--" in words else words
    as_json = any(word in AS_JSON for word in options)
    previous = _handle_sigterm()
    closed = _open_streams()
    try:
        # a file name may hold characters that the terminal cannot show
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        status = _run(words, as_json)
        sys.stdout.flush()
        if closed and status == 0:
            sys.stderr.write("error: the output cannot be written: it is closed.\n")
            return 2
        return status
    except BrokenPipeError:
        _silence_stdout()
        return 141
    except OSError as error:
        if error.errno not in FULL:
            raise
        _silence_stdout()  # a full disk behind it, where nothing more can be said
        with contextlib.suppress(OSError):
            sys.stderr.write(f"error: the output cannot be written: {error.strerror or error}.\n")
        return 2
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _run(words: list[str], as_json: bool) -> int:
    from cyclopts import CycloptsError

    from lydite.cli.output import close_progress

    command = next((word for word in words if not word.startswith("-")), None)
    try:
        try:
            if command in READS_STDIN:
                words = [STDIN if word == "-" else word for word in words]
            result = build_app(command)(words)
        finally:
            close_progress()
    except Terminated:
        return _fail("stopped", "stopped by SIGTERM.", 143, as_json)
    except KeyboardInterrupt:
        return _fail("stopped", "stopped.", 130, as_json)
    except CycloptsError as error:
        hint = f"See: lydite {command} --help" if command in COMMANDS else "See: lydite --help"
        if dashed := [word for word in words if word.startswith("-") and os.path.lexists(word)]:
            hint = f"Words behind `--` are names: lydite {command} -- {dashed[0]}"
        return _fail("usage", f"{' '.join(str(error).split())} {hint}", 2, as_json)
    except LyditeError as error:
        return _fail(error.code, str(error), error.exit_code, as_json, error.details)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        missing = MissingExtraError(_extra_of(words, package), package)
        return _fail(missing.code, str(missing), missing.exit_code, as_json)
    except BrokenPipeError:
        raise
    except OSError as error:  # whatever no room of its own has put into words
        if error.filename is None:
            raise
        reason = f"{os.fsdecode(error.filename)}: {error.strerror or error}."
        return _fail(FileError.code, reason, FileError.exit_code, as_json)
    return result if isinstance(result, int) else 0


def _extra_of(words: Sequence[str], package: str) -> str:
    """Return the extra that a command needs as a whole, where one of its packages is missing.

    What is missing first is not all that is missing: but for reading and checking data, whatever
    needs the extra `data` needs torch or drawings besides.
    """
    named = [word for word in words if not word.startswith("-")]
    reads = named[:1] == ["data"] and named[1:2] not in (["align"], ["spectra"])
    return "train" if EXTRAS[package] == "data" and not reads else EXTRAS[package]


def _fail(
    code: str, message: str, status: int, as_json: bool, details: tuple[str, ...] = ()
) -> int:
    from lydite.cli.output import emit
    from lydite.data.reasons import printable

    if as_json:
        extra = {"details": list(details)} if details else {}
        emit({"error": {"code": code, "message": message, **extra}}, True, "")
    else:
        lines = [f"error: {printable(message)}", *(f"  {printable(line)}" for line in details)]
        sys.stderr.write("\n".join(lines) + "\n")
    return status


def _handle_sigterm() -> Any:
    """Make SIGTERM raise; return the handler to put back, or None where none can be set."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    return signal.signal(signal.SIGTERM, stop)


def _open_streams() -> bool:
    """Give streams that were closed before the start somewhere to go; tell whether stdout was.

    Python has None in their place then, and the first message would end the work. The work itself
    may be hours of training, so it is done, and the status tells that its answer went nowhere.
    """
    closed = sys.stdout is None
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, nowhere)
    return closed


def _silence_stdout() -> None:
    """Point stdout nowhere, so that the interpreter's last flush does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):
        return
    finally:
        os.close(nowhere)
