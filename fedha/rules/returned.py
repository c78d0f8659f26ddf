"""What a rule's functions return, looked at: one mapping by name, or two."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from fedha.errors import FedhaError, listed
from fedha.rules.rule import Rule

_SERVERS = "the server's tensors by name ({} for none)"
_WANTED = {
    "init": _SERVERS,
    "init_client": "a client's tensors by name ({} for none)",
    "sends": "tensors by name ({} for none)",
    "correct": "the gradient that is stepped along, a tensor for each name",
    "answer": "two mappings of tensors by name: what is answered beside the update, and what the client remembers",
    "weigh": f"two mappings: a weight for each client id, and {_SERVERS}",
    "refer": f"two mappings: the references by name, and {_SERVERS}",
    "aggregate": f"two mappings: the new parameters by name, and {_SERVERS}",
    "shows": "the parameters that are evaluated, by name",
    "hears": _SERVERS,
}


def one(rule: Rule, part: str, given: object) -> dict[str, Tensor]:
    """Tensors by name that a function of a rule returned.

    Raises:
        FedhaError: They are something else; says what they must be.
    """
    if not isinstance(given, Mapping):
        raise _other(rule, part, given)
    if wrong := [name for name, value in given.items() if not isinstance(value, Tensor)]:
        raise FedhaError(f"rule {rule.name!r}: its {part} gives {wrong[0]!r} that is no tensor; make it one")
    return dict(given)


def two(rule: Rule, part: str, given: object) -> tuple[dict[Any, Any], dict[str, Tensor]]:
    """Two mappings that a function of a rule returned, of which the second is remembered; errors as in `one`."""
    if not isinstance(given, tuple | list) or len(given) != 2 or not all(isinstance(each, Mapping) for each in given):
        raise _other(rule, part, given)
    return dict(given[0]), one(rule, part, given[1])


def check_weights(rule: Rule, weights: Mapping[Any, Any], client_ids: Collection[int]) -> None:
    """Refuse weights that do not say with what each client's update is averaged.

    Raises:
        FedhaError: One of those who answered is missing, or is no finite number.
    """
    if missing := [each for each in client_ids if each not in weights]:
        raise FedhaError(
            f"rule {rule.name!r}: its weigh gives weights of {listed(map(repr, weights)) or 'nobody'} and none of "
            f"client {missing[0]}; give a weight for each client id of cohort.weights"
        )
    for client_id, value in weights.items():
        try:
            finite = math.isfinite(value)
        except TypeError:
            finite = False
        if not finite:
            raise FedhaError(f"rule {rule.name!r}: its weigh gives client {client_id} the weight {value}, no number")


def _other(rule: Rule, part: str, given: object) -> FedhaError:
    what = "nothing" if given is None else f"a {type(given).__name__}"
    if isinstance(given, tuple | list):
        what = f"{type(given).__name__} ({', '.join(type(each).__name__ for each in given)})"
    return FedhaError(f"rule {rule.name!r}: its {part} returns {what}; let it return {_WANTED[part]}")
