"""Members of an overfit model are found, and only those; scores agree with naive twins."""

import math
import statistics as numbers
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedha.audit.membership import (
    Question,
    balanced,
    confidences,
    likelihood_ratios,
    loss_scores,
    shadow_confidences,
    shadow_halves,
)
from fedha.audit.scores import auc
from fedha.data.domain import Examples
from tests.audit.bounds import chance_bound

SEEDS = st.integers(0, 2**31)
WIDTH = 100


def test_confidence_is_the_log_odds_of_the_label() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    own = torch.softmax(logits, 1)[torch.arange(6), labels]
    torch.testing.assert_close(confidences(logits, labels), (own / (1 - own)).log())
    torch.testing.assert_close(loss_scores(logits, labels), own.log())
    one, signs = logits[:, :1], torch.tensor([0, 1, 0, 1, 0, 1])
    torch.testing.assert_close(confidences(one, signs), confidences(torch.cat([torch.zeros_like(one), one], 1), signs))


@given(SEEDS, st.integers(2, 20), st.sampled_from([4, 6, 8]))
def test_everyone_is_in_half_of_the_shadows(seed: int, examples: int, shadows: int) -> None:
    inside = shadow_halves(examples, shadows, seed)
    assert inside.sum(0).tolist() == [shadows // 2] * examples
    assert inside[0::2].sum(1).tolist() == [examples // 2] * (shadows // 2)
    assert torch.equal(inside, shadow_halves(examples, shadows, seed))


@pytest.mark.parametrize("shadows", [0, 2, 5])
def test_an_odd_number_of_shadows_or_too_few_are_refused(shadows: int) -> None:
    with pytest.raises(ValueError, match=f"shadows is {shadows}"):
        shadow_halves(10, shadows, 0)


@given(SEEDS, st.integers(2, 6), st.sampled_from([4, 6]))
def test_the_ratio_is_that_of_two_normal_densities(seed: int, examples: int, shadows: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    inside = shadow_halves(examples, shadows, seed)
    sure = torch.randn(shadows, examples, generator=draws, dtype=torch.float64)
    target = torch.randn(examples, generator=draws, dtype=torch.float64)
    twins, spreads = [], {}
    for side in (True, False):
        rests = []
        for place in range(examples):
            own = [float(sure[k, place]) for k in range(shadows) if bool(inside[k, place]) == side]
            rests += [(value - numbers.fmean(own)) ** 2 for value in own]
        spreads[side] = math.sqrt(sum(rests) / (examples * (shadows // 2 - 1)))
    for place in range(examples):
        logs = {}
        for side in (True, False):
            own = [float(sure[k, place]) for k in range(shadows) if bool(inside[k, place]) == side]
            logs[side] = math.log(
                numbers.NormalDist(numbers.fmean(own), spreads[side]).pdf(float(target[place])) + 1e-300
            )
        twins.append(logs[True] - logs[False])
    found = likelihood_ratios(target, sure, inside)
    kept = [place for place, twin in enumerate(twins) if abs(twin) < 500]  # beyond, the twin's densities underflow
    assert [float(found[place]) for place in kept] == pytest.approx(
        [twins[place] for place in kept], rel=1e-6, abs=1e-9
    )


@given(SEEDS, st.integers(1, 9), st.integers(1, 9))
def test_candidates_are_as_many_as_there_are_others(seed: int, members: int, others: int) -> None:
    questioned, always = balanced(members, others, seed)
    assert len(questioned) == min(members, others)
    assert sorted([*questioned.tolist(), *always.tolist()]) == list(range(members))


# A model that learns noise by heart


def noise_examples(count: int, seed: int) -> Examples:
    draws = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, WIDTH, generator=draws, dtype=torch.float64)
    return Examples(inputs, torch.randint(0, 2, (count,), generator=draws))


def fit(parts: Mapping[int, Examples], _: int):  # type: ignore[no-untyped-def]
    """Ridge regression on the signs: learns 50 labels by heart with 100 features, in closed form."""
    (examples,) = parts.values()
    x, y = examples.inputs, 2 * examples.labels.double() - 1
    weights = torch.linalg.solve(x.T @ x + 0.1 * torch.eye(WIDTH, dtype=x.dtype), x.T @ y)
    return lambda examples: 4 * (examples.take() @ weights)[:, None]


def ratios(pool: Examples, target: Tensor, always: Examples, seed: int) -> Tensor:
    inside = shadow_halves(len(pool), 16, seed)
    shadows = shadow_confidences(fit, {0: Question(pool, always, inside)})
    return likelihood_ratios(target, shadows[0], inside)


def test_members_of_an_overfit_model_are_found() -> None:
    loss, ratio = [], []
    for seed in range(5):
        pool, always = noise_examples(80, seed), noise_examples(10, seed + 100)
        half = pool.select(slice(0, 40))
        trained = Examples(torch.cat([half.inputs, always.inputs]), torch.cat([half.labels, always.labels]))
        logits = fit({0: trained}, 0)(pool)
        scores = loss_scores(logits, pool.labels)
        loss.append(auc(scores[:40], scores[40:]))
        scores = ratios(pool, confidences(logits, pool.labels), always, seed)
        ratio.append(auc(scores[:40], scores[40:]))
    print("loss threshold", loss, "likelihood ratio", ratio)  # noqa: T201
    assert min(loss) > 0.75
    assert numbers.fmean(ratio) > numbers.fmean(loss)


def test_a_model_that_saw_none_of_them_or_only_noise_tells_nothing() -> None:
    # Members and others are alike to such a model, so that the area is Mann-Whitney's under the null: see the bound.
    stranger, drowned, seeds = [], [], 20
    for seed in range(seeds):
        pool, always = noise_examples(40, seed), noise_examples(10, seed + 100)
        logits = fit({0: noise_examples(30, seed + 200)}, 0)(pool)
        scores = loss_scores(logits, pool.labels)
        stranger.append(auc(scores[:20], scores[20:]))
        noise = 1e6 * torch.randn(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        scores = ratios(pool, noise, always, seed)
        drowned.append(auc(scores[:20], scores[20:]))
    bound = chance_bound(20, 20, seeds, false_alarms=1e-3)
    assert abs(numbers.fmean(stranger) - 0.5) < bound
    assert abs(numbers.fmean(drowned) - 0.5) < bound
