"""Adapter packs made of two detectors, and a detector made of a base and a pack again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lydite.card import ONNX_NAME, WEIGHTS_NAME, Card, file_entry
from lydite.config import validate
from lydite.delta import make_delta
from lydite.detector import Detector, load_weights_
from lydite.errors import CardError, ConfigError, DataError
from lydite.export.calibrate import calibrate
from lydite.export.onnx import export, to_onnx
from lydite.export.parity import check_parity, require_parity, synthetic_tiles
from lydite.export.quantized import Ranges, handed_on
from lydite.models import build
from lydite.models.surgery import replay_
from lydite.pack import ADAPTER_NAME, DELTA_NAME, MAX_FILE_BYTES, Pack, PackBase, PackCard
from lydite.transfer.layers import Layers, parameters_of

Float32 = NDArray[np.float32]

#: largest share of the base's stored numbers that a pack may change; its new tensors come on top
MAX_CHANGED = 0.1
#: synthetic tiles that the composed file must agree on
CHECK_TILES = 16


def make_pack(
    base: Detector,
    adapted: Detector,
    name: str,
    *,
    batches: Iterable[Float32] | None = None,
    limits: tuple[str, ...] | None = None,
) -> Pack:
    """Return what an adapted detector has more than its base; write it with `save_pack`.

    The adapted file is exported as the base's is, in its scheme and, where that is "static-int8",
    with its ranges. An adapter then computes in float32, and only what it hands on needs a range of
    its own: from the adapted card, if that has one, or measured on `batches`.

    Args:
        base: loaded from its folder, with `model.onnx`; it stays as it is.
        adapted: made of the base by `adapt`, with its score's meaning fitted.
        name: what predictions shall call it: lower case letters, digits, "-" and "_".
        batches: for a "static-int8" base, preprocessed tiles of training images, each
            (T, 3, S, S) float32.
        limits: what it cannot do, in plain words; the adapted detector's unless given.

    Raises:
        ConfigError: the name is not allowed, the base was not exported or loaded, the two do not
            belong together, or too much was changed.
        DataError: ranges are missing and there are no batches.
        ParityError: the composed file does not answer like the adapted network.
    """
    onnx = _exported(base)
    _require_same_form(base.card, adapted.card)
    tensors = changed_tensors(base, adapted)
    adapted = as_exported(base.card, adapted, batches)
    full = export(adapted)
    require_parity(check_parity(adapted, full, synthetic_tiles(adapted, CHECK_TILES)))
    files = {DELTA_NAME: make_delta(onnx, full), ADAPTER_NAME: _stored(tensors)}
    _require_small(files, name)
    value = _described(base.card, adapted.card, name) | {
        "ranges": _added_ranges(base.card, adapted.card),
        "composed": file_entry(full).model_dump(),
        "files": {file: file_entry(data).model_dump() for file, data in files.items()},
    }
    value |= {} if limits is None else {"limits": limits}
    return Pack(validate(PackCard, value, f"The pack {name}"), files)


def as_exported(
    base: Card, adapted: Detector, batches: Iterable[Float32] | None = None
) -> Detector:
    """Return an adapted detector whose file has the form of its base's.

    Where that is "static-int8", its card gets the range of what the adapter hands on. Fit the
    score's meaning on this detector: it is the one that the pack will give.

    Args:
        base: the base's card.
        adapted: made of the base by `adapt`.
        batches: see `make_pack`.

    Raises:
        DataError: ranges are missing and there are no batches.
    """
    if base.quantization is None:
        return adapted
    ranges: Ranges = {}
    if base.quantization.scheme == "static-int8":
        plain = to_onnx(adapted.network, adapted.card.architecture.input_size)
        wanted = handed_on(plain, base.quantization.ranges)
        own = adapted.card.quantization
        ranges = _ranges_of(wanted, plain, {} if own is None else own.ranges, batches)
    known = {"ranges": base.quantization.ranges | ranges}
    quantization = base.quantization.model_copy(update=known)
    card = adapted.card.model_copy(update={"quantization": quantization})
    return replace(adapted, card=card)


def unpack(base: Detector, pack: Pack) -> Detector:
    """Return the adapted detector: base and pack, as a network that can be trained on.

    Args:
        base: loaded from its folder; it stays as it is.
        pack: one that was made for it.

    Raises:
        CardError: the pack belongs to another detector, or its weights do not fit.
    """
    onnx = _exported(base)
    card, full = pack.apply(base.card, onnx)
    if base.card.files[WEIGHTS_NAME].sha256 != pack.card.base.weights:
        raise CardError(
            f"The pack {pack.card.name} was trained on other weights than {base.card.name} has "
            f"({WEIGHTS_NAME} differs from the one it was made for)."
        )
    with torch.random.fork_rng(devices=[]):  # the fresh weights are thrown away
        network = build(card.architecture)
    replay_(network, card.edits)
    added = _loaded(pack)
    load_weights_(
        network, _stored({**base.network.state_dict(), **added}), f"pack {pack.card.name}"
    )
    network.eval()
    return Detector(card, network, {ONNX_NAME: full})


def changed_tensors(base: Detector, adapted: Detector) -> dict[str, Tensor]:
    """Return the tensors of a detector that its base lacks or has otherwise, bit by bit.

    Raises:
        ConfigError: a tensor of the base is missing or has another shape, or too many differ.
    """
    before, after = base.network.state_dict(), adapted.network.state_dict()
    for name, tensor in before.items():
        if name not in after or after[name].shape != tensor.shape:
            raise ConfigError(
                f"A pack adds to its base; {adapted.card.name} lacks the tensor {name} of "
                f"{base.card.name}, or has it in another shape. Save it as a detector instead."
            )
    changed = {n: t for n, t in after.items() if n not in before or not _same(t, before[n])}
    differing = sum(before[name].numel() for name in changed.keys() & before.keys())
    total = sum(tensor.numel() for tensor in before.values())
    _require_share(differing / total, adapted.card.name)
    return changed


def require_small_share(base: Detector, layers: Sequence[Layers]) -> None:
    """Refuse to let more of a base learn than a pack may change; known before any training.

    Args:
        base: the detector.
        layers: what shall learn besides an adapter.

    Raises:
        ConfigError: it is too much, or the network has no such layers.
    """
    names: set[str] = set().union(*(parameters_of(base.network, each) for each in layers))
    learning = sum(base.network.get_parameter(name).numel() for name in names)
    total = sum(tensor.numel() for tensor in base.network.state_dict().values())
    _require_share(learning / total, " and ".join(map(str, layers)))


def _require_share(share: float, what: str) -> None:
    """Refuse a change that is too large for a pack."""
    if share > MAX_CHANGED:
        raise ConfigError(
            f"A pack may change {MAX_CHANGED:.0%} of its base; with {what} that would be "
            f"{share:.0%}. Freeze these layers while adapting (--no-also), or save it as a "
            "detector."
        )


def _same(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors of one shape have the same type and bits."""
    as_bytes = [t.detach().cpu().contiguous().view(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and bool(torch.equal(*as_bytes))


def _exported(base: Detector) -> bytes:
    """Return the exported file of a detector that was loaded from its folder.

    Raises:
        ConfigError: it has none, or was made in memory.
    """
    onnx = (base.files or {}).get(ONNX_NAME)
    if onnx is None or not {ONNX_NAME, WEIGHTS_NAME} <= base.card.files.keys():
        raise ConfigError(
            f"The base {base.card.name} needs a folder with {WEIGHTS_NAME} and {ONNX_NAME}. Save "
            "it, run `lydite export`, and load it from there."
        )
    return onnx


def _require_same_form(base: Card, adapted: Card) -> None:
    """Refuse a detector that cannot have been made by adding to the base."""
    schemes = [card.quantization and card.quantization.scheme for card in (base, adapted)]
    differing = {
        "architecture": base.architecture != adapted.architecture,
        "preprocessing": base.preprocess != adapted.preprocess,
        "list of edits": adapted.edits[: len(base.edits)] != base.edits,
        "quantization": schemes[1] not in (None, schemes[0]),
    }
    for what, other in differing.items():
        if other:
            raise ConfigError(
                f"{adapted.name} was not made of {base.name}: its {what} differs. Adapt the very "
                "detector that the pack is for."
            )


def _ranges_of(
    wanted: list[str], plain: bytes, known: Ranges, batches: Iterable[Float32] | None
) -> Ranges:
    """Return the ranges of these tensors: the known ones, or those measured on a float32 file."""
    if any(name not in known for name in wanted):
        if batches is None:
            raise DataError(
                "What the adapter hands on needs a range for static-int8. Pass `batches`: "
                "preprocessed tiles of a few training images."
            )
        known = calibrate(plain, batches, float_input=False)
    return {name: known[name] for name in wanted}


def _added_ranges(base: Card, adapted: Card) -> Ranges:
    """Return the ranges that a card has and its base has not."""
    if base.quantization is None or adapted.quantization is None:
        return {}
    known = base.quantization.ranges
    return {name: pair for name, pair in adapted.quantization.ranges.items() if name not in known}


def _require_small(files: dict[str, bytes], name: str) -> None:
    """Refuse to make what could not be loaded."""
    largest = max(map(len, files.values()))
    if largest > MAX_FILE_BYTES:
        raise ConfigError(
            f"The pack {name} would have a file of {largest:,} bytes; {MAX_FILE_BYTES:,} bytes are "
            "allowed. Save it as a detector instead."
        )


def _described(base: Card, adapted: Card, name: str) -> dict[str, Any]:
    """Return what a pack's card says besides its files and ranges."""
    own = adapted.model_dump(
        include={"preprocess", "score", "key", "data", "sources", "seed", "versions", "training"}
        | {"measured", "limits"}
    )
    before = len(base.steps)
    steps = adapted.steps[before:] if adapted.steps[:before] == base.steps else adapted.steps
    return own | {
        "name": name,
        "base": PackBase(
            name=base.name,
            card=base.digest,
            onnx=base.files[ONNX_NAME].sha256,
            weights=base.files[WEIGHTS_NAME].sha256,
        ).model_dump(),
        "edits": [edit.model_dump() for edit in adapted.edits[len(base.edits) :]],
        "steps": steps,
    }


def _stored(tensors: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def _loaded(pack: Pack) -> dict[str, Tensor]:
    """Return the tensors of a pack.

    Raises:
        CardError: not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(pack.files[ADAPTER_NAME])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CardError(
            f"The {ADAPTER_NAME} of the pack {pack.card.name} is not valid safetensors: {error}."
        ) from error
