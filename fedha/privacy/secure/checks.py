"""What every message is held to: its session, and who it speaks of."""

from fedha.errors import FedhaError
from fedha.privacy.secure.session import Session


def check_session(session: Session, theirs: bytes, what: str) -> None:
    """Refuse a message of another run, round or exchange.

    Raises:
        FedhaError: It is one.
    """
    if theirs != session.digest:
        raise FedhaError(
            f"{what} came to {session.name} but belong to another run, round or exchange; an old message was sent "
            "again, or server and clients disagree on cohort, thresholds or layout"
        )


def check_client_ids(client_ids: tuple[int, ...], among: tuple[int, ...], what: str) -> None:
    """Refuse a list with somebody twice, out of order, or who does not belong.

    Raises:
        FedhaError: It is one.
    """
    strangers = sorted(set(client_ids) - set(among))
    if strangers or list(client_ids) != sorted(set(client_ids)):
        reason = f"of client {strangers[0]}, who does not belong there" if strangers else "not one a client, in order"
        raise FedhaError(f"{what} are {reason}; the server is broken or cheats")
