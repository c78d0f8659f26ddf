"""The private means of an exchange: bounded in each example, plain without bounds, and as noisy as they say."""

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from fedha.privacy.clipping import joint_norms, private_means
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.moments import Batch, Moment, measure
from fedha.privacy.noise import Source, cryptographic, grid, seeded
from fedha.privacy.releasable import derive, releasable, required
from tests.linear_clients import Client, make_client
from tests.privacy.chance import variance_bounds
from tests.privacy.test_moments import batch_of, plain
from tests.privacy.twins import clients, make_vector, terms

TRAVELLING = ("gradient", "hessian_diagonal", "pooled_gradient_hessian_product", "risk")
SCALES = st.fixed_dictionaries({name: st.floats(0.1, 10) for name in TRAVELLING})
NORMS = st.floats(0.01, 10)


def joint_terms(client: Client, scales: Mapping[str, float]) -> Tensor:
    """Every example's scaled terms side by side, [n, all entries]."""
    return torch.cat([scales[name] * terms(name, client, make_vector(client)) for name in TRAVELLING], 1)


def released(client: Client, norm: float, scales: Mapping[str, float], divisor: float = 1.0) -> Tensor:
    """The scaled means without noise, flat, in the same order."""
    means = private_means(measure(TRAVELLING, batch_of(client)), Mechanism(norm, 0.0, divisor), seeded(0), scales)
    return torch.cat([scales[name] * means[name].flatten() for name in TRAVELLING])


@pytest.mark.parametrize("statistic", releasable())
@given(client=clients())
def test_without_clip_and_noise_the_private_statistic_is_the_plain_one(statistic: str, client: Client) -> None:
    n = len(client.features)
    moments = measure(required([statistic]), batch_of(client))
    means = private_means(moments, Mechanism(math.inf, 0.0, n), seeded(0))
    assert_close(derive(statistic, means, n), plain(statistic, client), rtol=1e-12, atol=1e-12)


@settings(max_examples=25)
@given(client=clients(), scales=SCALES)
def test_the_joint_norm_is_that_of_all_terms_side_by_side(client: Client, scales: dict[str, float]) -> None:
    norms = joint_norms(measure(TRAVELLING, batch_of(client)), scales)
    assert_close(norms, joint_terms(client, scales).norm(dim=1), rtol=1e-9, atol=1e-12)


@settings(max_examples=25)
@given(client=clients(), norm=NORMS, scales=SCALES, divisor=st.floats(0.5, 100))
def test_private_means_are_the_clipped_sum_written_out(
    client: Client, norm: float, scales: dict[str, float], divisor: float
) -> None:
    each = joint_terms(client, scales)
    factors = (norm / each.norm(dim=1)).clamp(max=1.0)
    assert_close(released(client, norm, scales, divisor), factors @ each / divisor, rtol=1e-9, atol=1e-12)


@settings(max_examples=25)
@given(client=clients(), norm=NORMS, scales=SCALES)
def test_what_one_example_adds_is_cut_to_the_norm_and_left_alone_below(
    client: Client, norm: float, scales: dict[str, float]
) -> None:
    for place, length in enumerate(joint_terms(client, scales).norm(dim=1).tolist()):
        alone = Client(client.head, client.features[place : place + 1], client.labels[place : place + 1])
        added = float(released(alone, norm, scales).norm())
        assert added <= norm * (1 + 1e-12)
        assert added == pytest.approx(min(length, norm), rel=1e-9)


@settings(max_examples=25)
@given(client=clients(), norm=NORMS, scales=SCALES, data=st.data())
def test_removing_an_example_moves_the_sum_by_at_most_the_norm(
    client: Client, norm: float, scales: dict[str, float], data: st.DataObject
) -> None:
    gone = data.draw(st.integers(0, len(client.features) - 1))
    rest = torch.arange(len(client.features)) != gone
    fewer = Client(client.head, client.features[rest], client.labels[rest])
    moved = float((released(client, norm, scales) - released(fewer, norm, scales)).norm())
    assert moved <= norm * (1 + 1e-12)
    assume(float(joint_terms(client, scales)[gone].norm()) > norm)
    assert moved == pytest.approx(norm, rel=1e-9)


@pytest.mark.parametrize("norm", [1.0, math.inf])
@pytest.mark.parametrize("broken", [math.nan, math.inf, 1e200])
def test_an_example_that_is_not_finite_adds_nothing_and_raises_nothing(broken: float, norm: float) -> None:
    client = make_client(0, 3, 5, 4)
    features = client.features.clone()
    features[2, 1] = broken  # 1e200 squared is not finite
    rest = torch.arange(5) != 2
    spoilt, without = (
        Batch.at(client.head, features, client.labels),
        Batch.at(client.head, client.features[rest], client.labels[rest]),
    )
    names = ("gradient", "hessian_diagonal")
    mechanism = Mechanism(norm, 0.0, 5)
    assert_close(
        private_means(measure(names, spoilt), mechanism, seeded(0)),
        private_means(measure(names, without), mechanism, seeded(0)),
    )


# --- float32 at a site ---


def at_a_site(client: Client, rows: Tensor, norm: float, scales: Mapping[str, float]) -> Tensor:
    """The scaled sums of some rows without noise, the others being zero, from float32 terms."""
    moments = {
        name: Moment(moment.left.float() * rows[:, None], moment.right.float() * rows[:, None])
        for name, moment in measure(TRAVELLING, batch_of(client)).items()
    }
    sums = private_means(moments, Mechanism(norm, 0.0, 1.0), cryptographic(), scales)
    return torch.cat([scales[name] * sums[name].flatten() for name in TRAVELLING])


@settings(max_examples=25)
@given(client=clients(), norm=NORMS, scales=SCALES, data=st.data())
def test_no_example_moves_a_sites_sum_by_more_than_the_norm(
    client: Client, norm: float, scales: dict[str, float], data: st.DataObject
) -> None:
    rows = torch.ones(len(client.features))
    fewer = rows.clone()
    fewer[data.draw(st.integers(0, len(rows) - 1))] = 0
    moved = float((at_a_site(client, rows, norm, scales) - at_a_site(client, fewer, norm, scales)).norm())
    assert moved <= norm  # to the last bit


@pytest.mark.parametrize("n", [1, 511, 512, 513, 1500])
def test_terms_that_all_point_one_way_stay_within_the_norm_though_float32_rounds_their_sum(n: int) -> None:
    """The largest sums, so the largest rounding; 0.3 and 0.7 have no end in binary."""
    left, right = torch.full((n, 3), 0.3), torch.full((n, 50), 0.7)
    whole = private_means({"gradient": Moment(left, right)}, Mechanism(1.0, 0.0, 1), cryptographic())["gradient"]
    for gone in {0, n // 2, n - 1}:
        fewer = left.clone()
        fewer[gone] = 0
        rest = private_means({"gradient": Moment(fewer, right)}, Mechanism(1.0, 0.0, 1), cryptographic())["gradient"]
        assert 0.98 < float((whole - rest).norm()) <= 1
    exact = n * 0.21 / math.sqrt(150 * 0.21**2)
    assert_close(whole, torch.full_like(whole, exact), rtol=0.02, atol=0)
    assert whole.dtype == torch.float64


@pytest.mark.parametrize("precision", [torch.float16, torch.float64])
def test_a_site_adds_up_other_precisions_in_float64(precision: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(0)
    left, right = torch.randn(40, 3, generator=draws).to(precision), torch.randn(40, 5, generator=draws).to(precision)
    (found,) = private_means({"g": Moment(left, right)}, Mechanism(math.inf, 0.0, 1), cryptographic()).values()
    assert_close(found, left.double().T @ right.double(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("broken", [math.nan, math.inf, 1e30])
def test_an_example_that_is_not_finite_is_a_row_of_zeros_at_a_site(broken: float) -> None:
    draws = torch.Generator().manual_seed(0)
    left, right = torch.randn(6, 3, generator=draws), torch.randn(6, 5, generator=draws)
    spoilt, zeroed = right.clone(), right.clone()
    spoilt[2], zeroed[2] = broken, 0
    mechanism = Mechanism(1.0, 0.0, 6)
    assert_close(
        private_means({"g": Moment(left, spoilt)}, mechanism, cryptographic()),
        private_means({"g": Moment(left, zeroed)}, mechanism, cryptographic()),
        rtol=0,
        atol=0,
    )


# --- noise ---


def wide(examples: int = 3) -> Batch:
    client = make_client(1, 20, examples, 1000)
    return Batch.at(client.head, client.features, client.labels)


@pytest.mark.parametrize("kind", ["seeded", "cryptographic"])
def test_each_moments_noise_has_its_stated_deviation(kind: str) -> None:
    """20,000 entries each. Seeded draws are always the same; the others fail by chance once in 10^8 runs."""
    scales, names = {"gradient": 0.5, "hessian_diagonal": 4.0}, ("gradient", "hessian_diagonal")
    mechanism, batch = Mechanism(2.0, 1.5, 50), wide()
    source = seeded(3, "noise") if kind == "seeded" else cryptographic()
    noisy = private_means(measure(names, batch), mechanism, source, scales)
    exact = private_means(measure(names, batch), Mechanism(2.0, 0.0, 50), seeded(0), scales)
    for name in names:
        noise = (noisy[name] - exact[name]) / (1.5 * 2.0 / (scales[name] * 50))
        low, high = variance_bounds(noise.numel(), 1e-9)
        assert low < float(noise.square().sum()) < high
        assert abs(float(noise.mean())) < 6.2 / math.sqrt(noise.numel())


def test_noise_differs_between_moments_rounds_clients_exchanges_and_seeds() -> None:
    client = make_client(1, 3, 3, 4)
    moments = measure(("gradient", "hessian_diagonal"), Batch.at(client.head, client.features, client.labels))
    exact = private_means(moments, Mechanism(1.0, 0.0, 3), seeded(0))

    def noise(seed: int, *key: int | str) -> list[Tensor]:
        noisy = private_means(moments, Mechanism(1.0, 1.0, 3), seeded(seed, *key))
        return [noisy[name] - exact[name] for name in exact]

    keys = [(0, 1, 0, "first"), (1, 1, 0, "first"), (0, 2, 0, "first"), (0, 1, 1, "first"), (0, 1, 0, "second")]
    drawn = [one for key in keys for one in noise(*key)]
    for place, one in enumerate(drawn):
        assert all(float((one - other).abs().min()) > 1e-6 for other in drawn[:place])
    for again, before in zip(noise(*keys[0]), drawn[:2], strict=True):
        assert torch.equal(again, before)


def test_an_empty_batch_sends_noise_all_the_same() -> None:
    batch = wide(3)
    empty = Batch(batch.features[:0], batch.logits[:0], batch.labels[:0])
    (sent,) = private_means(measure(["gradient"], empty), Mechanism(1.0, 1.0, 50), seeded(0)).values()
    assert sent.shape == (batch.logits.shape[1], batch.features.shape[1])
    low, high = variance_bounds(sent.numel(), 1e-9)
    assert low < float((sent * 50).square().sum()) < high


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_a_site_sends_numbers_on_the_grid_in_float64(precision: torch.dtype) -> None:
    client = make_client(1, 3, 5, 4)
    batch = Batch.at(client.head.to(precision), client.features.to(precision), client.labels)
    mechanism = Mechanism(1.0, 0.7, 5)
    for value in private_means(measure(["gradient", "risk"], batch), mechanism, cryptographic()).values():
        steps = value / grid(mechanism.deviation())
        assert value.dtype == torch.float64
        assert torch.equal(steps, steps.round())


def test_a_simulation_keeps_its_precision() -> None:
    client = make_client(1, 3, 5, 4)
    batch = Batch.at(client.head.float(), client.features.float(), client.labels)
    (value,) = private_means(measure(["gradient"], batch), Mechanism(1.0, 0.7, 5), seeded(0)).values()
    assert value.dtype == torch.float32


# --- refusals ---


@pytest.mark.parametrize(
    ("norm", "noise", "divisor", "message"),
    [
        (0.0, 1.0, 5, "the clipping norm is 0"),
        (math.nan, 1.0, 5, "the clipping norm is nan"),
        (1.0, 1.0, 0, "the divisor 0"),
        (1.0, 1.0, math.inf, "the divisor inf"),
        (1.0, -1.0, 5, "noise of -1 times"),
        (1.0, math.nan, 5, "noise of nan times"),
        (math.inf, 1.0, 5, "noise of 1 times a clipping norm of inf has no deviation"),
    ],
)
def test_a_mechanism_without_a_meaning_is_refused(norm: float, noise: float, divisor: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mechanism(norm, noise, divisor)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_that_is_no_positive_number_is_refused(scale: float) -> None:
    moments = {"risk": Moment(torch.ones(2, 1), torch.ones(2, 1))}
    with pytest.raises(ValueError, match="the scale of 'risk' is"):
        private_means(moments, Mechanism(1.0, 1.0, 2), seeded(0), {"risk": scale})


@pytest.mark.parametrize("source", [seeded(0), cryptographic()], ids=["seeded", "cryptographic"])
def test_nothing_to_clip_is_refused(source: Source) -> None:
    with pytest.raises(ValueError, match="there is no moment to clip"):
        private_means({}, Mechanism(1.0, 1.0, 2), source)
