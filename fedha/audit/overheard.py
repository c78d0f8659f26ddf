"""A grid that listens: messages between server and clients go through it unchanged, and it keeps those of a round."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedha.flower.failure import find_failure


@dataclass(frozen=True)
class Exchange:
    """What was said in one exchange.

    Attributes:
        kind: The message type.
        round: From 1.
        asked: What each node was sent.
        answered: What the server received, by node; a node that failed is missing.
    """

    kind: str
    round: int
    asked: dict[int, RecordDict]
    answered: dict[int, RecordDict]


class ListeningGrid(Grid):
    """Passes everything on to another grid, and keeps the exchanges of wanted rounds until they are taken.

    Args:
        grid: Reaches the clients; it must answer `send_and_receive`, as the grids of fedha's own engines do.
        rounds: Of which rounds exchanges are kept.
    """

    def __init__(self, grid: Grid, rounds: Collection[int]) -> None:
        self._grid, self._rounds = grid, frozenset(rounds)
        self._kept: list[Exchange] = []

    def set_run(self, run: Run) -> None:
        """Take over a run's description."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._grid.run

    def create_message(self, *arguments: Any, **options: Any) -> Message:
        """A message to a node."""
        return self._grid.create_message(*arguments, **options)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes, in client order."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not listened to: fedha's own grids are asked with `send_and_receive`."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As `push_messages`."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Pass questions on and answers back, and keep both where their round is wanted."""
        asked = list(messages)
        answered = list(self._grid.send_and_receive(asked, timeout=timeout))
        number = int(asked[0].metadata.group_id) if asked else 0
        if number in self._rounds:
            self._keep(number, asked, answered)
        return answered

    def take(self) -> list[Exchange]:
        """What was kept since this was last asked for, in order."""
        kept, self._kept = self._kept, []
        return kept

    def _keep(self, number: int, asked: list[Message], answered: list[Message]) -> None:
        questions = {one.metadata.dst_node_id: one.content for one in asked}
        answers = {one.metadata.src_node_id: one.content for one in answered if find_failure(one) is None}
        self._kept.append(Exchange(asked[0].metadata.message_type, number, questions, answers))
