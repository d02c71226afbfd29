"""The decoder on a set of odd, broken and hostile files, in a process with limits.

Set LYDITE_MALFORMED to the folder with `manifest.jsonl`; elsewhere these tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lydite.data.decode import REASONS

FOLDER = os.environ.get("LYDITE_MALFORMED")
pytestmark = pytest.mark.skipif(not FOLDER, reason="LYDITE_MALFORMED is not set")

SECONDS_PER_FILE = 5.0
MEGABYTES = 400
READ = {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"}
#: what Pillow decodes and we refuse by rule
BY_RULE = {"unsupported-mode", "too-many-pixels", "too-many-frames"}

CHILD = """
import json, os, resource, sys, time
from pathlib import Path
from lydite.data.decode import decode, inspect
from lydite.errors import DecodeError

limit = 2 << 30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
if os.environ.get("LENIENT"):
    from PIL import ImageFile
    ImageFile.LOAD_TRUNCATED_IMAGES = True
answer = os.fdopen(3, "w")
for name in json.load(sys.stdin):
    row = {"file": name}
    began = time.perf_counter()
    try:
        out = decode(name)
        row["shape"], row["dtype"] = out.shape, str(out.dtype)
        del out
    except DecodeError as error:
        row["code"] = error.code
    except BaseException as error:
        row["escaped"] = repr(error)
    row["seconds"] = time.perf_counter() - began
    try:
        inspect(name)
    except DecodeError:
        pass
    except BaseException as error:
        row["escaped"] = repr(error)
    # ru_maxrss would begin at the size of the process that started this one
    status = open("/proc/self/status").read()
    row["peak_mb"] = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps(row), file=answer, flush=True)
"""


def load_manifest() -> list[dict[str, Any]]:
    lines = Path(FOLDER or "", "manifest.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def run_child(names: list[str], **environment: str) -> dict[str, dict[str, Any]]:
    """Decode files in a child process; return its rows by file name."""
    reader, writer = os.pipe()
    # the answers leave by a pipe of their own: C libraries write to stdout and stderr as they like
    code = f"import os; os.dup2({writer}, 3)\n" + CHILD
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[writer],
        env=os.environ | environment,
    ) as child:
        os.close(writer)
        assert child.stdin is not None
        child.stdin.write(json.dumps([str(Path(FOLDER or "", name)) for name in names]).encode())
        child.stdin.close()
        with os.fdopen(reader) as answers:
            rows = [json.loads(line) for line in answers]
        assert child.wait(100) == 0, f"the decoder died after {rows[-1:]}"
    return {Path(row["file"]).name: row for row in rows}


@pytest.fixture(scope="module")
def manifest() -> list[dict[str, Any]]:
    return load_manifest()


@pytest.fixture(scope="module")
def outcomes(manifest: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return run_child(sorted({row["file"] for row in manifest}))


def test_every_file_gives_pixels_or_a_reason(
    manifest: list[dict[str, Any]], outcomes: dict[str, dict[str, Any]]
) -> None:
    assert outcomes.keys() == {row["file"] for row in manifest}
    for row in outcomes.values():
        assert "escaped" not in row, row
        if "code" in row:
            assert row["code"] in REASONS
        else:
            assert row["dtype"] == "uint8" and len(row["shape"]) == 3 and row["shape"][2] == 3


def test_time_and_memory_stay_within_limits(outcomes: dict[str, dict[str, Any]]) -> None:
    assert max(row["seconds"] for row in outcomes.values()) < SECONDS_PER_FILE
    assert max(row["peak_mb"] for row in outcomes.values()) < MEGABYTES


@pytest.mark.parametrize("tag", ["silent-if-lenient", "masked-by-exif-read", "bomb", "corrupt"])
def test_bad_files_are_refused(
    tag: str, manifest: list[dict[str, Any]], outcomes: dict[str, dict[str, Any]]
) -> None:
    bad = [row["file"] for row in manifest if tag in row["tags"] and row["pillow"].get("error")]
    assert bad
    assert [name for name in bad if "code" not in outcomes[name]] == []


def test_silent_files_stay_refused_where_pillow_is_lenient(manifest: list[dict[str, Any]]) -> None:
    tags = {"silent-if-lenient", "masked-by-exif-read"}
    bad = sorted({row["file"] for row in manifest if tags & set(row["tags"])})
    outcomes = run_child(bad, LENIENT="1")
    assert [name for name in bad if "code" not in outcomes[name]] == []


def test_what_pillow_decodes_strictly_decodes_here(
    manifest: list[dict[str, Any]], outcomes: dict[str, dict[str, Any]]
) -> None:
    sound = [row for row in manifest if not row["pillow"].get("error")]
    ours = [row for row in sound if row["pillow"]["format"] in READ]
    refused = {r["file"]: outcomes[r["file"]].get("code") for r in ours}
    refused = {name: code for name, code in refused.items() if code}
    assert set(refused.values()) <= BY_RULE, Counter(refused.values())
    assert len(refused) < len(ours) / 10
    for row in sound:
        if row["pillow"]["format"] not in READ:
            assert outcomes[row["file"]]["code"] in {"not-an-image", "heic", "vector"}


def test_sizes_are_those_pillow_reports_up_to_a_turn(
    manifest: list[dict[str, Any]], outcomes: dict[str, dict[str, Any]]
) -> None:
    for row in manifest:
        outcome = outcomes[row["file"]]
        if "shape" in outcome and row["pillow"].get("size"):
            height, width, _ = outcome["shape"]
            assert sorted([width, height]) == sorted(row["pillow"]["size"]), row["original"]
