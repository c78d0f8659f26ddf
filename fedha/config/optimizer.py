"""What a config says of an optimiser of torch's, checked where it is read; torch is imported where one is named."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from fedha.errors import FedhaError
from fedha.rules.table import named_rule

_WITH_OPTIONS = ("sgd", "adam")  # fedha's own steps, to the bits of torch's, as long as they are given no options


@dataclass(frozen=True)
class TorchOptimizer:
    """One that was found.

    Attributes:
        written: As a config holds it: its name, or a mapping with name and options as torch takes them.
        rate: torch's default learning rate.
    """

    written: str | dict[str, Any]
    rate: float


def torch_optimizer(given: Any, ours: Container[str]) -> TorchOptimizer | None:
    """The optimiser of torch's that a config names; None where it names something else.

    Args:
        given: A name, or a mapping with one and options.
        ours: Names that are fedha's, or a package's.

    Raises:
        ValueError: It cannot be used, or not so.
    """
    if not isinstance(given, str) and not (isinstance(given, Mapping) and isinstance(given.get("name"), str)):
        return None
    name, options = named_rule(given)
    if name in ours and not (options and name in _WITH_OPTIONS):
        return None
    from fedha import optimizers  # which knows torch, and is slow to import

    if name not in optimizers.known():
        return None
    try:
        taken = optimizers.checked(name, options)
    except FedhaError as error:
        raise ValueError(str(error)) from error
    return TorchOptimizer({"name": name, **taken} if taken else name, optimizers.usual_rate(name))


def torch_names() -> list[str]:
    """The names of torch's optimisers, for who misspelt one."""
    from fedha import optimizers

    return list(optimizers.known())
