"""At which step the server is, whom it asked and who has answered."""

from dataclasses import dataclass, field
from typing import Protocol

from fedha.errors import FedhaError
from fedha.privacy.secure.checks import check_session
from fedha.privacy.secure.session import Session

_STEPS = ("keys", "shares", "masked vectors", "confirmations", "revealed shares", "its end")


class Message(Protocol):
    """What every message from a client has."""

    @property
    def session(self) -> bytes:
        """The session's digest."""

    @property
    def client_id(self) -> int:
        """The client's."""


@dataclass
class Progress:
    """Keeps the steps apart.

    Attributes:
        session: The session.
        asked: Who may answer in this step, ascending.
        step: From 0.
        heard: Who has answered in this step.
    """

    session: Session
    asked: tuple[int, ...]
    step: int = 0
    heard: set[int] = field(default_factory=set)

    def check(self, step: int, message: Message) -> None:
        """Refuse what does not belong to this session or this step, or comes again.

        Raises:
            FedhaError: It is that.
        """
        what, client_id, name = _STEPS[step], message.client_id, self.session.name
        check_session(self.session, message.session, f"client {client_id}'s {what}")
        if step != self.step:
            raise FedhaError(
                f"client {client_id}'s {what} came while {name} is at {_STEPS[self.step]}; "
                "they were too late or sent again, so they are left out"
            )
        if client_id not in self.asked:
            raise FedhaError(f"client {client_id} sends {what} to {name} and was not asked; they are left out")
        if client_id in self.heard:
            raise FedhaError(f"client {client_id} sends {what} to {name} twice; the first ones count")

    def close(self, step: int, needed: int) -> tuple[int, ...]:
        """End a step: who was heard in it is asked in the next.

        Returns:
            They, ascending.

        Raises:
            FedhaError: Too few were heard, or it is not this step's turn.
        """
        what, name = _STEPS[step], self.session.name
        if step != self.step:
            raise FedhaError(f"{name} is at {_STEPS[self.step]}, not at {what}; take the steps in their order")
        if len(self.heard) < needed:
            raise FedhaError(
                f"{len(self.heard)} of {len(self.session.cohort)} clients sent {what} in {name} and {needed} are "
                "needed, so it cannot be summed; look at the silent ones, or have more clients"
            )
        self.step, self.asked, self.heard = step + 1, tuple(sorted(self.heard)), set()
        return self.asked
