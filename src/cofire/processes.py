"""Several processes, one result: what ``record`` and ``all_reduce`` say to each other through torch.distributed."""

from typing import Any

import torch
import torch.distributed as dist

from cofire.kernels import Moments

__all__ = ["gather", "rank", "share_ranges", "share_totals", "world_size"]


def world_size() -> int:
    """Number of processes; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 without torch.distributed."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(value: Any) -> list[Any]:
    """Every process's value, in the order of ranks, on every process."""
    if world_size() == 1:
        return [value]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, value)
    return parts


def share_ranges(moments: Moments) -> None:
    """Replace the ranges seen by this process with those seen by all, so that all histograms get the same edges."""
    for tensor, rule in (
        (moments.lowest, dist.ReduceOp.MIN), (moments.highest, dist.ReduceOp.MAX),
        (moments.least_positive, dist.ReduceOp.MIN), (moments.least_negative, dist.ReduceOp.MIN),
    ):  # fmt: skip
        _reduce(tensor, rule)


def share_totals(totals: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The sums over all processes; the arguments stay as they are."""
    copies = tuple(total.clone() for total in totals)
    for copy in copies:
        _reduce(copy, dist.ReduceOp.SUM)
    return copies


def _reduce(tensor: torch.Tensor, rule) -> None:
    if dist.get_backend() == "nccl" and tensor.device.type != "cuda":
        moved = tensor.cuda()
        dist.all_reduce(moved, rule)
        tensor.copy_(moved)
    else:
        dist.all_reduce(tensor, rule)
