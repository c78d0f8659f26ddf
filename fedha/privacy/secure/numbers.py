"""A client's numbers for the log as one vector that can be summed, so that the server learns what all have together.

What is a mean over examples travels times their count, and the count beside it; what is a mean over clients as it is.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedha.exchange import Reply
from fedha.metrics.asked import NOTHING, Asked
from fedha.recipes import Recipe

NUMBERS = "numbers"  # what the vector is called among the tensors of a sum; no parameter has the name
BOUND = 2.0**32  # a sum over a client's examples may be as large
EXAMPLES = "examples"

_OVER_EXAMPLES = ("risk", "accuracy")


def measured_numbers() -> tuple[str, ...]:
    """What is summed beside statistics: how many examples they are of."""
    return (EXAMPLES,)


def trained_numbers(recipe: Recipe, parts: Sequence[str] = (), wanted: Asked = NOTHING) -> tuple[str, ...]:
    """What is summed beside an update.

    Args:
        recipe: Its terms are logged.
        parts: Parts of the domains that are evaluated along with it.
        wanted: What is counted of them.
    """
    penalties = [f"penalty/{term.statistic}" for term in recipe.terms if term.weight]
    return (EXAMPLES, "loss", *_OVER_EXAMPLES, *dict.fromkeys(penalties), *evaluated_numbers(parts, wanted))


def evaluated_numbers(parts: Sequence[str], wanted: Asked = NOTHING) -> tuple[str, ...]:
    """What is summed of evaluations of these parts of the domains; a count is as many numbers as it has."""
    counts = [f"{name}/{place}" for name, size in wanted.sizes.items() for place in range(size)]
    return tuple(f"{part}/{name}" for part in parts for name in (EXAMPLES, *_OVER_EXAMPLES, *counts))


def to_vector(reply: Reply, names: Sequence[str]) -> Tensor:
    """What one client adds: each number times its count, and the count, which is 0 where it has no such number.

    Args:
        reply: The client's own, with its examples and metrics.
        names: From the functions above; metrics of other names are left out.

    Returns:
        [len(names), 2], float64.
    """
    metrics = {EXAMPLES: float(reply.examples), **reply.metrics}
    for name, values in reply.sums.items():
        metrics |= {f"{name}/{place}": value for place, value in enumerate(values)}
    rows = []
    for name in names:
        count = metrics.get(_count_of(name), 0.0) if _count_of(name) else 1.0
        rows.append((metrics[name] * count, count) if count and name in metrics else (0.0, 0.0))
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)


def from_vector(total: Tensor, names: Sequence[str]) -> dict[str, float]:
    """The clients' common numbers: sums of counts, means of all else; what nobody has is left out.

    Args:
        total: The sum of `to_vector` over clients.
        names: As there.
    """
    found: dict[str, float] = {}
    for name, (value, count) in zip(names, total.tolist(), strict=True):
        if round(count):
            found[name] = _sum(name, value) if _is_sum(name) else value / round(count)
    return found


def counts_of(numbers: Mapping[str, float]) -> dict[str, list[float]]:
    """The counts among the clients' common numbers, each whole again."""
    found: dict[str, list[float]] = {}
    for name, value in numbers.items():
        if _is_sum(name) and not name.endswith(EXAMPLES):
            found.setdefault(name.rpartition("/")[0], []).append(value)
    return found


def _is_sum(name: str) -> bool:
    return name.endswith(EXAMPLES) or name.rpartition("/")[2].isdecimal()


def _sum(name: str, value: float) -> float:
    """How many examples there are is a whole number, whatever it was made of; confidence is none."""
    return value if "/bins/" in name else round(value)


def _count_of(name: str) -> str:
    """The count that a mean over examples is multiplied with; "" for a count and for a mean over clients."""
    part, _, last = name.rpartition("/")
    if last not in _OVER_EXAMPLES or part == "penalty":
        return ""
    return f"{part}/{EXAMPLES}" if part else EXAMPLES
