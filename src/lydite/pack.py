"""Adapter packs: a few kilobytes that teach a frozen detector one more generator.

A pack is a folder with `pack.json` and two files: `model.delta`, which turns the base detector's
`model.onnx` into the adapted one, and `adapter.safetensors`, the new weights, with which training
can go on. It fits one exported file of one base and no other. A merged pack is a folder with a
`pack.json` that lists its members, each a pack in a folder of its name. Nothing here needs torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from lydite.card import ONNX_NAME, Card, Figure, FileEntry, Preprocess, ScoreMeaning, promises
from lydite.config import Frozen, Sha256, validation_sentence
from lydite.delta import compose
from lydite.edits import Edit
from lydite.errors import CardError
from lydite.files import digest, sha256_bytes

PACK_NAME = "pack.json"
PACK_VERSION = 2
MERGED_VERSION = 1
DELTA_NAME = "model.delta"
ADAPTER_NAME = "adapter.safetensors"
#: what the base itself is called among the variants of a detector
BASE_NAME = "base"
MAX_PACK_BYTES = 1024 * 1024
#: largest file of a pack; anything near it had better be a detector of its own
MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_MEMBERS = 32


def _not_base(name: str) -> str:
    if name == BASE_NAME:
        raise ValueError(f"no pack can be called {BASE_NAME!r}, as the base itself is")
    return name


#: also the name of a folder, on every system
PackName = Annotated[
    str, Field(pattern=r"^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$"), AfterValidator(_not_base)
]


class PackBase(Frozen):
    """The detector that a pack belongs to.

    Attributes:
        name: for people.
        card: digest of its card when the pack was made.
        onnx: SHA-256 of its `model.onnx`; only this file can be adapted.
        weights: SHA-256 of its `model.safetensors`.
    """

    name: str
    card: Sha256
    onnx: Sha256
    weights: Sha256


class PackCard(Frozen):
    """A pack, less its files; what it leaves out is as in the base's card.

    Attributes:
        format: always "lydite-pack".
        version: of this format, the lowest that can say all of this (2: a conformal band); a newer
            one is refused.
        name: what predictions call it: lower case letters, digits, "-" and "_".
        base: the detector that it belongs to.
        edits: what is added to the base's edits.
        preprocess: the base's; all variants of a detector see the same tiles.
        score: what the adapted detector's score means, with a threshold and band of its own.
        ranges: for a "static-int8" base, calibrated ranges of the tensors that are new.
        key: the adapted detector's.
        steps: what was done to the base.
        data: digests of the selections it learned from, by role.
        sources: what the data were and under which licenses, in words.
        seed: of the recipe.
        versions: of lydite and the libraries that made it.
        training: what the last step reports of itself.
        measured: numbers measured on the adapted detector.
        limits: what it cannot do, in plain words.
        composed: the adapted `model.onnx` that base and delta give.
        files: the files of the pack.
    """

    format: Literal["lydite-pack"] = "lydite-pack"
    version: Annotated[int, Field(ge=1, le=PACK_VERSION)] = 1
    name: PackName
    base: PackBase
    edits: tuple[Edit, ...] = ()
    preprocess: Preprocess
    score: ScoreMeaning
    ranges: dict[str, tuple[float, float]] = {}
    key: Sha256
    steps: tuple[dict[str, Any], ...] = ()
    data: dict[str, Sha256] = {}
    sources: tuple[str, ...] = ()
    seed: int = 0
    versions: dict[str, str] = {}
    training: dict[str, float | int | str | None] = {}
    measured: tuple[Figure, ...] = ()
    limits: tuple[str, ...] = ()
    composed: FileEntry
    files: dict[Literal["model.delta", "adapter.safetensors"], FileEntry]

    @model_validator(mode="before")
    @classmethod
    def _lowest_version(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("version", 1), int):
            return value
        return value | {"version": max(value.get("version", 1), 1 + promises(value.get("score")))}

    @model_validator(mode="after")
    def _both_files(self) -> PackCard:
        missing = {DELTA_NAME, ADAPTER_NAME} - self.files.keys()
        if missing:
            raise ValueError(f"`files` lacks {min(missing)}")
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the pack as JSON values, in the order of the fields."""
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """SHA-256 over the pack, and through its file digests over what it adds."""
        return digest(self.to_json())


class MergedCard(Frozen):
    """What a merged pack holds.

    Attributes:
        format: always "lydite-packs".
        version: of this format; a newer one is refused.
        members: digest of each member's pack, by its name.
    """

    format: Literal["lydite-packs"] = "lydite-packs"
    version: Annotated[int, Field(ge=1, le=MERGED_VERSION)] = 1
    members: Annotated[dict[PackName, Sha256], Field(min_length=1, max_length=MAX_MEMBERS)]


@dataclass(frozen=True)
class Pack:
    """One pack with its files.

    Attributes:
        card: everything about it that is not a weight.
        files: content by name, as the card describes them.
    """

    card: PackCard
    files: dict[str, bytes]

    @property
    def size_bytes(self) -> int:
        """Bytes of the files and of `pack.json`."""
        return sum(map(len, self.files.values())) + len(pack_json(self.card))

    def apply(self, base: Card, onnx: bytes) -> tuple[Card, bytes]:
        """Return the adapted detector's card and exported file.

        Args:
            base: card of the detector that the pack belongs to.
            onnx: its `model.onnx`.

        Raises:
            CardError: it belongs to another detector, or does not give the file it promises.
        """
        self.require_base(base, onnx)
        where = f"The {DELTA_NAME} of the pack {self.card.name}"
        made = compose(onnx, self.files[DELTA_NAME], where)
        promised = self.card.composed
        if len(made) != promised.size_bytes or sha256_bytes(made) != promised.sha256:
            raise CardError(
                f"{where} does not give the {ONNX_NAME} that the pack describes. "
                "It is damaged or was exchanged; get the pack anew."
            )
        return self.adapted_card(base, {ONNX_NAME: promised}), made

    def require_base(self, base: Card, onnx: bytes) -> None:
        """Refuse a detector that the pack was not made for.

        Raises:
            CardError: the message names both bases.
        """
        found = sha256_bytes(onnx)
        if found != self.card.base.onnx:
            raise CardError(
                f"The pack {self.card.name} belongs to the detector {self.card.base.name} "
                f"({ONNX_NAME} {self.card.base.onnx[:12]}), not to {base.name} "
                f"({ONNX_NAME} {found[:12]}). Use the one that it was made for."
            )
        if base.preprocess != self.card.preprocess:
            raise CardError(
                f"The pack {self.card.name} was made for {self.card.base.name} with other "
                f"preprocessing than {base.name} has. Use the detector that it was made for."
            )

    def adapted_card(self, base: Card, files: dict[str, FileEntry]) -> Card:
        """Return the card of the adapted detector.

        Args:
            base: card of the detector that the pack belongs to.
            files: what stands beside the new card.

        Raises:
            CardError: base and pack together make no valid card.
        """
        own = self.card.model_dump(include=_SHARED)
        changes = own | {
            "name": f"{base.name} + {self.card.name}"[:120],
            "parent": base.key,
            "edits": [edit.model_dump() for edit in (*base.edits, *self.card.edits)],
            "steps": (*base.steps, *self.card.steps),
            "files": {name: entry.model_dump() for name, entry in files.items()},
        }
        if base.quantization is not None:
            ranges = base.quantization.ranges | self.card.ranges
            changes["quantization"] = base.quantization.model_dump() | {"ranges": ranges}
        try:
            return Card.model_validate(base.model_dump() | changes)
        except ValidationError as error:
            raise CardError(
                f"The pack {self.card.name} does not fit {base.name}: {validation_sentence(error)}"
            ) from error


#: fields that the adapted detector's card has from the pack as they are
_SHARED = {"score", "key", "data", "sources", "seed", "versions", "training", "measured", "limits"}


def pack_json(value: PackCard | MergedCard) -> bytes:
    """Return the content of `pack.json`; fields that say nothing are left out."""
    fields = type(value).model_fields
    always = ("format", "version")
    plain = {
        name: field
        for name, field in value.model_dump(mode="json").items()
        if name in always or getattr(value, name) != fields[name].default
    }
    return (json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()
