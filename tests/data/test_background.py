"""Backgrounds whose law is known: the coordinates of a shift are exact, and the data follow the law."""

import math

import pytest
import torch

from fedha import data
from fedha.config import DataConfig, parse
from fedha.data import digits
from fedha.data.background import LEVELS, Background, coordinates, drawn
from fedha.errors import FedhaError


def config(**section: object) -> DataConfig:
    return parse({"data": {"name": "digits_background", "target": "background3", **section}}).data


@pytest.mark.parametrize(("shift", "length"), [(0, 64), (16, 64), (32, 64), (64, 64), (80, 16)])
def test_shifted_intervals_are_diversity_alone(shift: int, length: int) -> None:
    found = coordinates([Background(5, length)], [Background(5 + shift, length)], 0.3)
    assert found.diversity == pytest.approx(min(1, shift / length), abs=1e-12)
    assert found.correlation == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("one", "other"), [(0.8, -0.8), (0.5, 0.25), (1.0, -1.0), (0.0, 0.6)])
def test_tilts_are_correlation_alone(one: float, other: float) -> None:
    found = coordinates([Background(0, 64, one)], [Background(0, 64, other)])
    assert found.diversity == pytest.approx(0, abs=1e-12)
    assert found.correlation == pytest.approx(abs(one - other) / 2, abs=1e-12)


def test_both_together_span_the_plane() -> None:
    # Half of the levels are shared, 32 to 63: the upper half of the one and the lower half of the other.
    found = coordinates([Background(0, 64, 0.6)], [Background(32, 64, 0.2)])
    assert found.diversity == pytest.approx(0.5)
    assert found.correlation == pytest.approx(0.5 * 0.5 * (0.6 + 0.2))


def test_the_background_of_each_image_follows_the_law_of_its_domain() -> None:
    found = data.load(config(held_out=0), 0)
    assert "from the sources to background3 diversity 0.6667, correlation 0" in found.description
    _, labels = digits.as_bytes()
    for place, domain in enumerate((*found.sources, *found.targets)):
        part = domain.held_out if place == 3 else domain.train
        levels = part.inputs.flatten(1).min(1).values.long()  # each digit has a black pixel
        low, high = 32 * place, 32 * place + 64
        assert low <= int(levels.min()) <= int(levels.max()) < high
        assert float(levels.double().mean()) == pytest.approx(low + 31.5, abs=0.5)
    assert sum(len(one.train) + len(one.held_out) for one in (*found.sources, *found.targets)) == len(labels)


def test_drawn_levels_are_as_even_as_the_law_allows() -> None:
    upper = torch.arange(20_000) % 2 == 0
    law = Background(10, 64, 0.5)
    levels = drawn(law, upper, torch.Generator().manual_seed(0))
    for kind in (False, True):
        shares = torch.bincount(levels[upper == kind], minlength=LEVELS) / 10_000
        assert float((shares - law.given(kind)).abs().max()) <= 2 / 10_000
    measured = 0.5 * sum(
        math.sqrt(1 / 64 * 1 / 64) * 2 * abs(float((levels[upper] == level).double().mean() * 64 / 2) - 0.5)
        for level in range(10, 74)
    )
    assert measured == pytest.approx(coordinates([law], [Background(10, 64)]).correlation, abs=0.02)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"length": "63"}, r"data\.length is 63, whose halves differ"),
        ({"shift": "100"}, r"go beyond the level 255; lower data\.shift or data\.length"),
        ({"tilts": ["0.5"]}, r"data\.tilts has 1 numbers for 4 domains"),
        ({"tilts": ["2", "0", "0", "0"]}, r"data\.tilts is 2.*less than or equal to 1"),
        ({"domains": "3"}, r"data\.target names 'background3', .*did you mean 'background"),
    ],
)
def test_what_does_not_fit_is_a_sentence(section: dict, message: str) -> None:
    with pytest.raises(FedhaError, match=message):
        data.load(config(**section), 0)
