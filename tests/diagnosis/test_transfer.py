"""The transfer measure and its bound: what is proven holds, what is known is found."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedha.diagnosis.attack import climbing
from fedha.diagnosis.curvature import difference
from fedha.diagnosis.lanczos import start_vectors
from fedha.diagnosis.minima import minima
from fedha.diagnosis.party import Answers, Party, done, pooled
from fedha.diagnosis.sample import Sample
from fedha.diagnosis.transfer import both_ways, check, turned, worst_pair
from tests.diagnosis.made import head_of, sample


def trained(head: torch.Tensor, seed: int) -> torch.Tensor:
    """A head after some steps on a domain."""
    at = torch.zeros_like(head)
    for _ in range(100):
        at = at - 0.3 * sample(head, seed).heads(at[None]).gradients[0]
    return at


@given(st.integers(0, 10**6), st.sampled_from((1, 2, 5)), st.floats(0.01, 5), st.booleans())
@settings(max_examples=15)
def test_no_bound_is_below_what_was_measured(seed: int, outputs: int, radius: float, learned: bool) -> None:
    head = head_of(outputs, 5, seed)
    at = trained(head, seed) if learned else head
    parts = [sample(head, seed + place) for place in (1, 2, 3)]
    parties = [Sample(one.name, one.features, one.labels, at, one.classes).party() for one in parts]
    source = pooled(parties[:2], "sources")
    for one in both_ways(source, parties[2], at, [radius / 2, radius], parties):
        for value in one.parts.every.values():
            assert one.measured <= value + 1e-9
        parts_of = one.parts
        total = parts_of.risk_gap + parts_of.gradient + parts_of.curvature + parts_of.third_order
        assert total == pytest.approx(parts_of.total, rel=1e-12, abs=1e-12)
        assert one.excess is not None
        assert one.excess_bound is not None
        assert one.excess + one.least[0].gap >= -1e-9  # type: ignore[index]
        assert one.excess <= one.excess_bound + 1e-9
        assert one.symmetric is not None
        assert one.symmetric >= one.measured


def test_the_attack_never_goes_down_on_the_sphere_with_the_safe_rho() -> None:
    steps = 0
    for seed in range(8):
        head = head_of(3, 5, seed)
        source, target = (sample(head, seed + place, shift=1).party() for place in (1, 2))
        seen: list[torch.Tensor] = []

        def heads(
            at: torch.Tensor, target: Party = target, source: Party = source, seen: list[torch.Tensor] = seen
        ) -> Answers:
            found = target.heads(at)
            seen.append(found.risks - source.heads(at).risks)
            return found

        watched = Party("watched", heads, target.directions, target.sizes)
        none = torch.zeros(0, 3, 5, dtype=torch.float64)
        done(climbing(source, watched, head, [0.5], none, smallest=1, exchanges=30))
        values = torch.cat(seen[1:])  # the first is at the learned head
        steps += len(values)
        assert bool((values.diff() >= -1e-12).all())
    assert steps > 40


def test_a_domain_and_itself() -> None:
    one = sample(head_of(3, 5, 0), 1)
    for found in both_ways(one.party(), one.party(), one.head, [0.1, 1.0], [one.party()]):
        assert found.measured == 0
        assert found.excess is not None
        assert abs(found.excess) <= 2 * max(low.gap for low in found.least or ())
        assert found.parts.risk_gap == found.parts.gradient == 0


def test_symmetric_form_is_the_same_from_both_ends() -> None:
    first, second = (sample(head_of(3, 5, 0), seed).party() for seed in (1, 2))
    one = both_ways(first, second, head_of(3, 5, 0), [0.3], [first])
    other = both_ways(second, first, head_of(3, 5, 0), [0.3], [first])
    assert one[0].symmetric == one[1].symmetric == pytest.approx(other[0].symmetric, rel=1e-3)
    assert one[0].symmetric == max(one[0].measured, one[1].measured, 0)


def test_sums_of_equal_domains_are_those_of_all_their_examples() -> None:
    head = head_of(3, 5, 0)
    parts = [sample(head, seed, count=50) for seed in (1, 2, 3)]
    features, labels = (torch.cat([getattr(one, name) for one in parts]) for name in ("features", "labels"))
    central = Sample("all", features, labels, head, 3)
    mean = pooled([one.party() for one in parts], "mean")
    heads = torch.stack([head, 2 * head])
    for ours, theirs in (
        (mean.heads(heads).risks, central.heads(heads).risks),
        (mean.heads(heads).gradients, central.heads(heads).gradients),
        (mean.directions(heads), central.directions(heads)),
    ):
        assert float((ours - theirs).abs().max()) < 1e-12


def test_brute_force_in_two_parameters_finds_no_more() -> None:
    """Two classes with centred rows and one feature of one axis: a disc of two parameters."""
    head, radius = head_of(2, 2, 4), 0.7
    source, target = (sample(head, seed, count=50, shift=shift).party() for seed, shift in ((5, 0.5), (6, 1.5)))
    axis = torch.linspace(-radius, radius, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    inside = grid[grid.norm(dim=1) <= radius] / 2**0.5
    heads = head + torch.stack([inside, -inside], 1)
    best = float((target.heads(heads).risks - source.heads(heads).risks).max())
    found = both_ways(source, target, head, [radius], [target])[0].measured
    assert best - 1e-9 <= found <= best + 2e-3 * abs(best)


@pytest.mark.parametrize("outputs", [1, 3])
def test_least_risks_are_certified(outputs: int) -> None:
    one = sample(head_of(outputs, 4, 0), 1)
    radii = [0.1, 1.0, 5.0]
    for rough, fine, radius in zip(
        minima(one.party(), one.head, radii, steps=15),
        minima(one.party(), one.head, radii, steps=3000),
        radii,
        strict=True,
    ):
        assert fine.gap <= 1.01e-4 * float(one.heads(one.head[None]).risks[0])
        assert rough.value - rough.gap <= fine.value + 1e-12
        assert fine.value <= rough.value + 1e-12
        tried = one.head + radius * start_vectors(200, (outputs, 4), 0, "tried")
        assert fine.value - fine.gap <= float(one.heads(tried).risks.min())


def test_radii_in_one_batch_are_those_alone() -> None:
    first, second = (sample(head_of(3, 5, 0), seed).party() for seed in (1, 2))
    head = head_of(3, 5, 0)
    many = both_ways(first, second, head, [0.1, 1.0], [first])
    alone = both_ways(first, second, head, [1.0], [first])
    assert many[1].measured == pytest.approx(alone[0].measured, rel=1e-3)
    assert many[0].measured <= many[1].measured


def test_the_worst_pair_is_no_better_than_any_pair() -> None:
    head = head_of(3, 5, 0)
    parties = [sample(head, seed).party() for seed in (1, 2, 3)]
    known = [difference(parties[a], parties[b], (3, 5)) for a, b in ((0, 1), (0, 2), (1, 2))]
    found = worst_pair(parties, head, [0.5], known)[0]
    pairs = [one for a, b in ((0, 1), (0, 2), (1, 2)) for one in both_ways(parties[a], parties[b], head, [0.5], [])]
    assert found.measured >= max(one.measured for one in pairs) - 1e-3
    assert found.measured <= found.bound
    assert found.excess is None


def test_a_pair_seen_from_its_other_end() -> None:
    first, second = (sample(head_of(2, 4, 0), seed).party() for seed in (1, 2))
    one, other = turned(difference(first, second, (2, 4))), difference(second, first, (2, 4))
    assert (one.first, one.second) == (other.first, other.second)
    assert one.spectrum.high == pytest.approx(other.spectrum.high)
    assert one.spectrum.low == pytest.approx(other.spectrum.low)
    assert abs(float((one.spectrum.top * other.spectrum.top).sum())) == pytest.approx(1)


def test_a_bound_that_is_broken_is_an_error_of_ours() -> None:
    with pytest.raises(RuntimeError, match="please report it"):
        check(1.0, 0.5, "made up")
    check(0.5, 0.5, "made up")
