"""Random Fourier features stand for the kernels that they are named after, and are the same for everybody."""

import numpy
import pytest
import torch
from torch.testing import assert_close

from fedha.random_features import KERNELS, fourier, frequencies


def squared_mmd(one: torch.Tensor, other: torch.Tensor, kernels: tuple[float, ...]) -> float:
    """DomainBed's: the sum of Gaussian kernels over all pairs, an example with itself included."""

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        distances = torch.cdist(a, b).square()
        return torch.stack([(-g * distances).exp() for g in kernels]).sum(0).mean()

    return float(kernel(one, one) + kernel(other, other) - 2 * kernel(one, other))


@pytest.mark.parametrize("what", KERNELS)
def test_the_distance_of_mean_features_estimates_the_squared_mmd(what: str) -> None:
    draws = torch.Generator().manual_seed(0)
    width = 5 if what == "representation" else 1
    one = torch.randn(20, width, generator=draws, dtype=torch.float64)
    other = 0.7 * torch.randn(30, width, generator=draws, dtype=torch.float64) + 0.5
    kernels = KERNELS[what]
    drawn = frequencies(3, 1, what, kernels, 20_000, width)
    difference = fourier(one, drawn).mean(0) - fourier(other, drawn).mean(0)
    expected = squared_mmd(one, other, kernels)
    assert float(difference.square().sum()) == pytest.approx(expected, rel=0.02)
    few = [frequencies(3, number, what, kernels, 10, width) for number in range(1, 301)]
    found = [float((fourier(one, w).mean(0) - fourier(other, w).mean(0)).square().sum()) for w in few]
    error = numpy.std(found) / len(found) ** 0.5
    assert abs(numpy.mean(found) - expected) < 4 * error  # without bias, however few


def test_frequencies_are_a_rounds_own_and_nobodys() -> None:
    one = frequencies(3, 1, "losses", (1.0,), 4, 1)
    assert_close(frequencies(3, 1, "losses", (1.0,), 4, 1), one, rtol=0, atol=0)
    for other in (frequencies(3, 2, "losses", (1.0,), 4, 1), frequencies(4, 1, "losses", (1.0,), 4, 1)):
        assert not torch.equal(other, one)
