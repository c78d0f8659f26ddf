"""Kinds of shift with known truth: what the estimator of densities misses."""

import pytest
import torch
from torch import Tensor

from fedha.config import parse
from fedha.diagnosis import stairs
from fedha.diagnosis.discriminator import Sides, calibrated, fit, summed
from fedha.diagnosis.shift import Placed, estimate, kinds, together
from fedha.flower.serve import load_domains
from fedha.randomness import generator

COUNT = 20_000


def colored(flip: float, seed: int, *, shape: bool) -> Placed:
    """Colored MNIST's law: shape class, a quarter of labels flipped, colour of the label, flipped again."""
    drawn = generator(seed, "colored")

    def chance(share: float) -> Tensor:
        return (torch.rand(COUNT, generator=drawn) < share).long()

    shapes = chance(0.5)
    labels = shapes ^ chance(0.25)
    colors = labels ^ chance(flip)
    return Placed(str(flip), torch.stack([colors, shapes] if shape else [colors], 1).double(), labels)


def colors_apart() -> tuple[Tensor, Sides]:
    """Colours of two domains, [n], and the domains in that space."""
    first, second = colored(0.15, 0, shape=False), colored(0.9, 1, shape=False)
    space, labels = torch.cat([first.points, second.points]), torch.cat([first.labels, second.labels])
    return space[:, 0].long(), Sides(space, torch.arange(2).repeat_interleave(COUNT), labels, 2)


@pytest.mark.parametrize(("shape", "legacy", "plus"), [(False, 0.75, 0.341), (True, 0.607, 0.268)])
def test_colored_mnists_closed_forms(shape: bool, legacy: float, plus: float) -> None:
    found = estimate(colored(0.15, 0, shape=shape), colored(0.9, 1, shape=shape), 2, "colour")
    assert found is not None
    assert found.kinds.diversity <= 0.01
    assert found.kinds.correlation == pytest.approx(legacy, abs=0.02)
    assert found.kinds.correlation_plus == pytest.approx(plus, abs=0.02)
    assert found.kinds.hellinger == pytest.approx(0.341, abs=0.02)
    assert found.chance is not None
    assert max(found.chance.diversity, found.chance.correlation, found.chance.hellinger) <= 0.01


@pytest.mark.parametrize("apart", [0.0, 0.3, 1.0])
def test_intervals_apart_are_diversity(apart: float) -> None:
    drawn = generator(0, "grey")
    levels = torch.rand(2, 4000, 1, dtype=torch.float64, generator=drawn)
    labels = torch.randint(3, (2, 4000), generator=drawn)
    found = estimate(Placed("a", levels[0], labels[0]), Placed("b", levels[1] + apart, labels[1]), 3, "grey")
    assert found is not None
    assert found.kinds.diversity == pytest.approx(apart, abs=0.02)
    assert found.kinds.correlation <= 0.01
    assert found.kinds.total_variation == pytest.approx(apart, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [16, 32, 48])
def test_backgrounds_of_digits_apart_are_diversity_of_the_images(shift: int) -> None:
    """Of 899 and 898 images of 64 pixels: what a discriminator without edges sees half of."""
    data = {"name": "digits_background", "domains": 2, "shift": shift, "target": "background1"}
    domains = load_domains(parse({"data": data, "recipe": "erm"}))
    sides = []
    for one in (domains.sources[0], domains.targets[0]):
        parts = [part for part in (one.train, one.held_out) if len(part)]
        placed = [Placed(one.name, part.take().flatten(1).double(), part.labels) for part in parts]
        sides.append(together(one.name, placed))
    found = estimate(sides[0], sides[1], 10, "inputs")
    assert found is not None
    assert found.kinds.diversity == pytest.approx(shift / 64, abs=0.02)
    assert found.kinds.correlation <= 0.02


def test_few_steps_find_the_edges_of_one_coordinate_among_many() -> None:
    drawn = generator(0, "edges")
    points = torch.rand(400, 30, dtype=torch.float64, generator=drawn)
    sides = torch.arange(2).repeat_interleave(200)
    points[200:, 7] += 0.5
    edges = stairs.edges(points)
    placed, size = stairs.places(points, edges), max(len(one) for one in edges)
    weights = torch.full((400,), 1 / 400, dtype=torch.float64)
    whole = stairs.answers(placed, sides, weights, size)
    parts = [
        stairs.answers(placed[some], sides[some], weights[some], size) for some in (slice(0, 200), slice(200, 400))
    ]
    heights = torch.randn(30, size, dtype=torch.float64, generator=drawn).requires_grad_(True)
    signs, shown = 2.0 * sides - 1, torch.arange(size) < placed[:, :, None]
    scores = (heights * (2.0 * shown - 1)).sum((1, 2)) + 0.3
    (weights * torch.nn.functional.softplus(-signs * scores)).sum().backward()
    told = whole(heights.detach(), 0.3)
    torch.testing.assert_close(told[0], heights.grad)
    for place in (0, 1):
        torch.testing.assert_close(sum(one(heights.detach(), 0.3)[place] for one in parts), told[place])
    start = stairs.Stairs(torch.zeros(30, size, dtype=torch.float64), 0.0)
    found = stairs.descend(parts, start, 0.1, stairs.steepest(placed, weights, size))
    assert torch.nonzero(found.heights.any(1))[:, 0].tolist() == [7]
    alone = (points[:, 7] < 0.45) | (points[:, 7] > 1.05)
    assert bool((found.scores(placed)[alone].sign() == signs[alone]).all())


def test_label_shift_is_told_and_taken_out() -> None:
    drawn = generator(0, "labels")
    sides = []
    for share in (0.2, 0.8):
        labels = (torch.rand(4000, generator=drawn) < share).long()
        points = labels[:, None] + torch.randn(4000, 1, dtype=torch.float64, generator=drawn)
        sides.append(Placed(str(share), points, labels))
    found = estimate(sides[0], sides[1], 2, "points")
    assert found is not None
    assert found.label == pytest.approx(0.6, abs=0.03)
    assert max(found.kinds.diversity, found.kinds.correlation, found.kinds.hellinger) <= 0.02


def test_exact_probabilities_give_the_definitions() -> None:
    """With counts in the place of discriminators the numbers are sums over a table."""
    points, both = colors_apart()
    masses = both.masses(torch.arange(2 * COUNT))
    table = torch.zeros(2, 4, dtype=torch.float64).index_put_((points, both.pairs), masses, accumulate=True)
    found = kinds(both, (table / table.sum(1, keepdim=True))[points], 0.1)
    p, q = 2 * table[:, :2], 2 * table[:, 2:]
    marginals = (p.sum(1) * q.sum(1)).sqrt()
    given = (p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True))
    assert found.correlation == pytest.approx(
        float((marginals * (given[0] - given[1]).abs().sum(1)).sum()) / 2, rel=1e-9
    )
    plus = float((marginals * ((given[0].sqrt() - given[1].sqrt()) ** 2).sum(1)).sum()) / 2
    assert found.correlation_plus == pytest.approx(plus, rel=1e-9)
    assert found.hellinger == pytest.approx(1 - float((p * q).sqrt().sum()), rel=1e-9)


def test_a_wrong_discriminator_sees_less_never_more() -> None:
    points, both = colors_apart()
    for seed in range(5):
        wrong = torch.rand(2, 4, dtype=torch.float64, generator=generator(seed, "wrong")) + 0.1
        found = kinds(both, (wrong / wrong.sum(1, keepdim=True))[points], 0.1)
        assert found.hellinger <= 0.341 + 0.02
        assert found.diversity <= 0.02
        assert found.total_variation <= 0.02


def test_sums_of_two_domains_are_those_of_one() -> None:
    drawn = generator(0, "rows")
    rows = torch.randn(40, 3, dtype=torch.float64, generator=drawn)
    pairs = torch.randint(4, (40,), generator=drawn)
    weights = torch.full((40,), 1 / 40, dtype=torch.float64)
    at = torch.randn(4, 3, dtype=torch.float64, generator=drawn)
    whole = summed(rows, pairs, weights)(at)
    parts = [summed(rows[some], pairs[some], weights[some])(at) for some in (slice(0, 15), slice(15, 40))]
    for place in (0, 1):
        torch.testing.assert_close(parts[0][place] + parts[1][place], whole[place])
    copied = at.clone().requires_grad_(True)
    summed(rows, pairs, weights)(copied)[0].backward()
    torch.testing.assert_close(copied.grad, whole[1])
    start = torch.zeros(4, 3, dtype=torch.float64)
    answers = [summed(rows[some], pairs[some], weights[some]) for some in (slice(0, 15), slice(15, 40))]
    torch.testing.assert_close(
        fit(answers, start, 0.1), fit([summed(rows, pairs, weights)], start, 0.1), atol=1e-4, rtol=1e-3
    )


def test_calibration_makes_steps_steep_and_keeps_the_labels_law() -> None:
    sides = torch.arange(2).repeat_interleave(20)
    both = Sides(torch.zeros(40, 1), sides, torch.tensor([0, 0, 1, 1] * 10), 2)
    score = torch.linspace(0.6, 0.4, 40, dtype=torch.float64)
    known = torch.stack([score * 0.3, score * 0.7, (1 - score) * 0.5, (1 - score) * 0.5], 1)
    found = calibrated(both, known)
    share = found[:, :2].sum(1)
    torch.testing.assert_close(share[:19], torch.ones(19, dtype=torch.float64))
    torch.testing.assert_close(share[21:], torch.zeros(19, dtype=torch.float64))
    torch.testing.assert_close(found.sum(1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(found[0, :2], torch.tensor([0.3, 0.7], dtype=torch.float64))


def test_nothing_is_said_of_classes_that_nobody_shares() -> None:
    points = torch.zeros(20, 1, dtype=torch.float64)
    first, second = (Placed(str(c), points, torch.full((20,), c)) for c in (0, 1))
    assert estimate(first, second, 2, "points") is None
