"""Tensors to and from a GPU, through pinned memory so that copies overlap."""

from collections.abc import Mapping

import torch
from torch import Tensor


def to_device(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The same tensors on a device; on the CPU they are not copied."""
    if device.type != "cuda":
        return {name: value.to(device) for name, value in tensors.items()}
    return {name: value.pin_memory().to(device, non_blocking=True) for name, value in tensors.items()}


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors in this process' memory, contiguous and without a graph; those there already are not copied."""
    detached = {name: value.detach().contiguous() for name, value in tensors.items()}
    waiting = {value.device for value in detached.values() if value.is_cuda}
    host = {name: _start_copy(value) if value.is_cuda else value for name, value in detached.items()}
    for device in waiting:
        torch.cuda.current_stream(device).synchronize()
    return host


def _start_copy(value: Tensor) -> Tensor:
    return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
