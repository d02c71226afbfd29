"""Folders of adapter packs: read with every digest checked, written whole, merged, divided."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lydite.config import Model, validation_sentence
from lydite.errors import CardError, ConfigError, FileError, unknown_name
from lydite.files import (
    is_file,
    parse_json,
    publish_folder,
    read_bytes,
    sha256_bytes,
    write_bytes,
)
from lydite.pack import (
    MAX_FILE_BYTES,
    MAX_MEMBERS,
    MAX_PACK_BYTES,
    MERGED_VERSION,
    PACK_NAME,
    PACK_VERSION,
    MergedCard,
    Pack,
    PackCard,
    pack_json,
)

#: the newest version of each format that is read
_NEWEST = {"lydite-pack": PACK_VERSION, "lydite-packs": MERGED_VERSION}


def load_packs(folder: Path) -> list[Pack]:
    """Read a pack folder, or a merged one; every digest and name is checked.

    Returns:
        The members in the order in which they were merged.

    Raises:
        CardError: no pack, a newer or damaged one, or a file that is not the one described.
        FileError: unreadable.
    """
    value = _read(folder)
    if value.get("format") != "lydite-packs":
        return [_load(folder, value)]
    merged = _parse(MergedCard, value, folder)
    packs = []
    for name, expected in merged.members.items():
        inside = folder / name
        if inside.is_symlink() or not inside.is_dir():
            raise CardError(f"{folder} lacks the member {name} that its {PACK_NAME} lists.")
        pack = _load(inside, _read(inside))
        if pack.card.name != name or pack.card.digest != expected:
            raise CardError(
                f"{inside} is not the pack that {folder / PACK_NAME} lists. It was exchanged or "
                "changed; merge the packs anew."
            )
        packs.append(pack)
    return packs


def load_pack(folder: Path) -> Pack:
    """Read the folder of a single pack; every digest and name is checked.

    Raises:
        CardError: as `load_packs`, or the folder is a merged pack of several.
        FileError: unreadable.
    """
    packs = load_packs(folder)
    if len(packs) != 1:
        names = ", ".join(pack.card.name for pack in packs)
        raise CardError(f"{folder} holds several packs: {names}. Name the folder of one of them.")
    return packs[0]


def save_pack(pack: Pack, out: Path, *, replace: bool = False) -> None:
    """Write a pack as a new folder.

    Args:
        pack: to be written.
        out: the folder.
        replace: an older pack at `out` gives way.

    Raises:
        FileError: there is something at `out`, or it cannot be written.
    """
    if not (replace and is_file(out / PACK_NAME)):
        _require_free(out)
    elif others := sorted({path.name for path in out.iterdir()} - _own(out, pack)):
        raise FileError(
            f"{out} holds {others[0]}, which is not of the pack there and would be gone. "
            "Name a new folder."
        )
    with publish_folder(out) as folder:
        _write(pack, folder)


def save_merged(packs: Sequence[Pack], out: Path) -> None:
    """Write several packs of one base as one new folder.

    Args:
        packs: of different names, in the order in which they shall answer.
        out: a folder that is not there yet.

    Raises:
        ConfigError: none or too many, other bases, or a name that comes twice.
        FileError: there is something at `out`, or it cannot be written.
    """
    require_together(packs)
    if not 1 <= len(packs) <= MAX_MEMBERS:
        raise ConfigError(f"A merged pack has 1 to {MAX_MEMBERS} members. Got {len(packs)}.")
    _require_free(out)
    merged = MergedCard(members={pack.card.name: pack.card.digest for pack in packs})
    with publish_folder(out) as folder:
        for pack in packs:
            _write(pack, folder / pack.card.name)
        write_bytes(folder / PACK_NAME, pack_json(merged))


def without(packs: Sequence[Pack], name: str) -> list[Pack]:
    """Return the members of a merged pack but one.

    Raises:
        ConfigError: no member has that name, or it is the only one.
    """
    names = [pack.card.name for pack in packs]
    if name not in names:
        raise ConfigError(unknown_name("member", name, names))
    if len(names) == 1:
        raise ConfigError(f"{name} is the only member; without it there is no pack left.")
    return [pack for pack in packs if pack.card.name != name]


def require_together(packs: Sequence[Pack]) -> None:
    """Refuse packs that cannot be variants of one detector.

    Raises:
        ConfigError: they belong to different bases, or two have one name.
    """
    seen: set[str] = set()
    for pack in packs:
        card, first = pack.card, packs[0].card
        if card.base.onnx != first.base.onnx or card.preprocess != first.preprocess:
            raise ConfigError(
                f"Packs of one detector only can be used together: {first.name} belongs to "
                f"{first.base.name} ({first.base.onnx[:12]}) and {card.name} to {card.base.name} "
                f"({card.base.onnx[:12]})."
            )
        if card.name in seen:
            raise ConfigError(
                f"Two packs are called {card.name}. Leave one out: predictions name the pack that "
                "spoke."
            )
        seen.add(card.name)


def _write(pack: Pack, folder: Path) -> None:
    for name, data in pack.files.items():
        write_bytes(folder / name, data)
    write_bytes(folder / PACK_NAME, pack_json(pack.card))


def _own(out: Path, pack: Pack) -> set[str]:
    """Return the names of files that a pack may take the place of: not a merged one's members."""
    names = {PACK_NAME, *pack.card.files}
    try:
        packs = load_packs(out)
    except CardError:  # damaged
        return names
    return names if (out / packs[0].card.name).is_dir() else names | set(packs[0].card.files)


def _require_free(out: Path) -> None:
    """Refuse to write over anything."""
    if out.is_symlink() or out.exists():
        raise FileError(f"{out} is there already. Name a new folder.")


def _load(folder: Path, value: dict[str, Any]) -> Pack:
    card = _parse(PackCard, value, folder)
    files = {}
    for name, entry in card.files.items():
        file = folder / name
        if file.is_symlink() or not is_file(file):
            raise CardError(f"{folder} lacks the file {name} that its {PACK_NAME} lists.")
        data = read_bytes(file, MAX_FILE_BYTES)
        if len(data) != entry.size_bytes or sha256_bytes(data) != entry.sha256:
            raise CardError(
                f"{file} is not the file its {PACK_NAME} describes (size or SHA-256 differ). "
                "It is damaged or was exchanged; get the pack anew."
            )
        files[str(name)] = data
    return Pack(card, files)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / PACK_NAME
    if not is_file(path):
        raise CardError(f"{folder} is not an adapter pack: it has no {PACK_NAME}.")
    try:
        value = parse_json(read_bytes(path, MAX_PACK_BYTES))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CardError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(value, dict) or (newest := _NEWEST.get(str(value.get("format")))) is None:
        raise CardError(f"{path} is not that of a lydite adapter pack.")
    version = value.get("version")
    if isinstance(version, int) and version > newest:
        raise CardError(
            f"{path} has format version {version}; this lydite reads up to {newest}. "
            "Upgrade lydite to use it."
        )
    return value


def _parse(model: type[Model], value: dict[str, Any], folder: Path) -> Model:
    try:
        return model.model_validate_json(json.dumps(value))
    except ValidationError as error:
        path = folder / PACK_NAME
        raise CardError(f"{path} is not a valid pack: {validation_sentence(error)}") from error
