"""The learning rate over a run: what it is multiplied by, computed from the number of the round, or of the step."""

import math
from functools import lru_cache
from typing import Any

from fedha.config import TrainingConfig
from fedha.config.schedule import ScheduleConfig


def rate_factor(training: TrainingConfig, round: int) -> float:
    """What the learning rate is multiplied by in a round, from 1, where rounds are counted."""
    return factor(schedule_of(training), round - 1, training.rounds)


def step_factors(training: TrainingConfig, round: int, steps: int) -> list[float]:
    """The same of each of a client's local steps in a round.

    Args:
        training: Where steps are counted, they are the client's own, as if it had taken part in every round.
        round: From 1.
        steps: Of the client in a round.
    """
    schedule = schedule_of(training)
    if schedule.by == "round":
        return [rate_factor(training, round)] * steps
    done = (round - 1) * steps
    return [factor(schedule, done + step, training.rounds * steps) for step in range(steps)]


def counts_steps(training: TrainingConfig) -> bool:
    """Whether the rate changes within a round."""
    return training.mode == "local" and schedule_of(training).by == "step"


def schedule_of(training: TrainingConfig) -> ScheduleConfig:
    """The schedule, where a config may have its name alone."""
    given = training.schedule
    return given if isinstance(given, ScheduleConfig) else _named(given)


@lru_cache
def _named(name: Any) -> ScheduleConfig:
    return ScheduleConfig(name=name)  # validated once: a round asks for its rate several times


def factor(schedule: ScheduleConfig, done: int, total: int) -> float:
    """What the learning rate is multiplied by.

    Cosine and linear begin after the warm-up and are at (almost) the floor at the last; falls are counted from the
    start. The n-th of the warm-up has ``n / warmup`` of what it would have.

    Args:
        schedule: Which.
        done: Rounds or steps before this one.
        total: Of them in the whole run.
    """
    warmth = min(1.0, (done + 1) / schedule.warmup) if schedule.warmup else 1.0
    return warmth * max(schedule.floor, _fallen(schedule, done, total))


def _fallen(schedule: ScheduleConfig, done: int, total: int) -> float:
    if schedule.name in ("cosine", "linear"):
        part = max(0, done - schedule.warmup) / max(1, total - schedule.warmup)
        left = 0.5 * (1 + math.cos(math.pi * part)) if schedule.name == "cosine" else 1 - part
        return schedule.floor + (1 - schedule.floor) * left
    by = 0.1 if schedule.factor is None else schedule.factor
    if schedule.name == "step":
        return float(by ** (done // (schedule.every or 1)))
    if schedule.name == "milestones":
        return float(by ** sum(done >= one for one in schedule.at or ()))
    return float(by**done) if schedule.name == "exponential" else 1.0
