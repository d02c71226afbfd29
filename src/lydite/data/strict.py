"""Pillow held to strict rules while images are decoded."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from PIL import Image, ImageFile

from lydite.data.reasons import MAX_PIXELS


class _Rules:
    """How many decodings run now, and the settings to put back after the last."""

    lock = threading.Lock()
    running = 0
    restore = ExitStack()


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Hold Pillow to the strict rules, whatever the process has set, in any number of threads.

    Pillow keeps them in module globals. They are set when the first decoding begins and put back
    when the last one ends. Pillow's warnings concern metadata that is not used here or sizes that
    are refused anyway, and would be errors under `python -W error`: they are silenced meanwhile.
    """
    with _Rules.lock:
        if _Rules.running == 0:
            _set_rules(_Rules.restore)
        _Rules.running += 1
    try:
        yield
    finally:
        with _Rules.lock:
            _Rules.running -= 1
            if _Rules.running == 0:
                _Rules.restore.close()


def _set_rules(restore: ExitStack) -> None:
    restore.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", module=r"PIL\.")
    restore.callback(setattr, ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES)
    restore.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
