"""`lydite export`: a detector folder gets the file that predicts, once it is shown to agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lydite.card import ONNX_NAME
from lydite.cli.output import emit, table
from lydite.files import sha256_bytes

if TYPE_CHECKING:
    from cyclopts import App

    from lydite.detector import Detector
    from lydite.export.layer_error import LayerReport
    from lydite.export.parity import Parity

#: images, or synthetic tiles, that the file must agree on
CHECK_IMAGES = 64


def register(app: App) -> None:
    """Add the command."""
    app.command(export)


def export(
    detector: Path,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    check: Path | None = None,
    max_flips: float | None = None,
    layers: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Export a detector for prediction, and check that the file answers like the network.

    A float32 file that differs by more than rounding is not written. A quantized file differs by
    nature: how many decisions changed is reported, and `--max-flips` sets a limit.

    Parameters
    ----------
    detector
        A detector's folder.
    out
        Folder to write the detector and its model.onnx to; its own folder unless given.
    check
        A manifest whose images the file must agree on; synthetic tiles unless given.
    max_flips
        Largest share of decisions that quantization may change, 0 to 1; beyond it nothing is
        written.
    layers
        Compare the quantized file with its float form layer by layer, on the same tiles, and say
        which layers really multiply integers.
    dry_run
        Export and check, but write nothing.
    json
        Print the result as JSON.
    """
    from lydite.detector import Detector, others_in
    from lydite.export.onnx import export as export_bytes
    from lydite.export.parity import check_parity, require_parity

    max_flips = _fraction(max_flips)
    loaded = Detector.load(detector)
    others_in(out or detector)  # what cannot be written to is said before the work
    data = export_bytes(loaded)
    tiles = _tiles(loaded, check)
    report = _layers(loaded, data, tiles) if layers else None
    parity = require_parity(check_parity(loaded, data, tiles), max_flips)
    folder = out or detector
    if not dry_run:
        replace(loaded, files=(loaded.files or {}) | {ONNX_NAME: data}).save(folder)
    value = _value(loaded, data, parity, folder, written=not dry_run)
    value["checked_on"] = "synthetic tiles" if check is None else str(check)
    if report is not None:
        value["layer_report"] = report.to_json()
    emit(value, json, lambda: _text(value) + (_layer_text(report) if report else ""))


def _fraction(value: float | None) -> float | None:
    """Refuse a share that is none.

    Raises:
        ConfigError: outside 0..1.
    """
    from lydite.errors import ConfigError

    if value is not None and not 0 <= value <= 1:
        raise ConfigError(f"`--max-flips` is a share from 0 to 1. Got {value:g}.")
    return value


def _tiles(detector: Detector, check: Path | None) -> Any:
    """Return the preprocessed tiles that file and network must agree on."""
    from lydite.export.parity import manifest_tiles, synthetic_tiles

    if check is None:
        return synthetic_tiles(detector, CHECK_IMAGES)
    from lydite.data.manifest import Manifest

    return manifest_tiles(detector, Manifest.read(check), CHECK_IMAGES)


def _layers(detector: Detector, data: bytes, tiles: Any) -> LayerReport:
    """Compare a quantized file with the float file of the same detector.

    Raises:
        ConfigError: the detector is not quantized.
    """
    from lydite.errors import ConfigError
    from lydite.export.layer_error import layer_errors
    from lydite.export.onnx import to_onnx

    quantization = detector.card.quantization
    if quantization is None:
        raise ConfigError(
            f"`--layers` compares a quantized file with its float form, and {detector.card.name} "
            "is not quantized. Put `quantize` or `qat` last in its recipe."
        )
    plain = to_onnx(detector.network, detector.card.architecture.input_size)
    return layer_errors(plain, data, quantization, tiles)


def _layer_text(report: LayerReport) -> str:
    """Return a table of the layers and the verdict, on lines of their own."""
    rows = [
        (
            layer.name,
            layer.weight,
            "integer" if layer.integer else "float",
            None if layer.sqnr_db is None else f"{layer.sqnr_db:.1f}",
            f"{layer.relative_error:.2%}",
            None if layer.weight_error is None else f"{layer.weight_error:.2%}",
        )
        for layer in report.layers
    ]
    headers = ("layer", "weight", "multiplies", "SQNR dB", "output error", "weight error")
    return f"\n\n{table(headers, rows)}\n\n{report.verdict}"


def _value(
    detector: Detector, data: bytes, parity: Parity, folder: Path, *, written: bool
) -> dict[str, Any]:
    """Return the result as JSON values."""
    from lydite.export.inspection import inspect_quantized

    quantization = detector.card.quantization
    made_of = inspect_quantized(data)
    return {
        "detector": str(folder),
        "file": str(folder / ONNX_NAME),
        "written": written,
        "size_bytes": len(data),
        "sha256": sha256_bytes(data),
        "scheme": "float32" if quantization is None else quantization.scheme,
        "layers": len(made_of.layers),
        "integer_layers": made_of.integer_layers,
        "weight_bytes": made_of.weight_bytes,
        "parity": parity.to_json(),
    }


def _text(value: dict[str, Any]) -> str:
    """Return the result in words."""
    parity = value["parity"]
    verb = "Wrote" if value["written"] else "Would write"
    return "\n".join(
        [
            f"{verb} {value['file']}: {value['size_bytes']:,} bytes, {value['scheme']}, "
            f"{value['integer_layers']} of {value['layers']} layers in integers.",
            f"Checked on {parity['n']} tiles ({value['checked_on']}): logits differ by "
            f"{parity['max_abs']:.2g} at most and {parity['mean_abs']:.2g} on average, "
            f"{parity['flips']} decisions changed.",
        ]
    )
