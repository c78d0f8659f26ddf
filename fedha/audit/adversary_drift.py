"""A server that asks otherwise than was agreed: other settings, other questions, the same question again."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from fedha.audit.adversary_bench import Bench, Family, NotPlayedError, Outcome, Path, changed
from fedha.data.domain import Domain
from fedha.data.partition import client_domains
from fedha.errors import FedhaError
from fedha.exchange import Request
from fedha.flower import contracted
from fedha.flower.serve import load_domains
from fedha.measurement import shapes
from fedha.metrics.asked import Asked
from fedha.privacy.contract import contract_of

_HERE = "docs/privacy.md"
_ANSWERED = "numbers answered to what nobody agreed to"
_AGAIN = 16  # times that one question is asked, to average its noise


@dataclass(frozen=True)
class Drift:
    """Another setting than the agreed one.

    Attributes:
        name: A short one.
        title: For people.
        path: Of the setting, in the task as its message has it.
        value: The other one, from the agreed one.
        covered: Whether it means something only where examples are protected.
    """

    name: str
    title: str
    path: Path
    value: Callable[[Any], Any]
    covered: bool = False

    def play(self, bench: Bench) -> Outcome:
        """A round under the other setting, and how many numbers came of it."""
        if self.covered and bench.config.privacy.protect != "examples":
            raise NotPlayedError("no noise covers single examples in this config, so there is none to take away")
        told: list[str] = []

        def change(task: Any) -> Any:
            other = task
            for step in self.path[:-1]:
                other = other[step]
            before = other.get(self.path[-1]) if isinstance(other, dict) else other[self.path[-1]]
            told.append(f"{'.'.join(map(str, self.path))} {self.value(before)} in place of {before}"[:120])
            return changed(task, self.path, self.value(before))

        answer = bench.round(change)
        return Outcome(told[0], answer.refused, answer.sentence, float(answer.numbers))

    @property
    def family(self) -> Family:
        """Its row of the table."""
        return Family(self.name, self.title, _HERE, _ANSWERED, self.play)


@dataclass(frozen=True)
class Question:
    """Another question than the agreed ones, of agreed settings.

    Attributes:
        name: A short one.
        title: For people.
        asked: In words.
        make: The request.
    """

    name: str
    title: str
    asked: str
    make: Callable[[Bench], Request]

    def play(self, bench: Bench) -> Outcome:
        """Ask it once."""
        answer = bench.ask(self.make(bench))
        return Outcome(self.asked, answer.refused, answer.sentence, float(answer.numbers))

    @property
    def family(self) -> Family:
        """Its row of the table."""
        return Family(self.name, self.title, _HERE, _ANSWERED, self.play)


DRIFTS: tuple[Drift, ...] = (
    Drift("protect", "no protection", ("privacy", "protect"), lambda agreed: "nothing", covered=True),
    Drift(
        "scales", "scales that float32 does not hold", ("privacy", "scales"), lambda agreed: {"gradient": 1e39}, True
    ),
    Drift("clip", "a clip next to nothing", ("privacy", "clip"), lambda agreed: 1e-39, covered=True),
    Drift(
        "statistics_clip", "a statistics' clip in its range", ("privacy", "statistics_clip"), lambda agreed: 1e9, True
    ),
    Drift("recipe", "another weight of the penalty", ("recipe", "weight"), lambda agreed: float(agreed) * 2 + 1),
    Drift("rounds", "more rounds", ("training", "rounds"), lambda agreed: int(agreed) + 1),
    Drift("rate", "another learning rate", ("training", "learning_rate"), lambda agreed: float(agreed or 0.1) * 10),
    Drift("seed", "another seed", ("seed",), lambda agreed: int(agreed) + 1),
    Drift("bound", "another range of sums", ("privacy", "bound"), lambda agreed: float(agreed) / 2),
    Drift("minimum", "sums of fewer clients", ("privacy", "minimum"), lambda agreed: 2 if agreed != 2 else 3),
    Drift(
        "code",
        "code that is named",
        ("training", "optimizer"),
        lambda agreed: "subprocess:check_output",
    ),
)


def _other_statistic(bench: Bench) -> Request:
    agreed = contract_of(bench.config).measured
    name = next(one for one in ("feature_mean", "gradient") if one not in agreed)
    return bench.honest("measure", measure=(name,))


def _first(bench: Bench, **changes: Any) -> Request:
    """What a round begins with, but for some fields."""
    return bench.honest("measure" if contract_of(bench.config).exchanges else "train", **changes)


def _beyond(bench: Bench) -> Request:
    return _first(bench, round=bench.config.training.rounds + 1)


def _evaluated(bench: Bench) -> Request:
    asked = Asked(("confusion",), classes=bench.domains.classes)
    return bench.honest("evaluate", evaluate=("train",), asked=asked)


QUESTIONS: tuple[Question, ...] = (
    Question(
        "statistic", "a statistic of no exchange", "one statistic that the recipe does not need", _other_statistic
    ),
    Question("beyond", "a round beyond the last", "what a round begins with, of the round after the last", _beyond),
    Question(
        "evaluation",
        "other metrics of other parts",
        "a confusion matrix of the training examples",
        _evaluated,
    ),
    Question(
        "weight",
        "a weight over one",
        "what a round begins with, at an averaging weight of 2",
        lambda bench: _first(bench, averaging_weight=2.0),
    ),
    Question(
        "direction",
        "a direction that no training gives",
        "references of size 1e30",
        lambda bench: bench.honest("train", references=_directions(bench, 1e30)),
    ),
    Question(
        "parameters",
        "parameters that no training gives",
        "a model with a weight of 1e30",
        lambda bench: _first(bench, parameters={n: v + 1e30 for n, v in bench.parameters.items()}),
    ),
)


def less_noise(bench: Bench) -> Outcome:
    """The same round with a hundredth of the noise; the gain is how much less noise there was, measured."""
    agreed = bench.config.privacy.noise_multiplier
    if bench.config.privacy.protect != "examples" or agreed is None:
        raise NotPlayedError("no noise covers single examples in this config, so there is none to take away")
    asked = f"privacy.noise_multiplier {agreed / 100:g} in place of {agreed:g}"

    def change(task: Any) -> Any:
        return changed(task, ("privacy", "noise_multiplier"), agreed / 100)

    first = bench.round(change)
    if first.sentence:
        return Outcome(asked, first.refused, first.sentence)
    return Outcome(asked, gain=_noise_of(bench, lambda task: task) / _noise_of(bench, change))


def again(bench: Bench) -> Outcome:
    """One question again and again, once all the agreed repetitions are given: k answers have noise of 1/√k.

    Raises:
        NotPlayedError: It is not answered once.
    """
    if bench.config.privacy.secure_aggregation:
        raise NotPlayedError("clients answer in secure sums alone, and there each exchange of a round once")
    grid, held = bench.grid(), bench.contract
    request = _first(bench)
    first = bench.ask(request, grid=grid)
    if first.sentence:
        raise NotPlayedError(f"an honest server is not answered either: {first.sentence}")
    asked = f"round 1 once more, {_AGAIN} times"
    if held is not None and held.repeats is not None:
        asked = f"round 1 once more, after {held.repeats} repetitions that were agreed on"
        context = next(iter(grid._contexts.values()))
        book = contracted.book_of(held, context)
        for _ in range(held.repeats):
            book = book.answering(request)
        contracted._write(book, context)
    answers = [bench.ask(request, grid=grid) for _ in range(_AGAIN)]
    given = [one for one in answers if not one.sentence]
    refused = next((one for one in answers if one.sentence), None)
    return Outcome(
        asked,
        refused.refused if refused and not given else "",
        refused.sentence if refused else "",
        float(len(given)),
        float(_AGAIN),
    )


def other_split(bench: Bench) -> Outcome:
    """Train with one seed, evaluate with another; counted is who of the trained would be held out the other time.

    Raises:
        NotPlayedError: The split does not follow the seed.
    """
    config = bench.config
    other = config.model_copy(update={"seed": [config.seed[0] + 1]})
    asked = f"an update under seed {config.seed[0]}, an evaluation under seed {other.seed[0]}"
    try:
        domains = load_domains(other)
    except FedhaError as error:
        raise NotPlayedError(f"the other seed's data cannot be loaded: {error}") from error
    request = bench.honest("evaluate", evaluate=("held_out",))
    task = changed(json.loads(bench.task_text), ("seed",), other.seed[0])
    answer = bench.ask(request, task=json.dumps(task))
    if answer.sentence:
        return Outcome(asked, answer.refused, answer.sentence)
    elsewhere = client_domains(domains, other.data, other.seed[0])
    both = _rows(bench.clients[0], "train") & _rows(elsewhere[0], "held_out")
    return Outcome(asked, gain=float(len(both)), most=float(len(bench.clients[0].train)))


FAMILIES: tuple[Family, ...] = (
    Family("noise", "less noise", _HERE, "how many times less noise there was", less_noise),
    *(one.family for one in DRIFTS),
    Family("split", "another split", _HERE, "examples on both sides, in no budget", other_split),
    *(one.family for one in QUESTIONS),
    Family("again", "a round once more", _HERE, "answers beyond those agreed on", again),
)


def _directions(bench: Bench, size: float) -> dict[str, Tensor]:
    """References of a size; where the recipe has none, one that it has not."""
    names = contract_of(bench.config).measured or ("gradient",)
    form, probes = bench.clients[0].train.form, contract_of(bench.config).task.recipe.probes
    return {name: torch.full(shape, size) for name, shape in shapes(bench.model, form, names, probes).items()}


def _noise_of(bench: Bench, change: Callable[[Any], Any]) -> float:
    """How far answers to one question are from each other: root mean square over pairs, tensors and their entries."""
    pairs = [(bench.round(change).tensors, bench.round(change).tensors) for _ in range(_AGAIN // 2)]
    squares = [
        float(((value - other[name]).double() ** 2).mean()) for one, other in pairs for name, value in one.items()
    ]
    return math.sqrt(fmean(squares)) or math.ulp(0.0)


def _rows(domain: Domain, part: str) -> set[bytes]:
    examples = getattr(domain, part)
    if not examples.form.alone:
        raise NotPlayedError("an example has several inputs, and rows are compared of one")
    return {row.numpy().tobytes() for row in examples.numbers()[""]}
