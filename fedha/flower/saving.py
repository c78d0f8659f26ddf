"""When a run's state is saved: each k-th round, after so many minutes, and when the run is asked to stop."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from fedha.config import Config
from fedha.errors import ClusterError, FedhaError, StoppedError
from fedha.federation import Server
from fedha.flower.delivery import is_simulation
from fedha.flower.strategy import HessianAlignment
from fedha.flower.wire import pack_tensors, unpack_tensors
from fedha.models.state import LOCAL
from fedha.piggyback import riders
from fedha.runs.checkpoint import load_checkpoint, read_saved, save_checkpoint

States = list[ArrayRecord | None]


@runtime_checkable
class RemembersStates(Protocol):
    """A grid whose clients live with it, so that a checkpoint can hold what they remember."""

    def save_states(self) -> States:
        """What each client must remember, in client order."""

    def restore_states(self, states: States) -> None:
        """Give it back."""


@dataclass
class Saving:
    """The checkpoints of a run that is going on.

    Attributes:
        folder: The run's.
        config: One recipe, one seed.
        strategy: Has begun.
        grid: Reaches the clients.
        stop: Asked whether the run should stop.
        left_out: The source that this run leaves out, or None.
        data: A digest of the data, where they are here (`fedha.data.fingerprint`).
        start: The other run whose model it began with, and a digest of that (`fedha.runs.starting`).
        constants: Where what never moves is kept for several runs, or None.
    """

    folder: Path
    config: Config
    strategy: HessianAlignment
    grid: Grid
    stop: Callable[[], bool]
    left_out: str | None = None
    data: str | None = None
    start: dict[str, Any] | None = None
    constants: Path | None = None
    _since: float = field(default_factory=time.monotonic)

    def restore(self) -> tuple[int, dict[str, Any] | None]:
        """The round that the last checkpoint was made after, and the record that then lacked the clients' evaluation.

        Raises:
            FedhaError: The checkpoint is damaged, or this engine cannot go on from it.
        """
        saved = read_saved(self.folder)
        if saved is not None and None not in (saved.data, self.data) and saved.data != self.data:
            raise FedhaError(
                f"the data are not those that the run in {self.folder} was trained with so far: examples, labels, "
                "their order or who is held out differ; put them back (data.root?), or start a new run"
            )
        done, states, pending = load_checkpoint(self.folder, self.strategy.begun())
        self.strategy.restored()
        if isinstance(self.grid, RemembersStates) and states:
            self.grid.restore_states([pack_tensors(state) if state else None for state in states])
        elif is_simulation(self.grid) and done and self._who_remembers():
            raise FedhaError(
                f"{self._who_remembers()} keeps what it needs at the clients, which this engine forgets; resume it "
                "with --engine inline, or start a new run"
            )
        return done, pending

    def save_start(self) -> None:
        """Save what another run's model made of the server, so that nobody needs that run again."""
        self._write(0, None, self.strategy.begun(), [])

    def save_if_due(self, round: int, pending: dict[str, Any] | None, *, last: bool) -> None:
        """Save the state after a round where the config asks for it."""
        checkpoint = self.config.checkpoint
        late = checkpoint.minutes is not None and time.monotonic() >= self._since + 60 * checkpoint.minutes
        if last or late or round % checkpoint.every == 0:
            self._save(round, pending, self.strategy.begun(), self._states())

    def stop_if_asked(self, round: int, pending: dict[str, Any] | None) -> None:
        """Between two rounds: save and end the run where it was asked to stop.

        Raises:
            StoppedError: It was; the message says after which round.
        """
        if self.stop():
            self._save(round, pending, self.strategy.begun(), self._states())
            raise self._stopped(round)

    @contextmanager
    def giving_up(self, round: int, pending: dict[str, Any] | None) -> Iterator[None]:
        """While clients are asked: where the run should stop, or they are lost, what is under way is given up.

        What the server keeps is replaced, never changed, and its model last, when all have answered: a copy from before
        is the state after `round`. A step that was taken is not given up.

        Args:
            round: The last one that is done.
            pending: Its record, if that waits for the clients' evaluation.

        Raises:
            StoppedError: The run was asked to stop; the state after `round` is saved.
            ClusterError: What the clients computed on is gone; the same is saved.
        """
        before, states, taken = copy.copy(self.strategy.begun()), self._states(), self.strategy.last_round
        try:
            yield
        except Exception as error:  # the same signal may have ended workers too: whatever they say, it was asked for
            asked = self.stop()
            if not (asked or isinstance(error, ClusterError)) or self.strategy.last_round is not taken:
                raise
            self._save(round, pending, before, states)
            if not asked:
                raise
            raise self._stopped(round) from error

    def _save(self, round: int, pending: dict[str, Any] | None, server: Server, states: States) -> None:
        if round:
            self._write(round, pending, server, states)
        self._since = time.monotonic()

    def _write(self, round: int, pending: dict[str, Any] | None, server: Server, states: States) -> None:
        clients = [unpack_tensors(state) if state else {} for state in states]
        content = self.config.model_dump(mode="json")
        known = (self.data, self.start, self.constants)
        save_checkpoint(self.folder, round, server, clients, pending, content, *known)

    def _states(self) -> States:
        return self.grid.save_states() if isinstance(self.grid, RemembersStates) else []

    def _stopped(self, round: int) -> StoppedError:
        where = f"after round {round} of {self.config.training.rounds}" if round else "before its first round was done"
        fold = f" of the fold without {self.left_out}" if self.left_out else ""
        return StoppedError(f"stopped {where}{fold}{', which is saved' if round else ''}")

    def _who_remembers(self) -> str:
        """What of the run has clients remember something; "" where nothing does."""
        recipe = self.strategy.task.recipe
        riding = self.strategy.piggyback and bool(riders(recipe))
        if LOCAL in self.strategy.begun().kinds.values():
            return "model.batch_norm local"
        if riding or any(term.client_average for term in recipe.terms):
            return f"recipe {recipe.name!r}"
        return next((f"rule {rule.name!r}" for rule in self.strategy.task.rules if rule.answer is not None), "")
