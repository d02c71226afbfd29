"""`lydite models`: the networks by name, and what each costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lydite.cli.output import emit, table

if TYPE_CHECKING:
    from cyclopts import App


def register(app: App) -> None:
    """Add the command."""
    app.command(models)


def models(*, size: int = 64, json: bool = False) -> None:
    """List the networks with their parameters and multiply-adds.

    A recipe's start takes any of these names, and `timm/<name>` for a network of timm.

    Parameters
    ----------
    size
        Side of the input in pixels that the costs are counted at.
    json
        Print one JSON document.
    """
    from lydite.errors import ConfigError

    if not 32 <= size <= 1024:
        raise ConfigError(f"`--size` must be from 32 to 1024 px. Got {size}. Use 64.")
    rows = costs(size)
    emit(rows, json, lambda: _text(rows, size))


def costs(size: int) -> list[dict[str, Any]]:
    """Return name, summary, options and costs of every registered network.

    Args:
        size: side of the input in pixels; a network that does not take it has None for its costs.
    """
    import torch

    from lydite.card import Architecture
    from lydite.errors import ConfigError
    from lydite.models import build, describe
    from lydite.models.cost import count_macs, count_parameters

    rows = []
    for info in describe():
        parameters = macs = None
        try:
            with torch.device("meta"):
                network = build(Architecture(network=info.name, input_size=size))
        except ConfigError:
            pass
        else:
            parameters, macs = count_parameters(network), count_macs(network, size)
        row = {"name": info.name, "summary": info.summary, "config": info.config, "size": size}
        rows.append(row | {"parameters": parameters, "macs": macs})
    return rows


def _text(rows: list[dict[str, Any]], size: int) -> str:
    """Return the table, smallest network first, and what a dash means where there is one."""
    ordered = sorted(rows, key=lambda row: (row["parameters"] is None, row["parameters"] or 0))
    cells = [
        [
            row["name"],
            row["parameters"],
            None if row["macs"] is None else round(row["macs"] / 1e6, 1),
            row["summary"],
        ]
        for row in ordered
    ]
    text = table(["network", "parameters", f"MMAC at {size} px", "what it is"], cells)
    if any(row["parameters"] is None for row in rows):
        text += f"\n-: does not take {size} px"
    return text
