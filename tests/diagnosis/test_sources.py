"""What sources alone say of a head: numbers of the pair that is farthest apart."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from fedha.diagnosis.sources import apart, between, toward
from fedha.errors import FedhaError
from tests.diagnosis.made import head_of, sample


@pytest.mark.parametrize("classes", [1, 3])
def test_the_pair_that_is_farthest_apart(classes: int) -> None:
    head = head_of(classes, 5, 0)
    samples = [sample(head, seed) for seed in range(3)]
    norms = [float(torch.linalg.matrix_norm(b.hessian() - a.hessian(), 2)) for a, b in combinations(samples, 2)]
    lengths = [
        float((b.heads(head[None]).gradients - a.heads(head[None]).gradients).norm())
        for a, b in combinations(samples, 2)
    ]
    found = between(samples, 0)
    assert found.hessian == pytest.approx(max(norms))
    assert found.hessian <= found.hessian_upper == pytest.approx(max(norms))
    assert found.gradient == pytest.approx(max(lengths))
    assert found.measured <= found.bound + 1e-9
    assert found.excess <= found.excess_bound + 1e-9
    logged = apart(samples, 0)
    assert (logged.hessian, logged.gradient) == (pytest.approx(max(norms)), pytest.approx(max(lengths)))


def test_towards_a_target_the_sources_are_their_mean() -> None:
    head = head_of(3, 5, 0)
    *sources, target = (sample(head, seed) for seed in range(3))
    found = toward(sources, target, 0)
    mean = (sources[0].hessian() + sources[1].hessian()) / 2
    assert found.hessian == pytest.approx(float(torch.linalg.matrix_norm(target.hessian() - mean, 2)))
    slopes = [one.heads(head[None]).gradients for one in (*sources, target)]
    assert found.gradient == pytest.approx(float((slopes[2] - (slopes[0] + slopes[1]) / 2).norm()))
    assert found.measured <= found.bound + 1e-9
    alone = between([sources[0], sources[0]], 0)
    assert (alone.hessian, alone.gradient, alone.features) == (0, 0, 0)


def test_halves_of_one_domain_are_apart_by_chance() -> None:
    """Of sources that are alike the difference is about what chance makes, of others it is beyond."""
    head = head_of(3, 5, 0)
    whole = sample(head, 0, count=4000, name="whole")
    alike = [
        replace(whole, name=f"half {place}", features=whole.features[place::2], labels=whole.labels[place::2])
        for place in (0, 1)
    ]
    found = apart(alike, 0)
    assert found.hessian_chance is not None
    assert found.gradient_chance is not None
    assert 0.3 < found.hessian / found.hessian_chance < 3
    assert 0.3 < found.gradient / found.gradient_chance < 3
    others = apart([sample(head, seed, count=2000) for seed in (0, 1)], 0)
    assert others.hessian_chance_95 is not None
    assert others.gradient_chance_95 is not None
    assert others.hessian > 3 * others.hessian_chance_95
    assert others.gradient > 3 * others.gradient_chance_95


def test_one_source_is_refused() -> None:
    with pytest.raises(FedhaError, match="this run has one"):
        between([sample(head_of(3, 5, 0), 0)], 0)
