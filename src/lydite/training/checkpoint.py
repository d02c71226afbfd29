"""Checkpoints of an unfinished run: one safetensors file, whole or not there, no pickle."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from lydite.errors import FileError, ResumeError
from lydite.files import read_bytes, write_bytes

CHECKPOINT_NAME = "checkpoint.safetensors"
_MAX_BYTES = 16 * 1024**3


def save_checkpoint(
    folder: Path,
    step: int,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor] | None,
    notes: dict[str, float | str],
) -> None:
    """Write the state after `step` steps, replacing the older checkpoint.

    Args:
        folder: the run's scratch folder.
        step: steps done.
        network: weights and buffers.
        optimizer: AdamW or the like, with tensor state.
        average: moving average of the weights, if one is kept.
        notes: numbers and words that must survive too.
    """
    from safetensors.torch import save

    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
    tensors |= {f"average.{k}": v for k, v in (average or {}).items()}
    # row-major copies: safetensors stores no strides
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    metadata = {"step": str(step), "notes": json.dumps(notes)}
    write_bytes(folder / CHECKPOINT_NAME, save(plain, metadata))


def load_checkpoint_(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> tuple[int, dict[str, Tensor] | None, dict[str, float | str]]:
    """Restore network and optimizer in place.

    Returns:
        Steps done (0 when there is no checkpoint), the moving average or None, the notes.

    Raises:
        ResumeError: the checkpoint is damaged or belongs to another run.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / CHECKPOINT_NAME
    if not path.is_file():
        return 0, None, {}
    try:
        data = read_bytes(path, _MAX_BYTES)
        from safetensors.torch import load

        tensors = load(data)
        with safe_open(path, "pt") as stream:
            metadata = stream.metadata() or {}
        step, notes = int(metadata["step"]), json.loads(metadata["notes"])
        network.load_state_dict(_part(tensors, "network."))
        _restore_optimizer_(optimizer, _part(tensors, "optimizer."))
    except (SafetensorError, FileError, RuntimeError, ValueError, KeyError) as error:
        raise ResumeError(
            f"The checkpoint {path} cannot be used ({error}). Delete it to begin this step again."
        ) from error
    average = _part(tensors, "average.") or None
    return step, average, notes


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors under a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _restore_optimizer_(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load flattened optimizer state, in place."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, field = name.split(".", 1)
        states.setdefault(int(index), {})[field] = tensor
    whole = optimizer.state_dict()
    whole["state"] = states
    optimizer.load_state_dict(whole)
