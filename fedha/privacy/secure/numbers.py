"""A client's numbers for the log as one vector that can be summed, so that the server learns what all have together.

What is a mean over examples travels times their count, and the count beside it; what is a mean over clients as it is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedha.errors import FedhaError
from fedha.exchange import Reply
from fedha.recipes import Recipe

NUMBERS = "numbers"  # what the vector is called among the tensors of a sum; no parameter has the name
POOLED = "all sources"  # what stands in the place of domains' names, where only sums over clients are known
BOUND = 2.0**32  # a sum over a client's examples may be as large
EXAMPLES = "examples"

_OVER_EXAMPLES = ("risk", "accuracy")


def measured_numbers() -> tuple[str, ...]:
    """What is summed beside statistics: how many examples they are of."""
    return (EXAMPLES,)


def trained_numbers(recipe: Recipe, parts: Sequence[str] = (), *, covered: bool = False) -> tuple[str, ...]:
    """What is summed beside an update.

    Args:
        recipe: Its terms are logged.
        parts: Parts of the domains that are evaluated along with it.
        covered: Whether examples are protected by noise, so that clients have no others than of their releases.
    """
    penalties = dict.fromkeys(f"penalty/{term.statistic}" for term in recipe.terms if term.weight)
    exact = () if covered else ("loss", *_OVER_EXAMPLES)
    return (EXAMPLES, *exact, *penalties, *evaluated_numbers(parts, covered=covered))


def evaluated_numbers(parts: Sequence[str], *, covered: bool = False) -> tuple[str, ...]:
    """What is summed of evaluations of these parts of the domains; the risk has no bound, so no noise covers it."""
    means = ("accuracy",) if covered else _OVER_EXAMPLES
    return tuple(f"{part}/{name}" for part in parts for name in (EXAMPLES, *means))


def to_vector(reply: Reply, names: Sequence[str]) -> Tensor:
    """What one client adds.

    Args:
        reply: The client's own, with its examples and metrics.
        names: From the functions above.

    Returns:
        [len(names)], float64.

    Raises:
        FedhaError: A number is missing.
    """
    metrics = {EXAMPLES: float(reply.examples), **reply.metrics}
    values = []
    for name in names:
        count = metrics.get(_count_of(name) or "", 1.0)
        if count and name not in metrics:
            raise FedhaError(f"the number {name!r} is to be summed and the client has none; do all run the same code?")
        values.append(metrics[name] * count if count else 0.0)
    return torch.tensor(values, dtype=torch.float64)


def from_vector(total: Tensor, names: Sequence[str], clients: int) -> dict[str, float]:
    """The clients' common numbers; of no examples there is nothing but their count, 0.

    Args:
        total: The sum of `to_vector` over clients.
        names: As there.
        clients: How many.
    """
    sums = dict(zip(names, total.tolist(), strict=True))
    found: dict[str, float] = {}
    for name, value in sums.items():
        if name.endswith(EXAMPLES):
            found[name] = round(value)
            continue
        count = round(sums[counted]) if (counted := _count_of(name)) else clients
        if count:
            found[name] = value / count
    return found


def _count_of(name: str) -> str | None:
    """The count that a mean over examples is multiplied with; None for a count and for a mean over clients."""
    part, _, last = name.rpartition("/")
    if last not in _OVER_EXAMPLES or part == "penalty":
        return None
    return f"{part}/{EXAMPLES}" if part else EXAMPLES
