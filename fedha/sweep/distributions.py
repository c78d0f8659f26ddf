"""Named distributions of hyperparameters, as a sweep's config writes them."""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedha.errors import FedhaError
from fedha.randomness import generator
from fedha.schema import nearest, shown

CHOICE = "choice"


@dataclass(frozen=True)
class Distribution:
    """What values of one key are drawn from.

    Attributes:
        kind: A key of `KINDS`.
        given: The choices, or the lower and the upper end.
    """

    kind: str
    given: tuple[Any, ...]

    def draw(self, seed: int, draw: int, key: str) -> Any:
        """A value: the same for the same seed, draw and key, whatever else is drawn.

        Args:
            seed: The run's; a trial of other seed has draws of its own.
            draw: Its number, from 0.
            key: Whose value it is, with dots.
        """
        stream = generator(seed, "sweep", draw, key)
        return KINDS[self.kind](float(torch.rand((), generator=stream, dtype=torch.float64)), self.given)

    def __str__(self) -> str:
        return f"{self.kind} {shown(list(self.given))}"


def _choice(share: float, given: Sequence[Any]) -> Any:
    return given[min(int(share * len(given)), len(given) - 1)]


def _uniform(share: float, given: Sequence[Any]) -> float:
    return float(given[0] + share * (given[1] - given[0]))


def _log_uniform(share: float, given: Sequence[Any]) -> float:
    return float(10 ** _uniform(share, given))


def _int_uniform(share: float, given: Sequence[Any]) -> int:
    return int(min(given[0] + math.floor(share * (given[1] - given[0] + 1)), given[1]))


def _int_log_uniform(share: float, given: Sequence[Any]) -> int:
    return math.floor(_log_uniform(share, given))


def _int_exp2_uniform(share: float, given: Sequence[Any]) -> int:
    return math.floor(2 ** _uniform(share, given))


KINDS: Mapping[str, Callable[[float, Sequence[Any]], Any]] = {
    CHOICE: _choice,  # one of the list, each as likely
    "uniform": _uniform,
    "log_uniform": _log_uniform,  # ten to the power of a uniform number
    "int_uniform": _int_uniform,  # both ends included
    "int_log_uniform": _int_log_uniform,  # the same, rounded down
    "int_exp2_uniform": _int_exp2_uniform,  # two to the power of a uniform number, rounded down
}
_LIMITS = {"log_uniform": 300.0, "int_log_uniform": 18.0, "int_exp2_uniform": 62.0}


def read_distribution(key: str, value: Any) -> Distribution | None:
    """The distribution that a value of a config stands for; None where it is a value like any other.

    Args:
        key: Where it stands, with dots.
        value: A mapping with the one key of a distribution, such as ``{log_uniform: [-5, -3.5]}``.

    Raises:
        FedhaError: It is written like one and is none.
    """
    if not isinstance(value, Mapping) or len(value) != 1:
        return None
    (kind, given), *_ = value.items()
    if kind not in KINDS:
        if (
            isinstance(kind, str)
            and difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.8)
            and isinstance(given, list)
        ):
            raise FedhaError(f"{key} is drawn from {kind!r}, which is no distribution{nearest(kind, KINDS)}")
        return None
    if kind == CHOICE:
        if not isinstance(given, list) or not given:
            raise FedhaError(f"{key} is {shown(value)}; give choice a list of values, such as {{choice: [0, 0.1]}}")
        return Distribution(kind, tuple(given))
    return Distribution(kind, _ends(key, kind, value, given))


def _ends(key: str, kind: str, value: Any, given: Any) -> tuple[Any, ...]:
    from fedha.schema import number

    ends = [number(one) if isinstance(one, str) else one for one in given] if isinstance(given, list) else []
    numbers = [one for one in ends if isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one)]
    if len(ends) != 2 or len(numbers) != 2 or numbers[0] > numbers[1]:
        raise FedhaError(
            f"{key} is {{{kind}: {shown(given)}}}; give {kind} its lower and its upper end, such as {{{kind}: [1, 2]}}"
        )
    if kind == "int_uniform" and any(one != int(one) for one in numbers):
        raise FedhaError(f"{key} is {shown(value)}; the ends of int_uniform are whole numbers")
    limit = _LIMITS.get(kind, math.inf)
    if max(map(abs, numbers)) > limit:
        raise FedhaError(
            f"{key} is {shown(value)}; its ends are exponents, of {'2' if 'exp2' in kind else '10'}, within {limit:g}"
        )
    return tuple(numbers)
