"""`lydite doctor`: what is installed, what is missing, and whether prediction works."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts import App

from lydite import __version__
from lydite.cli.output import emit, table

#: packages by the extra that installs them; "" is the base
PACKAGES: dict[str, tuple[str, ...]] = {
    "": ("numpy", "pillow", "onnxruntime", "pydantic", "cyclopts", "pyyaml"),
    "data": ("pyarrow", "imagehash", "scikit-learn"),
    "train": (
        "torch",
        "safetensors",
        "lightning-fabric",
        "onnx",
        "onnxscript",
        "matplotlib",
        "jinja2",
        "filelock",
        "psutil",
        "threadpoolctl",
    ),
    "timm": ("timm", "torch-pruning"),
}
#: instruction sets that decide how fast integers and bfloat16 run
CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
)


#: instructions that add four products of 8 bits at once in 32 bits
EXACT_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}
SATURATES = (
    "int8: this processor has no VNNI, and onnxruntime's faster kernels cut sums off there. lydite "
    "uses them for files with `weight_bits: 7` alone, where nothing is to be cut off; for others a "
    'program of your own sets the session option "{}" to "{}".'
)


def register(app: App) -> None:
    """Add the command to the application."""
    app.command(doctor, name="doctor")


def doctor(*, json: bool = False) -> int:
    """Check the installation: versions, missing parts, the detector inside, the processor.

    The exit status is 1 when something that should work does not.

    Args:
        json: print one JSON document.
    """
    packages = _packages()
    detector = _detector()
    missing = {
        extra: f"pip install 'lydite[{extra}]'"
        for extra in PACKAGES
        if extra and any(p["version"] is None for p in packages if p["extra"] == extra)
    }
    healthy = bool(detector["works"]) and all(p["version"] for p in packages if not p["extra"])
    value = {
        "healthy": healthy,
        "lydite": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "packages": packages,
        "missing_extras": missing,
        "detector": detector,
    }
    emit(value, json, lambda: _text(value))
    return 0 if healthy else 1


def _packages() -> list[dict[str, str | None]]:
    return [
        {"name": name, "extra": extra, "version": _version(name)}
        for extra, names in PACKAGES.items()
        for name in names
    ]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _detector() -> dict[str, Any]:
    """Open the packaged detector and score a synthetic image; say what went wrong, if anything."""
    import numpy as np

    # a gradient with a checkerboard: smooth and fine structure, the same on every machine
    y, x = np.mgrid[0:96, 0:128]
    image = np.stack([x * 2, y * 2, (x + y) % 2 * 60 + 80], axis=2).astype(np.uint8)
    try:
        from lydite.predictor import Predictor

        predictor = Predictor.open(None, threads=1)
        prediction = predictor.predict(image)
    except Exception as error:
        # whatever breaks here is what the user runs this command to learn
        return {"works": False, "problem": f"{error}" or type(error).__name__}
    return {
        "works": True,
        "name": predictor.card.name,
        "digest": predictor.card.digest,
        "score": prediction.score,
    }


def _cpu() -> dict[str, Any]:
    features = _cpu_features()
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "features": features,
        "int8_saturates": _saturates(platform.machine(), features),
    }


def _saturates(machine: str, features: Sequence[str]) -> bool | None:
    """Tell whether onnxruntime by itself cuts sums of int8 products off; None where not known.

    AVX2's and AVX-512's `vpmaddubsw`, which onnxruntime uses without these, adds two
    products of an unsigned and a signed byte into 16 bits.
    """
    if machine.lower() not in ("x86_64", "amd64") or not features:
        return None
    return not EXACT_FLAGS & set(features)


def _cpu_features() -> list[str]:
    """Return which of `CPU_FLAGS` the processor has; empty where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    flags: set[str] = set()
    for line in text.splitlines():
        if line.lower().startswith(("flags", "features")):
            flags.update(line.partition(":")[2].split())
    return [flag for flag in CPU_FLAGS if flag in flags]


def _text(value: dict[str, Any]) -> str:
    cpu, detector = value["cpu"], value["detector"]
    lines = [
        f"lydite {value['lydite']}, Python {value['python']}, {value['platform']}",
        f"{cpu['usable_cores']} of {cpu['cores']} cores, {cpu['machine']}, "
        f"{' '.join(cpu['features']) or 'instruction sets unknown'}",
        "",
        table(
            ["package", "version", "part"],
            [[p["name"], p["version"], p["extra"] or "base"] for p in value["packages"]],
        ),
        "",
    ]
    lines += [f"[{extra}] is not complete: {how}" for extra, how in value["missing_extras"].items()]
    if detector["works"]:
        lines.append(f"The detector inside ({detector['name']}) works.")
    else:
        lines.append(f"The detector inside does not work: {detector['problem']}")
    if cpu["int8_saturates"]:
        from lydite.session import EXACT_INTEGERS

        lines.append(SATURATES.format(*EXACT_INTEGERS))
    lines.append("All is well." if value["healthy"] else "Something is broken.")
    return "\n".join(lines)
