"""Several processes that train one network together, started by `torchrun`.

Process 0 leads: it alone reads the cache, writes files and measures. The others only share the
work of the steps that train, and learn from the leader whether there is any.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

#: how long helpers wait for the leader, who measures alone between steps that train; where one
#: process dies, torchrun ends the others
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Team:
    """This process and how many it works with.

    Attributes:
        rank: number of this process, 0 for the leader.
        world: how many processes there are.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Team:
        """Return the team that `torchrun` made, or a team of one."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def leads(self) -> bool:
        """Whether this process reads, writes and measures."""
        return self.rank == 0

    def agree(self, value: bool) -> bool:
        """Return the leader's value in every process; waits for all of them."""
        if self.world == 1:
            return value
        _join()
        shared = [value]
        dist.broadcast_object_list(shared, src=0)
        return bool(shared[0])


def _join() -> None:
    """Make the process group, once; Fabric finds and uses it."""
    if not dist.is_initialized():
        import torch

        # both where there are GPUs: a study may be told to stay on the CPU all the same
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
