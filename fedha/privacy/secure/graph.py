"""Who shares masks and secrets with whom: everybody with everybody, or a random regular graph."""

import functools

from fedha.privacy.secure.packing import digest
from fedha.privacy.secure.session import Session


def neighbours(session: Session, client_id: int) -> tuple[int, ...]:
    """The clients that a client shares masks with, ascending; it is a neighbour of each of them.

    A regular graph puts the cohort on a ring in an order that the session's digest decides, and joins each client with
    the ``degree / 2`` next to it on both sides.

    Source:
        Bell et al., "Secure single-server aggregation with (poly)logarithmic overhead", CCS 2020 (Harary graphs).
    """
    if session.degree == len(session.cohort) - 1:
        return tuple(other for other in session.cohort if other != client_id)
    ring = _ring(session.digest, session.cohort)
    here, reach = ring.index(client_id), session.degree // 2
    return tuple(sorted(ring[(here + step) % len(ring)] for step in range(-reach, reach + 1) if step))


def holders(session: Session, client_id: int) -> tuple[int, ...]:
    """The clients that hold shares of a client's secrets, ascending: its neighbours and itself."""
    return tuple(sorted((client_id, *neighbours(session, client_id))))


@functools.lru_cache(maxsize=4)
def _ring(session: bytes, cohort: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(cohort, key=lambda one: digest("ring", session, one)))
