"""Schedules of the learning rate: torch's own where it has them, and computed from the number of the step alone."""

from typing import Any

import pytest
import torch

from fedha.config import TrainingConfig, parse, to_yaml
from fedha.config.schedule import ScheduleConfig
from fedha.errors import FedhaError
from fedha.schedule import counts_steps, factor, rate_factor, step_factors

SCHEDULERS = torch.optim.lr_scheduler
TOTAL = 12


def torchs(make: Any) -> list[float]:
    """The rates of one of torch's schedulers, from a rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


TWINS: dict[str, tuple[dict[str, Any], Any]] = {
    "step": ({"name": "step", "every": 5}, lambda one: SCHEDULERS.StepLR(one, 5)),
    "step by a half": ({"name": "step", "every": 3, "factor": 0.5}, lambda one: SCHEDULERS.StepLR(one, 3, 0.5)),
    "milestones": ({"name": "milestones", "at": [3, 8]}, lambda one: SCHEDULERS.MultiStepLR(one, [3, 8])),
    "exponential": ({"name": "exponential", "factor": 0.8}, lambda one: SCHEDULERS.ExponentialLR(one, 0.8)),
    "cosine": ({"name": "cosine"}, lambda one: SCHEDULERS.CosineAnnealingLR(one, TOTAL)),
    "cosine to a floor": (
        {"name": "cosine", "floor": 0.1},
        lambda one: SCHEDULERS.CosineAnnealingLR(one, TOTAL, eta_min=0.1),
    ),
    "warm-up": (
        {"warmup": 4},
        lambda one: SCHEDULERS.LinearLR(one, start_factor=0.25, total_iters=3),
    ),
    "linear": ({"name": "linear"}, lambda one: SCHEDULERS.LinearLR(one, 1.0, 0.0, total_iters=TOTAL)),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_schedule_is_torchs(name: str) -> None:
    given, make = TWINS[name]
    schedule = ScheduleConfig(**given)
    assert [factor(schedule, done, TOTAL) for done in range(TOTAL)] == pytest.approx(torchs(make), abs=1e-12)


def test_a_cosine_begins_to_fall_when_the_warm_up_is_over() -> None:
    schedule, plain = ScheduleConfig(name="cosine", warmup=3), ScheduleConfig(name="cosine")
    found = [factor(schedule, done, TOTAL) for done in range(TOTAL)]
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert found[3:] == [factor(plain, done, TOTAL - 3) for done in range(TOTAL - 3)]


@pytest.mark.parametrize("name", ["constant", "cosine", "linear"])
def test_a_name_alone_is_what_it_always_was(name: str) -> None:
    by_name, mapped = (TrainingConfig(rounds=7, schedule=given) for given in (name, {"name": name}))
    assert mapped.schedule == name
    assert [rate_factor(by_name, one) for one in (1, 7)] == [rate_factor(mapped, one) for one in (1, 7)]


def test_local_steps_are_counted_over_the_rounds() -> None:
    training = TrainingConfig(mode="local", rounds=3, schedule={"name": "cosine", "warmup": 2, "by": "step"})
    whole = [one for number in (1, 2, 3) for one in step_factors(training, number, 4)]
    assert whole == [factor(ScheduleConfig(name="cosine", warmup=2), done, 12) for done in range(12)]
    assert counts_steps(training)
    rounds = training.model_copy(update={"schedule": "linear"})
    assert step_factors(rounds, 2, 3) == [1 - 1 / 3] * 3


def test_a_schedule_is_written_and_read_again() -> None:
    config = parse({"training": {"schedule": {"name": "milestones", "at": ["3", "8"], "factor": "0.5"}}})
    assert "at:\n    - 3\n    - 8" in to_yaml(config)
    assert parse(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("cosin", "training.schedule is 'cosin'; give constant, cosine, linear or a mapping"),
        ("step", "training.schedule: a schedule 'step' needs every"),
        ({"name": "cosine", "warm": 2}, "training.schedule: unknown key 'warm'; did you mean 'warmup'?"),
        ({"name": "cosine", "every": 2}, "every is 2, which a schedule 'cosine' does not read"),
        ({"name": "milestones", "at": [8, 3]}, r"at is \[8, 3\]; give each once, in ascending order"),
        ({"name": "exponential"}, "a schedule 'exponential' needs factor"),
        ({"name": "cosine", "warmup": -1}, "warmup is -1: input should be greater than or equal to 0"),
        ({"name": "cosine", "warmup": 100}, "schedule.warmup is 100, but there are 100 rounds in all; lower it"),
        ({"floor": 0.1}, "floor is 0.1, which a schedule 'constant' does not read"),
    ],
)
def test_what_a_schedule_does_not_take_is_said_in_a_sentence(schedule: Any, said: str) -> None:
    with pytest.raises(FedhaError, match=said):
        parse({"training": {"schedule": schedule}})
