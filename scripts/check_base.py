"""Hold the base install to its promises: the wheel alone predicts, without torch, light and quick.

Builds the wheel, installs it into a fresh environment with the locked versions and nothing else,
and measures there: megabytes installed, seconds to `import lydite`, and one prediction.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_MEGABYTES = 250
MAX_IMPORT_SECONDS = 0.3
IMPORT_TRIES = 7
#: installed by the environment itself, whatever is put into it
NOT_OURS = ("pip", "setuptools", "wheel")

IMPORT_PROGRAM = """
import time
start = time.perf_counter()
import lydite
print(time.perf_counter() - start)
"""
PICTURE_PROGRAM = """
import sys
import numpy as np
from PIL import Image
pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
Image.fromarray(pixels).save(sys.argv[1], quality=90)
"""


def run(*words: str | Path) -> str:
    """Run a command outside this environment's paths and return what it printed, or stop."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(  # noqa: S603
        [str(word) for word in words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"check-base: {' '.join(map(str, words))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this tree and return its path."""
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ".")
    return next(folder.glob("lydite-*.whl"))


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel and what it needs into a fresh environment; return that one's Python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    lock = ROOT / "requirements.lock"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", lock, wheel)
    return python


def megabytes(folder: Path) -> float:
    """Return the size of an environment's packages, less those that every environment has."""
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    files = (
        file
        for entry in packages.iterdir()
        if entry.name.split("-")[0] not in NOT_OURS
        for file in ([entry] if entry.is_file() else entry.rglob("*"))
        if file.is_file()
    )
    return sum(file.stat().st_size for file in files) / 1e6


def import_seconds(python: Path) -> float:
    """Return the shortest time that `import lydite` took in a few fresh processes."""
    return min(float(run(python, "-c", IMPORT_PROGRAM)) for _ in range(IMPORT_TRIES))


def predict(python: Path, folder: Path) -> float:
    """Return the probability that the command line gives for a made-up picture."""
    picture = folder / "picture.jpg"
    run(python, "-c", PICTURE_PROGRAM, picture)
    answer = json.loads(run(python, "-m", "lydite", "predict", "--json", picture))
    return float(answer["predictions"][0]["p_fake"])


def promise(line: str, kept: bool) -> bool:
    """Print whether a promise is kept, and return it."""
    print(f"{line}  {'ok' if kept else 'BROKEN'}", flush=True)
    return kept


def main() -> int:
    """Measure, print one line each, and return 1 when a promise is broken."""
    with tempfile.TemporaryDirectory(prefix="lydite-base-") as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        print(f"wheel      {wheel.stat().st_size / 1e6:.2f} MB, {wheel.name}", flush=True)
        python = install(wheel, folder / "env")
        size = megabytes(folder / "env")
        kept = [
            promise(f"installed  {size:.0f} MB, at most {MAX_MEGABYTES}", size <= MAX_MEGABYTES)
        ]
        seconds = import_seconds(python)
        fast = seconds <= MAX_IMPORT_SECONDS
        kept.append(promise(f"import     {seconds:.3f} s, at most {MAX_IMPORT_SECONDS}", fast))
        listed = run(python, "-m", "pip", "list", "--format=freeze").lower()
        kept.append(promise("torch      not installed", "\ntorch==" not in f"\n{listed}"))
        p_fake = predict(python, folder)
        kept.append(promise(f"predict    p_fake {p_fake:.3f}, from 0 to 1", 0 <= p_fake <= 1))
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
