"""Which device and number format to train with."""

from __future__ import annotations

import logging
import os
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from torch import nn

from lydite.errors import ConfigError
from lydite.memory import forget_peak, resident_bytes
from lydite.recipe import Context

Module = TypeVar("Module", bound=nn.Module)
#: below this many input channels a convolution is bound by memory, and bfloat16 only costs casts
_DENSE_CHANNELS = 16


def make_fabric(context: Context, network: nn.Module) -> Fabric:
    """Return Fabric for the context's device and precision.

    Under `torchrun` every process takes its own GPU and gradients are averaged (DDP); otherwise
    one device is used.

    Raises:
        ConfigError: "cuda" is wanted and there is none, or an unknown device or precision.
    """
    device, precision = context.device, context.precision
    require_device(device)
    if precision not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"Unknown precision '{precision}'. Allowed: auto, float32, bfloat16.")
    if device == "auto":
        device = number_format()[0]
    if precision == "auto":
        precision = "bfloat16" if _bfloat16_pays(device, network) else "float32"
    world = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # Fabric announces its precision on every start; the report says it once
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device,
        devices=here if world > 1 else 1,
        num_nodes=max(1, world // here),
        strategy="ddp" if world > 1 else "auto",
        precision="bf16-mixed" if precision == "bfloat16" else "32-true",
    )
    fabric.launch()
    return fabric


def require_device(device: str) -> None:
    """Refuse a device that there is none of.

    Raises:
        ConfigError: "cuda" is wanted and there is none, or an unknown device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"Unknown device '{device}'. Allowed: auto, cpu, cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("Device 'cuda' was asked for, but torch sees no GPU. Use 'cpu'.")


def number_format() -> tuple[str, torch.dtype]:
    """Return the device that "auto" means here, and the format in which it multiplies fastest.

    A CPU counts as fast in bfloat16 with AMX or AVX512-BF16 instructions.
    """
    if torch.cuda.is_available():
        return "cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    can = torch.cpu.get_capabilities()
    fast = bool(can.get("amx_bf16") or can.get("avx512_bf16"))
    return "cpu", torch.bfloat16 if fast else torch.float32


def autocast_for(device: torch.device, network: nn.Module) -> torch.autocast:
    """Return the autocast region that "auto" precision means for a network on a device."""
    pays = _bfloat16_pays(device.type, network)
    return torch.autocast(device.type, torch.bfloat16, enabled=pays)


def place_(network: Module, device: torch.device, layout: torch.memory_format) -> Module:
    """Move a network to a device and memory layout, in place, and return it."""
    network.to(device)
    network.to(memory_format=layout)  # type: ignore[call-overload]
    return network


def restart_peak(device: torch.device) -> None:
    """Let `peak_bytes` count from now on."""
    if device.type == "cuda":
        # before there are no statistics that could be reset
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.reset_peak_memory_stats(device)
    else:
        forget_peak()


def peak_bytes(device: torch.device) -> int:
    """Return the highest memory since `restart_peak`, in bytes.

    On a GPU that is what torch had allocated there. On a CPU it is what was resident of the whole
    process, libraries and decoded images included; where the system forgets no peak, since the
    process began.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident_bytes(peak=True)


def _bfloat16_pays(device: str, network: nn.Module) -> bool:
    """Tell whether bfloat16 is faster: units for it, and work that keeps them busy."""
    best, dtype = number_format()
    return (
        device == best and dtype is torch.bfloat16 and (device == "cuda" or _mostly_dense(network))
    )


def _mostly_dense(network: nn.Module) -> bool:
    """Tell whether most convolution weights read many channels at once."""
    weights = {True: 0, False: 0}
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            dense = module.in_channels // module.groups >= _DENSE_CHANNELS
            weights[dense] += module.weight.numel()
    return weights[True] > weights[False]
