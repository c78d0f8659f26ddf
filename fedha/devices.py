"""Tensors to and from a GPU, through pinned memory so that copies overlap."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedha.errors import FedhaError


def check_device(whose: str, name: object) -> None:
    """Whether torch can compute there.

    Args:
        whose: Who was asked to, such as ``client_app``.
        name: The device's, such as ``cpu`` or ``cuda:1``.

    Raises:
        FedhaError: There is no such device, or not here.
    """
    try:
        device = torch.device(name) if isinstance(name, str) else None
    except RuntimeError:
        device = None
    if device is None:
        raise FedhaError(f"{whose} was given device={name!r}; give cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= (seen := torch.cuda.device_count()):
        raise FedhaError(f"{whose} was given device={name!r}, but torch sees {seen} GPUs here; give cpu")


def to_device(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The same tensors on a device; those that are there are not copied."""
    if device.type != "cuda":
        return {name: value if value.device == device else value.to(device) for name, value in tensors.items()}
    return {
        name: value.to(device) if value.is_cuda else value.pin_memory().to(device, non_blocking=True)
        for name, value in tensors.items()
    }


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
