"""How this process computes: torch's threads, its float32 products, and its memory."""

import ctypes
import functools
import inspect
import sys
from collections.abc import Mapping

import torch
from torch import Tensor

_LINE = 64  # bytes: what torch makes itself begins at a multiple of it
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def configure(threads: int) -> None:
    """Fix the number of torch threads (a sum's bits depend on it) and pick the matrix product.

    Args:
        threads: Threads of each client's operations.
    """
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    _use_onednn_where_exact()
    _keep_freed_memory()
    _leave_the_compiler_out()


def aligned(values: Tensor) -> Tensor:
    """The same numbers where the bits of a product do not depend on how they came into this process.

    MKL, which computes small products and those in float64, adds in another order where a matrix begins elsewhere than
    at a multiple of 64 bytes: what torch makes does, what is read from a message or a file need not. oneDNN does not.
    """
    return values if values.data_ptr() % _LINE == 0 or values.device.type != "cpu" else values.clone()


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with numbers that are not finite, or far too large to be added up; None: of none.

    It is one look at all of them, since each look waits for a GPU.
    """
    marks = marks_of(list(tensors.values()))
    if not marks:
        return None
    alike = len({one.dtype for one in marks}) == 1
    if bool(torch.stack(marks if alike else [one.double() for one in marks]).isfinite().all()):
        return None
    return next(name for name, one in zip(tensors, marks, strict=True) if not bool(one.isfinite()))


def marks_of(tensors: list[Tensor]) -> list[Tensor]:
    """A number of each tensor that is not finite where one of its entries is not: its sum; on a GPU its L1 norm, which
    torch takes of all at once.
    """
    if not tensors or not all(one.is_cuda and one.dtype in (torch.float32, torch.float64) for one in tensors):
        return [one.sum() for one in tensors]
    return list(torch._foreach_norm(tensors, 1))


@torch.no_grad()
def take_step(optimizer: torch.optim.Optimizer) -> None:
    """One step of an optimiser with the gradients that its parameters hold, which are then forgotten.

    It is `step` and `zero_grad` without what torch wraps around them: hooks, profiling, and a first call that imports
    torch.compile, which takes longer than the first round.
    """
    inspect.unwrap(type(optimizer).step)(optimizer)
    for group in optimizer.param_groups:
        for value in group["params"]:
            value.grad = None


@functools.cache
def _use_onednn_where_exact() -> None:
    """Send float32 products to oneDNN where it keeps float32 accuracy, else leave them to torch's default.

    Torch's default on x86 is MKL, which takes its slow path on other vendors' processors. Allowing bfloat16 inside
    oneDNN sends the product there; processors with matrix units then really round to bfloat16, which a probe shows and
    which is undone. Measured in docs/benchmarks.md.
    """
    if not torch.backends.mkldnn.is_available():
        return
    left = torch.randn(64, 384, generator=torch.Generator().manual_seed(0))
    exact = left.double() @ left.double().T
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch declares it to Python, not to mypy
    products.fp32_precision = "bf16"
    if (left @ left.T - exact).abs().max() > 1e-3:
        products.fp32_precision = "ieee"


@functools.cache
def _keep_freed_memory() -> None:
    """Tell glibc to keep freed memory: a step frees and asks for the same large tensors, and fresh pages are slow.

    On other C libraries nothing is changed. Measured in docs/benchmarks.md.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@functools.cache
def _leave_the_compiler_out() -> None:
    """Mark the optimisers' own functions as already switched off for torch.compile, so that none imports it for that.

    Where it has been imported, or where torch keeps the mark elsewhere, nothing is changed.
    """
    for name in ("add_param_group", "state_dict", "load_state_dict"):
        plain = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if plain is not None and "torch._dynamo" not in sys.modules:
            plain.__dynamo_disable = getattr(plain, "__dynamo_disable", plain)
