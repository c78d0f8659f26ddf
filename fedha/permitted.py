"""Which code a config, or a message, may name in this process.

Both name functions, ``package.module:function``, and give their arguments: who writes them chooses what runs. Where
that is a stranger, as at a site of a deployment, only what the site's own people accepted is imported; elsewhere
anything.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fedha.errors import FedhaError


class CodeError(FedhaError):
    """A config or a message names code that this process does not import. It tells of settings, and of no data."""


@dataclass(frozen=True)
class _Permitted:
    places: set[str]
    remedy: str


_within: list[_Permitted] = []  # the last one holds


def from_now_on(places: Iterable[str], remedy: str) -> None:
    """Permit these alone until the process ends, in all threads.

    Args:
        places: Each as ``package.module:function``.
        remedy: What to do about another, for its refusal.
    """
    _within.append(_Permitted(set(places), remedy))


@contextmanager
def only(places: Iterable[str], remedy: str) -> Iterator[None]:
    """Permit these alone for as long as the block lasts; the arguments are those of `from_now_on`."""
    from_now_on(places, remedy)
    try:
        yield
    finally:
        _within.pop()


def permit(place: str) -> None:
    """Permit one more, which this process' own program names."""
    if _within:
        _within[-1].places.add(place)


def check(key: str, place: str) -> None:
    """Refuse code before it is imported.

    Args:
        key: Of the config, such as ``data.name``.
        place: What it names, as ``package.module:function``.

    Raises:
        CodeError: It is not permitted here.
    """
    if _within and place not in _within[-1].places:
        raise CodeError(f"{key} is {place[:200]!r}, which names code that was not accepted here; {_within[-1].remedy}")
