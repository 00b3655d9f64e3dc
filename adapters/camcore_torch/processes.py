"""Which process of a distributed training may look at its network, and whether it has all of it."""

from __future__ import annotations

import os

import torch
from torch import nn

from camcore.errors import InputError

__all__ = ["check_whole", "is_first"]


def is_first() -> bool:
    """Whether this is the first process of a distributed training, or the only one.

    Before the processes have met, the environment variable ``RANK`` says it, which ``torchrun`` sets.
    """
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    return os.environ.get("RANK", "0") in ("", "0")


def check_whole(model: nn.Module) -> None:
    """All parameters must be there.

    Raises
    ------
    InputError
        For a lazy one, whose shape the first batch will tell, one without values, and one that is spread over several
        processes.
    """
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise InputError(f"parameter {name!r} has no shape yet; run a batch through the network before")
        if parameter.is_meta:
            raise InputError(f"parameter {name!r} is on the device 'meta', without values; load the weights before")
        if type(parameter.data).__name__ == "DTensor" or type(parameter).__name__ == "FlatParameter":
            raise InputError(
                f"parameter {name!r} is spread over several processes, so that none could look alone; take a copy of "
                "the whole network, or train with DistributedDataParallel"
            )
