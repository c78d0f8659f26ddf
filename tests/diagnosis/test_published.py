"""The published attack: it stays in its ball, does what its script does, and finds no more than the bound allows."""

import pytest
import torch

from fedha.diagnosis.curvature import norms
from fedha.diagnosis.published import BATCH, EPOCHS, RATE, published
from fedha.diagnosis.sample import Sample
from fedha.diagnosis.transfer import worst_pair
from fedha.randomness import generator
from tests.diagnosis.made import head_of, sample


def domains(count: int = 200) -> tuple[torch.Tensor, list[Sample]]:
    head = head_of(3, 5, 0)
    made = [sample(head, seed, count=count, shift=0.3 * seed, name=f"d{seed}") for seed in (1, 2, 3)]
    return head, made


def by_hand(parts: list[Sample], head: torch.Tensor, radius: float) -> tuple[float, torch.Tensor]:
    """The script's loop, with autograd."""
    seen, at = list[tuple[float, torch.Tensor]](), head.clone().requires_grad_()
    split = []
    for one in parts:
        order = torch.randperm(len(one), generator=generator(7, "published", one.name))
        split.append((order[: int(0.8 * len(one))], order[int(0.8 * len(one)) :]))
    draws = [generator(7, "published", "batches", one.name) for one in parts]
    optimizer = torch.optim.Adam([at], lr=RATE)

    def risk(one: Sample, rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(one.features[rows] @ at.T, one.labels[rows])

    for _ in range(EPOCHS):
        for _ in range(min(len(rows) for rows, _ in split) // BATCH + 1):
            batches = [
                rows[torch.randint(len(rows), (BATCH,), generator=g)] for (rows, _), g in zip(split, draws, strict=True)
            ]
            risks = torch.stack([risk(one, rows) for one, rows in zip(parts, batches, strict=True)])
            optimizer.zero_grad()
            (risks.min() - risks.max()).backward()
            optimizer.step()
            with torch.no_grad():
                length = (at - head).norm()
                if length > radius:
                    at.copy_(head + (at - head) * radius / length)
        with torch.no_grad():
            told = torch.stack([risk(one, rows) for one, (_, rows) in zip(parts, split, strict=True)])
        seen.append((float(told.max() - told.min()), at.detach().clone()))
    return max(seen, key=lambda one: one[0])


@pytest.mark.parametrize("radius", [0.01, 0.5])
def test_it_is_the_scripts_loop(radius: float) -> None:
    head, parts = domains()
    found = published(parts, head, radius, seed=7)
    gap, at = by_hand(parts, head, radius)
    assert found.gap == pytest.approx(gap, rel=1e-9)
    assert found.distance == pytest.approx(float((at - head).norm()), rel=1e-9)
    assert found.distance <= radius * (1 + 1e-12)
    assert found.risks[found.largest][1] - found.risks[found.smallest][1] == pytest.approx(found.gap)


def test_it_stops_short_of_the_edge_where_the_ball_is_wide() -> None:
    head, parts = domains()
    found = published(parts, head, 5.0, seed=0)
    parties = [one.party() for one in parts]
    known = norms(parties, (3, 5), seed=0)
    ours = max(one.measured for one in worst_pair(parties, head, [5.0], known, seed=0))
    assert found.distance < 1
    assert found.gap < ours


def test_domains_of_one_example_are_taken() -> None:
    head, parts = domains(count=1)
    found = published(parts, head, 0.1, seed=0)
    assert set(found.accuracies) == {"d1", "d2", "d3"}
