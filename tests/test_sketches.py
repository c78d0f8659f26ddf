"""Laws of Hutchinson's sketches: chance is enumerated over all sign vectors, never hoped for."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, hessian

from fedha import sketches, statistics
from tests.linear_clients import Client, make_client


def all_signs(classes: int, width: int) -> Tensor:
    """Every sign vector of a head, [2^(C D), C, D]."""
    rows = list(product((-1.0, 1.0), repeat=classes * width))
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, classes, width)


def some_signs(seed: int, probes: int, head: Tensor) -> Tensor:
    return sketches.draw_signs(seed, 1, probes, head.shape).double()


def autograds_hessian(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    return hessian(statistics.risk)(head, features, labels).reshape(head.numel(), head.numel())


def naive_estimate(head: Tensor, features: Tensor, labels: Tensor, signs: Tensor) -> Tensor:
    full = autograds_hessian(head, features, labels)
    return torch.stack([v * (full @ v) for v in signs.flatten(1)]).mean(0).reshape(head.shape)


def off_diagonal(full: Tensor) -> Tensor:
    return full - full.diagonal().diag()


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


SMALL_HEADS = [(1, 2), (1, 8), (2, 2), (2, 4), (3, 2), (4, 2)]
seeds = st.integers(0, 2**31)


@pytest.mark.parametrize(("classes", "width"), SMALL_HEADS)
@pytest.mark.parametrize("examples", [1, 5])
def test_over_all_sign_vectors_the_mean_estimate_is_the_diagonal(classes: int, width: int, examples: int) -> None:
    client = make_client(11, classes, examples, width)
    signs = all_signs(classes, width)
    each = torch.stack([sketches.hutchinson_diagonal(*client, one[None]) for one in signs])
    assert_close(each.mean(0), statistics.hessian_diagonal(*client))
    assert_close(sketches.hutchinson_diagonal(*client, signs), statistics.hessian_diagonal(*client))


# (n, C, D, m): cheaper through the probes, or through the Hessian
SIZES = {"probes": [(5, 3, 4, 2), (5, 1, 4, 1), (4, 4, 5, 9)], "hessian": [(20, 3, 4, 40), (7, 1, 3, 9), (50, 2, 2, 3)]}


@pytest.mark.parametrize(("way", "sizes"), [(way, sizes) for way, several in SIZES.items() for sizes in several])
@given(seed=seeds)
def test_estimate_is_the_mean_of_each_probe_times_its_product(
    way: str, sizes: tuple[int, int, int, int], seed: int
) -> None:
    examples, classes, width, probes = sizes
    assert sketches.through_hessian(examples, classes, width, probes) == (way == "hessian")
    client = make_client(seed, classes, examples, width)
    signs = some_signs(seed, probes, client.head)
    assert_close(sketches.hutchinson_diagonal(*client, signs), naive_estimate(*client, signs))


@pytest.mark.parametrize("sizes", [sizes for several in SIZES.values() for sizes in several])
def test_through_the_hessian_or_through_the_probes_the_estimate_and_its_gradients_are_the_same(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int, int, int]
) -> None:
    examples, classes, width, probes = sizes
    client = make_client(5, classes, examples, width)
    signs = some_signs(5, probes, client.head)
    weights = torch.randn(client.head.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    def weighed(head: Tensor, features: Tensor) -> Tensor:
        return (sketches.hutchinson_diagonal(head, features, client.labels, signs) * weights).sum()

    def twin(head: Tensor, features: Tensor) -> Tensor:
        return (naive_estimate(head, features, client.labels, signs) * weights).sum()

    expected = (twin(*client[:2]), *grad(twin, (0, 1))(*client[:2]))
    for way in (True, False):
        monkeypatch.setattr(sketches, "through_hessian", lambda *sizes, way=way: way)
        for actual, value in zip((weighed(*client[:2]), *grad(weighed, (0, 1))(*client[:2])), expected, strict=True):
            assert_close(actual, value)


def test_the_hessian_itself_is_for_small_heads_only() -> None:
    assert sketches.through_hessian(100_000, 2, 2048, 10_000)
    assert not sketches.through_hessian(100_000, 1, 4097, 10_000)


def test_signs_of_another_precision_give_the_features_precision() -> None:
    client = make_client(0, 3, 5, 4)
    signs = sketches.draw_signs(0, 1, 2, client.head.shape)
    assert signs.dtype == torch.float32
    assert sketches.hutchinson_diagonal(*client, signs).dtype == torch.float64


@pytest.mark.parametrize(("classes", "width"), SMALL_HEADS)
def test_over_all_sign_vectors_the_mean_squared_distance_of_one_probe_is_hutchinson_expected(
    classes: int, width: int
) -> None:
    client = make_client(2, classes, 5, width)
    reference = statistics.hessian_diagonal(*make_client(3, classes, 5, width))
    each = torch.stack([sketches.hutchinson_diagonal(*client, v[None]) for v in all_signs(classes, width)])
    mean = (each - reference).square().sum((1, 2)).mean()
    assert_close(mean, sketches.hutchinson_expected(*client, reference, 1))
    assert mean > (statistics.hessian_diagonal(*client) - reference).square().sum()


@pytest.mark.parametrize(("classes", "width"), [(1, 4), (2, 2)])
def test_over_all_pairs_of_sign_vectors_the_mean_squared_distance_of_two_probes_is_hutchinson_expected(
    classes: int, width: int
) -> None:
    client = make_client(2, classes, 5, width)
    reference = statistics.hessian_diagonal(*make_client(3, classes, 5, width))
    pairs = [torch.stack(pair) for pair in product(all_signs(classes, width), repeat=2)]
    distances = [(sketches.hutchinson_diagonal(*client, pair) - reference).square().sum() for pair in pairs]
    assert_close(torch.stack(distances).mean(), sketches.hutchinson_expected(*client, reference, 2))


@given(seed=seeds, probes=st.integers(1, 300), classes=st.integers(1, 3))
def test_hutchinson_expected_is_the_distance_plus_the_off_diagonal_energy_a_probe(
    seed: int, probes: int, classes: int
) -> None:
    client, reference = make_client(seed, classes, 4, 3), torch.full((classes, 3), 0.1, dtype=torch.float64)

    def twin(head: Tensor, features: Tensor) -> Tensor:
        full = autograds_hessian(head, features, client.labels)
        distance = (full.diagonal() - reference.flatten()).square().sum()
        return distance + off_diagonal(full).square().sum() / probes

    def expected(head: Tensor, features: Tensor) -> Tensor:
        return sketches.hutchinson_expected(head, features, client.labels, reference, probes)

    assert_close(expected(*client[:2]), twin(*client[:2]))
    for actual, value in zip(grad(expected, (0, 1))(*client[:2]), grad(twin, (0, 1))(*client[:2]), strict=True):
        assert_close(actual, value)


@pytest.mark.parametrize(("classes", "width", "probes"), [(1, 4, 1), (2, 3, 1), (4, 2, 1), (1, 3, 2), (2, 2, 2)])
def test_with_shared_signs_two_clients_also_align_their_off_diagonals(classes: int, width: int, probes: int) -> None:
    head = make_client(0, classes, 1, width).head
    one, other = (Client(head, *make_client(seed, classes, 5, width)[1:]) for seed in (8, 9))
    draws = [torch.stack(several) for several in product(all_signs(classes, width), repeat=probes)]
    distances = [
        (sketches.hutchinson_diagonal(*one, v) - sketches.hutchinson_diagonal(*other, v)).square().sum() for v in draws
    ]
    apart = autograds_hessian(*one) - autograds_hessian(*other)
    expected = apart.diagonal().square().sum() + off_diagonal(apart).square().sum() / probes
    assert_close(torch.stack(distances).mean(), expected)


@pytest.mark.parametrize(("classes", "width"), [(1, 4), (2, 3), (4, 2)])
def test_with_independent_signs_two_clients_feel_the_energy_of_both(classes: int, width: int) -> None:
    head = make_client(0, classes, 1, width).head
    one, other = (Client(head, *make_client(seed, classes, 5, width)[1:]) for seed in (8, 9))
    signs = all_signs(classes, width)
    own, their = (torch.stack([sketches.hutchinson_diagonal(*c, v[None]) for v in signs]) for c in (one, other))
    mean = (own[:, None] - their[None]).square().sum((2, 3)).mean()
    distance = (statistics.hessian_diagonal(*one) - statistics.hessian_diagonal(*other)).square().sum()
    energies = statistics.off_diagonal_energy(*one) + statistics.off_diagonal_energy(*other)
    assert_close(mean, distance + energies)


def test_signs_are_minus_one_or_one_in_equal_shares() -> None:
    signs = sketches.draw_signs(0, 1, 50, torch.Size((4, 100)))
    assert signs.shape == (50, 4, 100)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert signs.mean().abs() < 5 / len(signs.flatten()) ** 0.5


def test_signs_depend_on_seed_round_and_owner_and_not_on_who_drew_before() -> None:
    keys = [(seed, round, owner) for seed in (0, 1) for round in (1, 2) for owner in (None, "a", "b", "shared")]

    def draw(key: tuple[int, int, str | None]) -> tuple[float, ...]:
        seed, round, owner = key
        return tuple(sketches.draw_signs(seed, round, 8, torch.Size((2, 8)), owner).flatten().tolist())

    forward = {key: draw(key) for key in keys}
    torch.manual_seed(0)
    backward = {key: draw(key) for key in reversed(keys)}
    assert forward == backward
    assert len(set(forward.values())) == len(keys)


def test_drawing_signs_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    sketches.draw_signs(0, 1, 4, torch.Size((2, 3)))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("probes", [0, -1])
def test_fewer_than_one_probe_is_refused(probes: int) -> None:
    client = make_client(0, 2, 5, 3)
    with pytest.raises(ValueError, match=f"probes is {probes}; Hutchinson needs at least 1"):
        sketches.draw_signs(0, 1, probes, client.head.shape)
    with pytest.raises(ValueError, match=f"probes is {probes}; Hutchinson needs at least 1"):
        sketches.hutchinson_expected(*client, torch.zeros_like(client.head), probes)


@pytest.mark.parametrize("shape", [(2, 3), (4, 3, 2), (1, 2, 4), (1, 1, 2, 3)])
def test_signs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    message = rf"signs have shape \({', '.join(map(str, shape))}\); expected \[m, 2, 3\] for this head"
    with pytest.raises(ValueError, match=message):
        sketches.hutchinson_diagonal(*make_client(0, 2, 5, 3), torch.ones(shape))


def test_bad_features_are_refused_as_in_the_statistics() -> None:
    head, features, labels = make_client(0, 2, 5, 3)
    with pytest.raises(ValueError, match="features have 2 columns but the head expects 3"):
        sketches.hutchinson_diagonal(head, features[:, 1:], labels, torch.ones(1, 2, 3))
    with pytest.raises(ValueError, match="features have 2 columns but the head expects 3"):
        sketches.hutchinson_expected(head, features[:, 1:], labels, torch.zeros(2, 3), 1)
