"""Out of memory: what numpy, torch and CUDA say where it ends, as a sentence that names what to lower."""

import re

REMEDY = (
    "lower training.chunk (rows that go through the network at once), training.batch_size or "
    "training.local.batch_size, or take fewer engine.workers; `fedha doctor CONFIG` says what a run needs"
)

_SAID = re.compile(r"allocate memory|not enough memory|out of memory", re.IGNORECASE)
_ASKED = re.compile(r"tried to allocate ([\d.]+) (bytes|[KMGT]i?B)", re.IGNORECASE)


def out_of_memory(error: BaseException) -> str | None:
    """What to do about an error that memory ended, with how much was asked for; None for any other error.

    torch has a class for CUDA's (`torch.OutOfMemoryError`), and for the CPU's a RuntimeError like any other.
    """
    if not (isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _SAID.search(str(error)))):
        return None
    asked = _ASKED.search(str(error))
    amount = f", {_readable(asked[1], asked[2])} were asked for at once" if asked else ""
    return f"out of memory{amount}: {REMEDY}"


def _readable(number: str, unit: str) -> str:
    return f"{number} {unit}" if unit.lower() != "bytes" else f"{float(number) / 1e6:,.0f} MB"
