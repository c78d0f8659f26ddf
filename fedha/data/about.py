"""What a data set's function says of itself, for lists and for who cannot load it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])
_ATTRIBUTE = "fedha_about"


@dataclass(frozen=True)
class About:
    """A line of the list of data sets.

    Attributes:
        what: It is, in a few words.
        needs: What a person must bring; "" for nothing.
        domains: Which it has, or what decides.
        classes: How many; None: the data decide.
    """

    what: str
    needs: str
    domains: str
    classes: int | None = None


def about(what: str, *, needs: str, domains: str, classes: int | None = None) -> Callable[[_Function], _Function]:
    """Mark a data set's function; arguments as in `About`."""

    def marked(function: _Function) -> _Function:
        setattr(function, _ATTRIBUTE, About(what, needs, domains, classes))
        return function

    return marked


def about_of(function: object) -> About | None:
    """What a function says of itself; None where it says nothing."""
    found = getattr(function, _ATTRIBUTE, None)
    return found if isinstance(found, About) else None
