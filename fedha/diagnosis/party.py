"""A domain as a diagnosis sees it: two functions that it answers, and a few numbers about the size of its features.

Letters: n examples, C classes (rows of the head), D features with the bias column, K heads, m directions, P = C D.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """What a domain says of some heads.

    Attributes:
        risks: Mean negative log-likelihoods, [K], in nats.
        gradients: Of the risks, each at its head, [K, C, D].
        accuracies: Fractions, [K].
    """

    risks: Tensor
    gradients: Tensor
    accuracies: Tensor


_ANSWERED = ("risks", "gradients", "accuracies")

Made = TypeVar("Made")
Kind = Literal["heads", "directions"]
Heads = Callable[[Tensor], Answers]  # [K, C, D]
Directions = Callable[[Tensor], Tensor]  # [m, C, D] to the Hessian's products at the learned head, [m, C, D]


@dataclass(frozen=True)
class Sizes:
    """Numbers about a domain's features that the bounds need.

    Attributes:
        examples: n.
        mean_square: Mean of ``|z|^2``.
        mean_cube: Mean of ``|z|^3``.
        largest: Largest ``|z|``.
        top_moment: An upper end of the largest eigenvalue of ``mean z z^T``.
        top_hessian: An upper end of the largest eigenvalue of the Hessian at the learned head.
    """

    examples: int
    mean_square: float
    mean_cube: float
    largest: float
    top_moment: float
    top_hessian: float


@dataclass(frozen=True)
class Party:
    """A domain, or the mean of several.

    Attributes:
        name: What tables call it.
        heads: Risks, gradients and accuracies at heads that somebody names.
        directions: Products of its Hessian at the learned head.
        sizes: Of its features.
        parts: Those whose mean it is; (): it is one domain.
        line: What asks it together with others, where an exchange costs time; None: it is asked by its functions.
    """

    name: str
    heads: Heads
    directions: Directions
    sizes: Sizes
    parts: "tuple[Party, ...]" = ()
    line: "Line | None" = None


Question = tuple[Party, Kind, Tensor]
Line = Callable[[Sequence[Question]], Sequence[Any]]  # an exchange: questions to single domains, to answers
Asking = Generator[Sequence[Question], Sequence[Any], Made]  # work that asks, exchange after exchange


def asked(questions: Sequence[Question]) -> list[Any]:
    """Answers to some questions, in order; those over a line go in one exchange.

    Each question is answered on its own, so that its answer's bits do not depend on what else is asked with it.
    """
    each = [(one, kind, at) for party, kind, at in questions for one in party.parts or (party,)]
    lines = list(dict.fromkeys(one.line for one, _, _ in each if one.line is not None))
    found: dict[int, Any] = {}
    for line in lines:
        own = [place for place, (one, _, _) in enumerate(each) if one.line == line]
        found |= dict(zip(own, line([each[place] for place in own]), strict=True))
    for place, (one, kind, at) in enumerate(each):
        if one.line is None:
            found[place] = one.heads(at) if kind == "heads" else one.directions(at)
    answers, start = [], 0
    for party, _, _ in questions:
        count = max(1, len(party.parts))
        own_answers = [found[place] for place in range(start, start + count)]
        answers.append(own_answers[0] if not party.parts else _mean(own_answers))
        start += count
    return answers


def beside(*works: Asking[Made]) -> Asking[list[Made]]:
    """Several works side by side: what each asks next goes in one exchange."""
    ended: dict[int, Made] = {}
    waiting: dict[int, Sequence[Question]] = {}

    def go_on(place: int, answers: Sequence[Any] | None) -> None:
        try:
            waiting[place] = next(works[place]) if answers is None else works[place].send(answers)
        except StopIteration as end:
            ended[place] = end.value

    for place in range(len(works)):
        go_on(place, None)
    while waiting:
        now, waiting = waiting, {}
        answers = iter((yield [one for questions in now.values() for one in questions]))
        for place, questions in now.items():
            go_on(place, [next(answers) for _ in questions])
    return [ended[place] for place in range(len(works))]


def done(work: Asking[Made]) -> Made:
    """What a work comes to, asked exchange after exchange."""
    try:
        questions = next(work)
        while True:
            questions = work.send(asked(questions))
    except StopIteration as end:
        made: Made = end.value
        return made


def pooled(parties: Sequence[Party], name: str) -> Party:
    """The plain mean of several domains, from sums alone.

    Eigenvalues of a mean are at most the mean of the largest ones, so that upper ends stay upper ends.

    Args:
        parties: One or more, in client order, which is the order of the sums.
        name: What tables call the mean.
    """
    if len(parties) == 1:
        return replace(parties[0], name=name, parts=tuple(parties))
    share = 1 / len(parties)
    every = [one.sizes for one in parties]
    sizes = Sizes(
        sum(one.examples for one in every),
        sum(one.mean_square for one in every) * share,
        sum(one.mean_cube for one in every) * share,
        max(one.largest for one in every),
        sum(one.top_moment for one in every) * share,
        sum(one.top_hessian for one in every) * share,
    )

    def heads(at: Tensor) -> Answers:
        answers: Answers = asked([(mean, "heads", at)])[0]
        return answers

    def directions(along: Tensor) -> Tensor:
        products: Tensor = asked([(mean, "directions", along)])[0]
        return products

    mean = Party(name, heads, directions, sizes, tuple(parties))
    return mean


def _mean(found: Sequence[Any]) -> Any:
    """Of what several domains answered, by sums in their order."""
    share = 1 / len(found)
    if not isinstance(found[0], Answers):
        return _sum(found) * share
    return Answers(*(_sum([getattr(one, name) for one in found]) * share for name in _ANSWERED))


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(terms[0])
    for one in terms:
        total = total + one
    return total
