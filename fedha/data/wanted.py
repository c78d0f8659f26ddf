"""Which of the domains that there are a run needs."""

from collections.abc import Sequence

from fedha.data.domain import choose_sources
from fedha.errors import FedhaError, listed


class UntargetedError(FedhaError):
    """A config names no unseen domain.

    Attributes:
        known: The domains that there are.
    """

    def __init__(self, known: Sequence[str]) -> None:
        super().__init__(f"data.target is not set; name the unseen domain, one of {', '.join(known)}")
        self.known = tuple(known)


def check_unseen(known: Sequence[str], target: str | Sequence[str] | None) -> list[str]:
    """The unseen domains that a config names, at least one.

    Args:
        known: Every domain that there is.
        target: One, or several.

    Raises:
        UntargetedError: None is named.
        FedhaError: One is no domain; names the nearest that is.
    """
    targets = [target] if isinstance(target, str) else list(target or [])
    if not targets:
        raise UntargetedError(known)
    for name in targets:
        choose_sources(known, None, name)
    return targets


def wanted(known: Sequence[str], sources: Sequence[str] | None, unseen: Sequence[str], *, alone: bool) -> list[str]:
    """The domains that are read, sources first.

    Args:
        known: Those that are there.
        sources: As the config names them; None: all but the unseen ones.
        unseen: The targets.
        alone: Whether the others' need not be there.

    Raises:
        FedhaError: A name that is none, or none is left.
    """
    if alone:
        found = [name for name in known if sources is None or name in sources or name in unseen]
        if not found:
            raise FedhaError(f"none of the run's domains is here, only {listed(known)}; put the site's own here")
        return found
    check_unseen(known, unseen)
    return [*(name for name in choose_sources(known, sources, unseen[0]) if name not in unseen), *unseen]
