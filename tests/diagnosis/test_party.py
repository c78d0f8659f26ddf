"""Works side by side share exchanges, and what is found does not depend on how they are asked."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fedha.diagnosis import curvature
from fedha.diagnosis.hessians import ask_blocks, ask_whole
from fedha.diagnosis.minima import minima, minimising
from fedha.diagnosis.party import Asking, Party, Question, asked, beside, done, pooled
from fedha.diagnosis.transfer import both_ways
from tests.diagnosis.made import head_of, sample

HEAD = head_of(3, 5, 0)


class Line:
    """Asks each domain by its own functions, and counts exchanges."""

    def __init__(self, parties: Sequence[Party]) -> None:
        self.known = {one.name: one for one in parties}
        self.exchanges: list[int] = []

    def __call__(self, questions: Sequence[Question]) -> list[Any]:
        self.exchanges.append(len(questions))
        return [getattr(self.known[party.name], kind)(at) for party, kind, at in questions]


def over_a_line(count: int = 3) -> tuple[list[Party], list[Party], Line]:
    plain = [sample(HEAD, seed, shift=0.5).party() for seed in range(1, count + 1)]
    line = Line(plain)
    return plain, [replace(one, line=line) for one in plain], line


def test_questions_over_a_line_are_one_exchange_in_order() -> None:
    plain, lined, line = over_a_line()
    mean, alone = pooled(lined[:2], "mean"), pooled(lined[:1], "one")
    heads = torch.stack([HEAD, 2 * HEAD])
    found = asked(
        [(mean, "heads", heads), (lined[2], "directions", heads), (plain[0], "heads", heads), (alone, "heads", heads)]
    )
    assert line.exchanges == [4]
    assert torch.equal(found[0].gradients, pooled(plain[:2], "mean").heads(heads).gradients)
    assert torch.equal(found[1], plain[2].directions(heads))
    for one in found[2:]:
        assert torch.equal(one.risks, plain[0].heads(heads).risks)


def test_works_side_by_side_take_as_many_exchanges_as_the_longest() -> None:
    plain, lined, line = over_a_line()
    least = done(beside(*(minimising(one, HEAD, [0.1, 1.0]) for one in lined)))
    together = len(line.exchanges)
    assert least == [minima(one, HEAD, [0.1, 1.0]) for one in plain]
    line.exchanges.clear()
    each = []
    for one in lined:
        minima(one, HEAD, [0.1, 1.0])
        each.append(len(line.exchanges))
        line.exchanges.clear()
    assert together == max(each)


def test_works_that_ask_nothing_end_at_once() -> None:
    def nothing() -> Asking[int]:
        return 7
        yield []

    assert done(beside(nothing(), nothing())) == [7, 7]


def test_the_transfer_measure_is_the_same_over_a_line_in_few_exchanges() -> None:
    plain, lined, line = over_a_line()
    known = ask_whole(plain, (3, 5))
    one, other = (
        both_ways(pooled(some[:2], "mean"), some[2], HEAD, [0.1, 1.0], some, hessians=known) for some in (plain, lined)
    )
    for ours, theirs in zip(one, other, strict=True):
        for name in ("measured", "bound", "excess", "excess_bound", "symmetric", "accuracies", "risks"):
            assert getattr(ours, name) == getattr(theirs, name)
    found = len(line.exchanges)
    line.exchanges.clear()
    minima(pooled(lined[:2], "mean"), HEAD, [0.1, 1.0])
    assert found == 2 + max(len(line.exchanges), *(1 + climbed.climb.exchanges for climbed in one))


def test_hessians_asked_once_serve_every_difference(monkeypatch: Any) -> None:
    plain, lined, line = over_a_line()
    mean = pooled(lined[:2], "mean")
    exact = curvature.difference(pooled(plain[:2], "mean"), plain[2], (3, 5))
    for asking in (lambda: ask_whole(lined, (3, 5)), lambda: ask_blocks(lined, (3, 5), rounds=4)):
        hessians = asking()
        before = len(line.exchanges)
        found = curvature.difference(mean, lined[2], (3, 5), hessians=hessians)
        assert len(line.exchanges) == before == hessians.exchanges
        line.exchanges.clear()
        assert abs(found.lower - exact.lower) < 1e-9
        assert found.upper >= exact.lower * (1 - 1e-9)
    monkeypatch.setattr(curvature, "DENSE", 0)
    line.exchanges.clear()
    known = curvature.known(lined, (3, 5), "block")
    assert len(line.exchanges) == 3
    one = both_ways(mean, lined[2], HEAD, [0.5], lined, hessians=known)[0]
    assert one.measured <= one.bound
