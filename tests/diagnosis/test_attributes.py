"""Attributes: statistics as weighted sums, the two parts of a difference, and what chance makes."""

import pytest
import torch

from fedha import statistics
from fedha.diagnosis import attributes, weighted
from fedha.diagnosis.attributes import Side, compare, halves, parted, rows, spectral_halves, split_members
from fedha.diagnosis.sample import Sample
from fedha.diagnosis.weighted import Sums, shared_directions
from tests.diagnosis.made import head_of, sample

EVERY = (weighted.risks, weighted.gradients, weighted.diagonals, weighted.errors, weighted.feature_means)


def evenly(one: Sample) -> torch.Tensor:
    return torch.full((1, len(one)), 1 / len(one), dtype=torch.float64)


def hessians(one: Sample) -> Sums:
    unit = torch.eye(one.head.numel(), dtype=torch.float64).view(-1, *one.head.shape)
    return weighted.products(unit)


@pytest.mark.parametrize("outputs", [1, 3])
def test_weighted_sums_are_the_statistics(outputs: int) -> None:
    one = sample(head_of(outputs, 4, 0), 1, count=600)
    given = (one.head, one.features, one.labels)
    for sums, known in (
        (weighted.risks, statistics.risk(*given)),
        (weighted.gradients, statistics.gradient(*given)),
        (weighted.diagonals, statistics.hessian_diagonal(*given)),
        (weighted.hits, statistics.accuracy(*given).double()),
        (hessians(one), one.hessian()),
    ):
        torch.testing.assert_close(sums(one, evenly(one))[0], known.flatten().reshape(-1))


@pytest.mark.parametrize("outputs", [1, 3])
def test_label_part_and_conditional_part_are_the_whole_difference(outputs: int) -> None:
    head = head_of(outputs, 4, 0)
    sides = [Side(str(seed), (sample(head, seed), sample(head, seed + 9))) for seed in (1, 2)]
    for sums in (*EVERY, hessians(sides[0].samples[0])):
        whole = [torch.stack([sums(one, evenly(one))[0] for one in side.samples]).mean(0) for side in sides]
        label, conditional = parted(*sides, sums)
        assert float((label + conditional - (whole[1] - whole[0])).abs().max()) < 1e-12


def test_shares_alone_are_label_part_alone() -> None:
    """The same examples of each class, repeated: nothing but the shares differs."""
    one = sample(head_of(3, 4, 0), 1, count=300)
    more = torch.cat([torch.arange(300), torch.nonzero(one.labels == 0)[:, 0]])
    other = Sample("more", one.features[more], one.labels[more], one.head, 3)
    label, conditional = parted(Side("a", (one,)), Side("b", (other,)), weighted.gradients)
    assert float(conditional.abs().max()) < 1e-12
    assert float(label.norm()) > 1e-3


def test_a_class_that_one_side_lacks_is_label_part() -> None:
    one = sample(head_of(3, 4, 0), 1, count=300)
    kept = torch.nonzero(one.labels != 0)[:, 0]
    other = Sample("less", one.features[kept], one.labels[kept], one.head, 3)
    label, conditional = parted(Side("a", (one,)), Side("b", (other,)), weighted.risks)
    whole = weighted.risks(other, evenly(other)) - weighted.risks(one, evenly(one))
    assert float(label + conditional) == pytest.approx(float(whole), abs=1e-12)
    assert abs(float(conditional)) < 1e-12


@pytest.mark.parametrize("lacking", [False, True])
def test_spectral_parts_are_the_norms_of_the_parts(lacking: bool) -> None:
    head = head_of(3, 4, 0)
    first, second = (Side(str(seed), (sample(head, seed), sample(head, seed + 9))) for seed in (1, 2))
    if lacking:
        one = first.samples[0]
        kept = torch.nonzero(one.labels != 0)[:, 0]
        first = Side("less", (Sample("less", one.features[kept], one.labels[kept], head, 3),))
    parts = parted(first, second, hessians(second.samples[0]))
    known = [float(torch.linalg.matrix_norm(one.view(12, 12), 2)) for one in parts]
    assert attributes.spectral_parts(first, second, 0) == pytest.approx(known, rel=1e-6)
    assert min(known) > 1e-4


def test_lengths_along_signs_are_those_of_the_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """In expectation, so many signs show it to a few percent."""
    monkeypatch.setattr(weighted, "SIGNS", 4000)
    first, second = (sample(head_of(3, 4, 0), seed) for seed in (1, 2))
    by_title = {one.title: one for one in rows([first, second], shared_directions([first, second], 0))}
    row = by_title["Hessian, off the diagonal"]
    found = float(row.size(row.sums(first, evenly(first)), row.sums(second, evenly(second))))
    change = second.hessian() - first.hessian()
    assert found == pytest.approx(float((change - change.diagonal().diag()).norm()), rel=0.05)
    row = by_title["feature covariance, CORAL's scale"]
    found = float(row.size(row.sums(first, evenly(first)), row.sums(second, evenly(second))))
    spread = [torch.cov(one.features[:, :-1].T, correction=0) for one in (first, second)]
    assert found == pytest.approx(float((spread[1] - spread[0]).norm()) / 6, rel=1e-9)


def test_alike_domains_are_mostly_within_chance_and_others_are_not() -> None:
    head = head_of(3, 4, 0)
    whole = sample(head, 1, count=1600)
    order = torch.randperm(1600, generator=torch.Generator().manual_seed(0)).view(2, 800)
    alike = [
        Side(str(p), (Sample(str(p), whole.features[p_], whole.labels[p_], head, 3),)) for p, p_ in enumerate(order)
    ]
    other = Side("other", (sample(head, 2, count=800, name="other"),))
    directions = shared_directions([alike[0].samples[0]], 0)
    table = rows([alike[0].samples[0]], directions)
    inside = [compare(*alike, row, 0) for row in table]
    outside = [compare(alike[0], other, row, 0) for row in table]
    beyond = [one.attribute for one in inside if one.chance_95 is not None and one.value > one.chance_95]
    assert len(beyond) <= 2
    clear = [one for one in outside if one.chance_95 is not None and one.value > one.chance_95]
    assert len(clear) >= 0.7 * len(outside)


def test_chance_of_means_has_the_variance_of_their_difference() -> None:
    """Halves of a half each have four times the variance of one mean; the level is brought back to the whole."""
    head = head_of(3, 4, 0)
    row = next(one for one in rows([sample(head, 1)], shared_directions([sample(head, 1)], 0)) if one.title == "risk")
    pool = sample(head, 1, count=20_000)
    pieces = [
        Sample(str(place), pool.features[some], pool.labels[some], head, 3)
        for place, some in enumerate(torch.arange(20_000).view(100, 200))
    ]
    found = [compare(Side("a", (a,)), Side("b", (b,)), row, 0) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]
    real = sum(one.value**2 for one in found) / len(found)
    told = sum((one.chance or 0) ** 2 for one in found) / len(found)
    assert told == pytest.approx(real, rel=0.4)


def test_groups_are_never_parted() -> None:
    one = sample(head_of(3, 4, 0), 1, count=90)
    grouped = Sample(one.name, one.features, one.labels, one.head, 3, groups=torch.arange(90) // 3)
    members = split_members(grouped, 0, 5)
    assert bool((members.view(5, 30, 3) == members.view(5, 30, 3)[:, :, :1]).all())
    assert members.sum(1).tolist() == [45.0] * 5


def test_a_single_example_has_no_chance_level() -> None:
    one = sample(head_of(3, 4, 0), 1, count=1)
    row = rows([one], shared_directions([one], 0))[2]
    assert halves(one, row, 0) is None
    assert spectral_halves(one, 0) is None
    assert compare(Side("a", (one,)), Side("b", (one,)), row, 0).chance is None


def test_halves_spectral_norms_are_dense_ones() -> None:
    one = sample(head_of(3, 4, 0), 1, count=80)
    members = split_members(one, 0, 4)
    norms = []
    for some in members > 0:
        parts = [Sample("p", one.features[m], one.labels[m], one.head, 3).hessian() for m in (some, ~some)]
        norms.append(float(torch.linalg.eigvalsh(parts[1] - parts[0]).abs().max()))
    expected = torch.tensor(norms, dtype=torch.float64)
    found = spectral_halves(one, 0, 4)
    assert found is not None
    assert found[0] == pytest.approx(float((expected**2).mean().sqrt()), rel=1e-2)


def test_fishers_gap_closes_where_labels_follow_the_model() -> None:
    head = head_of(3, 4, 0)
    one = sample(head, 1, count=20_000)
    drawn = torch.multinomial(one.probabilities(), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    follows = Sample("follows", one.features, drawn, head, 3)
    assert attributes.own(follows)["fisher_gap"] < 0.05
    assert attributes.own(one)["fisher_gap"] > 0.1
