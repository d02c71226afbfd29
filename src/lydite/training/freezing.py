"""Training a part of a network: what learns, and what keeps every bit as it is."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


class Freeze:
    """Lets chosen parameters of a network learn, and keeps all others as they are.

    The norms whose own parameters do not learn also keep their running statistics: they stay in
    evaluation mode while the rest trains. Dropout works everywhere.

    Args:
        network: changed in place, until `undo_`.
        trainable: names of the parameters that learn; None: all, as they come.
        norms: every norm keeps its running statistics and goes by them, even where its scale and
            shift learn.
    """

    def __init__(
        self, network: nn.Module, trainable: Collection[str] | None, *, norms: bool = False
    ) -> None:
        named = dict(network.named_parameters())
        self.learning = list(named.values())
        self._resting: list[nn.Module] = []
        self._stopped: list[nn.Parameter] = []
        if norms:
            self._resting = [m for m in network.modules() if isinstance(m, _NormBase)]
        if trainable is None:
            return
        assert set(trainable) <= named.keys(), "names of other parameters"
        self.learning = [p for name, p in named.items() if name in trainable]
        assert self.learning, "nothing would learn"
        for name, parameter in named.items():
            if name not in trainable and parameter.requires_grad:
                parameter.requires_grad_(False)
                self._stopped.append(parameter)
        for module in network.modules():
            own = module.parameters(recurse=False)
            if norms or not isinstance(module, _NormBase):
                continue
            if not any(p.requires_grad for p in own):
                self._resting.append(module)

    @property
    def size(self) -> int:
        """Number of values that learn."""
        return sum(parameter.numel() for parameter in self.learning)

    def rest_(self) -> None:
        """Put the norms that keep their statistics into evaluation mode, in place."""
        for module in self._resting:
            module.eval()

    def undo_(self) -> None:
        """Let everything learn again that did before, in place."""
        for parameter in self._stopped:
            parameter.requires_grad_(True)


def has_statistics(network: nn.Module) -> bool:
    """Return whether a norm of the network keeps running statistics."""
    return any(isinstance(m, _NormBase) and m.track_running_stats for m in network.modules())
