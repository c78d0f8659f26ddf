"""The rounds of a run at the server: each trained, looked at where it is due, recorded and saved."""

import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from fedha.config import POOLED
from fedha.federation import Server
from fedha.flower import booking, budget
from fedha.flower.job import Job
from fedha.flower.judged import Judged
from fedha.flower.saving import Saving
from fedha.flower.strategy import HessianAlignment
from fedha.runs.listener import Listener
from fedha.runs.runfolder import MetricsLog

Record = dict[str, Any]
Look = Callable[[Mapping[str, Any]], Mapping[str, Any]]  # a model, to what it makes of some domains


@dataclass
class Rounds:
    """Those that are left of a run.

    Attributes:
        job: The run.
        strategy: Has begun, and met its clients.
        grid: Reaches them.
        listener: Told of every round.
        judge: What is made of evaluations.
        saving: The checkpoints.
        log: The file of records.
        looks: How the server looks at each part of the unseen domains.
        names: The source domains, in client order.
        records: Of the rounds before.
        pending: The record of a round whose model clients evaluate with the next one; None: there is none.
        stopped: Why training ends before its time, by its privacy; "" while it goes on.
        early: Why it ends by what was evaluated; "" while it goes on.
        watch: How the server looks at the sources, where the config says so.
    """

    job: Job
    strategy: HessianAlignment
    grid: Grid
    listener: Listener
    judge: Judged
    saving: Saving
    log: MetricsLog
    looks: Mapping[str, Look]
    names: tuple[str, ...]
    records: list[Record]
    pending: Record | None = None
    stopped: str = ""
    early: str = ""
    watch: Look | None = None
    _shown: Mapping[str, Any] = field(default_factory=dict)  # the model that was last looked at

    @property
    def server(self) -> Server:
        """The state of the run."""
        return self.strategy.begun()

    @property
    def whole(self) -> int:
        """How many rounds the run has."""
        return self.job.config.training.rounds

    def run(self, done: int) -> None:
        """Go on after a round, to the end.

        Args:
            done: The last one that is done, 0 for none.

        Raises:
            FedhaError: Bad data or a failed client.
            StoppedError: It was asked to stop; what was done is saved.
        """
        self.early = self.judge.recall(self.records)
        self._take_up(done)
        for number in () if self.stopped or self.early else range(done + 1, self.whole + 1):
            self._round(number)
            if self.stopped or self.early:
                self.listener.note(f"training ends after round {number}: {self.stopped or self.early}")
                break

    def held_out(self) -> dict[str, Any]:
        """What was last counted of each source's held-out part."""
        found = self.strategy.last_evaluation.get("held_out", {})
        names = self.names if self.strategy.secure is None else (POOLED,)
        return {name: found.get(name, {"examples": 0}) for name in names}

    def _take_up(self, done: int) -> None:
        """What is left of a round after which, or during whose evaluation, the run was stopped."""
        over = done == self.whole or bool(self.stopped or self.early)
        waits = self.pending is not None and (over or not self.strategy.piggyback)
        if over or waits:
            with self.saving.giving_up(done, self.pending):
                seconds = self._ask(done, "held_out,train" if over else "held_out", over=over)
        if waits and self.pending is not None:
            record, self.pending = self._evaluated(self.pending, seconds), None
            self.records.append(record)
            self.log.append(record)
            self.early = self.judge.after(record, self.server.shown(over=over), self.server.kinds)
            self.listener.round_done(record)
            if self.early and not over:
                with self.saving.giving_up(done, None):
                    self._ask_the_rest(done)
        self._shown = self.server.shown(over=False)

    def _round(self, number: int) -> None:
        self.saving.stop_if_asked(number - 1, self.pending)
        booking.enter(self.job, self.server, number, self.server.members)
        with self.saving.giving_up(number - 1, self.pending):
            record = self._trained(number, riding=() if self.pending is None else ("held_out",))
        self.judge.kept.each(number, lambda: self.server.shown(over=False), self.server.kinds)
        done = [] if self.pending is None else [self._evaluated(self.pending)]
        for one in done:
            self.log.append(one)
            self.early = self.judge.after(one, self._shown, self.server.kinds)
        self.pending = None
        last = self._is_last(number)
        if self.watch is not None and (last or number % (self.job.config.evaluation.diagnose_every or number) == 0):
            record["diagnosis"] = self.watch(self.server.shown(over=last))
        if last or number % self.job.config.evaluation.every == 0:
            record = self._looked_at(record, last=last)
        if self.pending is None:
            self.log.append(record)
            done.append(record)
            why = self.judge.after(record, self._shown, self.server.kinds) if "held_out" in record else ""
            if why and not last:
                self.early, last = why, True
                with self.saving.giving_up(number, None):
                    self._ask_the_rest(number)
        self.saving.save_if_due(number, self.pending, last=last)
        self.records += done
        for one in done:
            self.listener.round_done(deepcopy(one))  # who listens cannot change what is selected from

    def _is_last(self, number: int) -> bool:
        """Whether training ends with a round, as far as is known before it is evaluated."""
        if number == self.whole:
            self.stopped = self.early = ""
            return True
        self.stopped = budget.ends_before(self.server, number + 1, self.server.members)
        return bool(self.stopped or self.early)

    def _trained(self, number: int, riding: tuple[str, ...]) -> Record:
        talk = self.strategy.talk
        begun, down, up = time.perf_counter(), talk.bytes_down, talk.bytes_up
        self.strategy.parts = riding
        self.strategy.train_round(number, self.grid)
        record = {**self.strategy.last_round, "bytes_down": talk.bytes_down - down, "bytes_up": talk.bytes_up - up}
        if talk.events:
            record["events"] = list(talk.events)
        return {**record, **budget.round_numbers(self.server), "seconds": time.perf_counter() - begun}

    def _looked_at(self, record: Record, *, last: bool) -> Record:
        """A round's record with what its model makes of the unseen domains, and of the sources or not yet."""
        self._shown = self.server.shown(over=last)
        record |= {part: self.judge.recorded(part, look(self._shown)) for part, look in self.looks.items()}
        if self.strategy.piggyback and not last:
            self.pending = record  # the clients evaluate this model with the next round
            return record
        number = int(record["round"])
        with self.saving.giving_up(number, record):
            seconds = self._ask(number, "held_out,train" if last else "held_out", over=last)
        if self.strategy.talk.events:  # those of the evaluation are among them now
            record["events"] = list(self.strategy.talk.events)
        return self._evaluated(record, seconds)

    def _evaluated(self, record: Record, seconds: float = 0.0) -> Record:
        """A round's record with what the clients evaluated, and the seconds that this took."""
        held_out = self.judge.recorded("held_out", self.held_out())
        last = {"target": record["target"], "seconds": record["seconds"] + seconds}
        rest = {key: value for key, value in record.items() if key not in last}
        return {**rest, "held_out": held_out, **last}

    def _ask(self, number: int, parts: str, *, over: bool) -> float:
        """Let every client evaluate the model that is shown; returns the seconds that it took."""
        begun, strategy = time.perf_counter(), self.strategy
        arrays: ArrayRecord = strategy.shown(over=over)
        questions = strategy.configure_evaluate(number, arrays, ConfigRecord({"parts": parts}), self.grid)
        strategy.aggregate_evaluate(number, strategy.talk.deliver(self.grid, list(questions)))
        if not over:
            self.server.hear(strategy.last_evaluation.get("held_out", {}))
        return time.perf_counter() - begun

    def _ask_the_rest(self, number: int) -> None:
        """What is asked after a last round alone, where training ended for what was asked after every one."""
        if self.strategy.task.privacy.protect == "examples":  # held-out examples were evaluated, and no others are
            return
        known = self.strategy.last_evaluation
        self._ask(number, "train", over=True)
        self.strategy.last_evaluation = {**known, **self.strategy.last_evaluation}
