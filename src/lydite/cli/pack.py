"""`lydite pack`: adapter packs shown, merged into one folder, and taken out of it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from lydite.cli.output import emit, table
from lydite.data.reasons import printable

if TYPE_CHECKING:
    from lydite.pack import Pack

Out = Annotated[Path, Parameter(name=["--out", "-o"])]


def register(app: App) -> None:
    """Add the command and its three parts."""
    group = App(name="pack", help="Show, merge and divide adapter packs.")
    for part in (show, merge, remove):
        group.command(part)
    app.command(group)


def show(folder: Path, *, json: bool = False) -> None:
    """Check a pack, single or merged, and say what is in it.

    Args:
        folder: the pack's folder.
        json: print one JSON document.
    """
    from lydite.pack_folder import load_packs

    packs = load_packs(folder)
    emit(_value(folder, packs), json, lambda: _text(packs))


def merge(*packs: Annotated[Path, Parameter(required=True)], out: Out, json: bool = False) -> None:
    """Put several packs of one detector into one folder; they are copied, not moved.

    Args:
        packs: folders of packs, single or merged.
        out: the new folder.
        json: print one JSON document.
    """
    from lydite.pack_folder import load_packs

    _write([pack for path in packs for pack in load_packs(path)], out, json)


def remove(folder: Path, name: str, *, out: Out, json: bool = False) -> None:
    """Write a merged pack anew without one of its members; the folder itself stays as it is.

    Args:
        folder: a merged pack.
        name: the member to leave out.
        out: the new folder.
        json: print one JSON document.
    """
    from lydite.pack_folder import load_packs, without

    _write(without(load_packs(folder), name), out, json)


def _write(packs: Sequence[Pack], out: Path, json: bool) -> None:
    from lydite.pack_folder import save_merged

    save_merged(packs, out)
    emit(_value(out, packs), json, lambda: f"{printable(str(out))}:\n{_text(packs)}")


def _value(folder: Path, packs: Sequence[Pack]) -> dict[str, Any]:
    """Return packs as JSON values."""
    members = [
        {"digest": pack.card.digest, "size_bytes": pack.size_bytes, **pack.card.to_json()}
        for pack in packs
    ]
    return {"pack": str(folder), "base": packs[0].card.base.model_dump(), "members": members}


def _text(packs: Sequence[Pack]) -> str:
    """Return packs in words."""
    base = packs[0].card.base
    rows = [
        (
            pack.card.name,
            pack.size_bytes,
            f"{pack.card.score.threshold:.3g}",
            ", ".join(_named(edit) for edit in pack.card.edits) or "-",
        )
        for pack in packs
    ]
    lines = [
        f"For the detector {printable(base.name)} (model.onnx {base.onnx[:12]}):",
        table(("name", "bytes", "threshold", "what it adds"), rows),
    ]
    for pack in packs:
        lines += [f"{pack.card.name}: {printable(limit)}" for limit in pack.card.limits]
    return "\n".join(lines)


def _named(edit: Any) -> str:
    """Return an edit in a few words."""
    if edit.op == "add_adapter":
        return f"{edit.kind} after {edit.after}"
    return str(edit.op).replace("_", " ")
