"""Shapes whose labels are a quarter noise, and colours that follow the label: what pixels alone do not tell."""

import math

import pytest
import torch
from torch import Tensor

from fedha.data.colored import colored, flipped
from fedha.diagnosis import shapes
from fedha.diagnosis.discriminator import fit, summed
from fedha.diagnosis.shift import Placed, estimate
from fedha.randomness import generator


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Level (1) and upright (0) stripes, wherever they begin, faint or strong, [n, 12, 12], and which is which."""
    drawn = generator(seed, "stripes")
    kinds = torch.randint(2, (count,), generator=drawn)
    turns = 2 * math.pi * torch.rand(count, 1, generator=drawn)
    waves = (1 + torch.sin(1.5 * torch.arange(12.0) + turns)) / 2
    level = waves[:, :, None].expand(count, 12, 12)
    images = torch.where(kinds[:, None, None] == 1, level, level.transpose(1, 2))
    return images * (0.5 + torch.rand(count, 1, 1, generator=drawn) / 2), kinds


def domain(flip: float, count: int, seed: int) -> Placed:
    """Colored MNIST's law for stripes."""
    images, kinds = stripes(count, seed)
    labels = flipped(kinds, 0.25, generator(seed, "noise"))
    colors = flipped(labels, flip, generator(seed, "color"))
    points = colored(images, colors).double()
    return Placed(str(flip), points.flatten(1), labels, tuple(points.shape[1:]))


def test_noisy_labels_tell_the_shape_by_its_units_and_not_by_pixels() -> None:
    images, kinds = stripes(600, 0)
    labels = flipped(kinds, 0.25, generator(0, "noise"))
    seen = shapes.seen_in(images[:, None].double(), 0)
    assert seen is not None
    train, rest = slice(0, 400), slice(400, None)

    def right(rows: Tensor) -> float:
        rows = torch.cat([rows.new_ones(len(rows), 1), rows], 1)
        weights = torch.full((400,), 1 / 400, dtype=torch.float64)
        found = fit([summed(rows[train], labels[train], weights)], torch.zeros(2, rows.shape[1]).double(), 0.01)
        return float(((rows[rest] @ found.T.to(rows.dtype)).argmax(1) == kinds[rest]).float().mean())

    assert right(seen.units) > 0.93
    assert right(images.flatten(1).double()) < 0.65


def test_colours_are_shares_of_the_brightness_and_nothing_else_depends_on_them() -> None:
    images, _ = stripes(200, 0)
    colors = torch.arange(200) % 2
    red, other = (shapes.seen_in(colored(images, one), 0) for one in (torch.zeros_like(colors), colors))
    assert red is not None
    assert other is not None
    torch.testing.assert_close(red.units, other.units)
    assert float(red.colours.abs().max()) == 0
    torch.testing.assert_close(other.colours[:, 1], shapes.STEEP * (colors - 0.5))
    again = shapes.seen_in(colored(images, colors), 0)
    assert again is not None
    assert torch.equal(again.units, other.units)


@pytest.mark.parametrize("shape", [(200, 1, 7, 12), (20, 1, 12, 12)])
def test_no_shapes_in_small_images_or_few(shape: tuple[int, ...]) -> None:
    assert shapes.seen_in(torch.zeros(shape), 0) is None


def test_images_without_any_contrast_have_units_that_tell_nothing() -> None:
    seen = shapes.seen_in(torch.full((100, 3, 8, 8), -2.0), 0)
    assert seen is not None
    assert float(seen.units.abs().max()) <= 1e-3
    assert float(seen.colours.abs().max()) <= 1e-6


def test_weights_that_differ_between_domains_cost_more_from_a_column_on() -> None:
    drawn = generator(0, "shared")
    rows = torch.cat([torch.ones(60, 1), torch.randn(60, 4, generator=drawn)], 1).double()
    pairs = torch.randint(4, (60,), generator=drawn)
    answer = summed(rows, pairs, torch.full((60,), 1 / 60, dtype=torch.float64))
    start = torch.zeros(4, 5, dtype=torch.float64)
    found = fit([answer], start, 0.01, iterations=500, shared=3)
    apart = found[:2] - found[2:]
    assert float(apart[:, 3:].norm()) < 0.1 * float(apart[:, 1:3].norm())

    def objective(at: Tensor) -> Tensor:
        told = -(rows @ at.T).log_softmax(1).gather(1, pairs[:, None]).mean()
        return told + 0.005 * at[:, 1:].square().sum() + 99 * 0.005 * (at[:2] - at[2:])[:, 3:].square().sum() / 2

    at = found.clone().requires_grad_(True)
    objective(at).backward()
    assert at.grad is not None
    assert float(at.grad.abs().max()) < 1e-4


@pytest.mark.slow
def test_correlation_of_images_is_that_of_colour_and_shape() -> None:
    """Without the shape it is 0.75, and what is linear in pixels comes close to that."""
    sides = [domain(flip, 6000, seed) for seed, flip in enumerate((0.15, 0.9))]
    found = estimate(sides[0], sides[1], 2, "inputs")
    assert found is not None
    assert found.kinds.diversity <= 0.01
    assert found.kinds.correlation == pytest.approx(0.607, abs=0.025)
    assert found.kinds.correlation_plus == pytest.approx(0.268, abs=0.02)
    assert found.chance is not None
    assert max(found.chance.diversity, found.chance.correlation) <= 0.01
