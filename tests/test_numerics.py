"""The process settings keep float32 products at float32 accuracy, and float64 ones exact."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedha import numerics

# Rounding to bfloat16 or TF32 errs by 1e-3 of a product's size and more; float32 by less than 1e-6 times sqrt(terms).
TOLERANCE = 2e-6


pytestmark = pytest.mark.usefixtures("same_numerics")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relative_error(value: Tensor, exact: Tensor) -> float:
    return float((value.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("terms", [3, 64, 392, 2048])
@pytest.mark.parametrize("rows", [1, 7, 64, 500])
def test_products_of_every_size_keep_float32_accuracy(rows: int, terms: int) -> None:
    left, right = draw(rows, terms), draw(terms, 33, seed=1)
    left32, right32 = left.float(), right.float()
    exact = left32.double() @ right32.double()
    assert relative_error(left32 @ right32, exact) < TOLERANCE
    assert relative_error(right32.T @ left32.T, exact.T) < TOLERANCE
    assert relative_error(torch.addmm(torch.zeros(33), left32, right32), exact) < TOLERANCE


def test_batched_products_linear_layers_and_their_gradients_keep_float32_accuracy() -> None:
    left, right = draw(3, 64, 128).float(), draw(3, 128, 32, seed=1).float()
    assert relative_error(left @ right, left.double() @ right.double()) < TOLERANCE
    inputs, weight = draw(256, 390).float(), draw(390, 390, seed=1).float().requires_grad_()
    outputs = functional.linear(inputs, weight)
    assert relative_error(outputs.detach(), inputs.double() @ weight.detach().double().T) < TOLERANCE
    (slope,) = torch.autograd.grad(outputs.square().sum() / 2, weight)
    assert relative_error(slope, outputs.detach().double().T @ inputs.double()) < TOLERANCE


def test_convolutions_keep_float32_accuracy() -> None:
    images, kernel = draw(8, 16, 14, 14).float(), draw(32, 16, 3, 3, seed=1).float()
    exact = functional.conv2d(images.double(), kernel.double(), padding=1)
    assert relative_error(functional.conv2d(images, kernel, padding=1), exact) < TOLERANCE


def test_float64_products_stay_float64() -> None:
    left, right = draw(64, 392), draw(392, 64, seed=1)
    sums = (left[:, :, None] * right[None]).sum(1)
    assert relative_error(left @ right, sums) < 1e-14


def test_the_number_of_threads_is_what_was_asked_for() -> None:
    before = torch.get_num_threads()
    numerics.configure(2)
    assert torch.get_num_threads() == 2
    numerics.configure(before)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("columns", [1, 10, 390])
def test_the_same_product_gives_the_same_bits_again(columns: int) -> None:
    left, right = draw(300, 390).float(), draw(390, columns, seed=1).float()
    first = left @ right
    assert all(torch.equal(left @ right, first) for _ in range(3))


def test_a_fresh_process_computes_the_same_bits() -> None:
    draws = "torch.randn(97, 391, generator=g) @ torch.randn(391, 64, generator=g)"
    code = (
        f"import sys, torch; from fedha import numerics; numerics.configure(1); g = torch.manual_seed(5); v = {draws}"
    )
    there = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.stdout.buffer.write(v.numpy().tobytes())"], capture_output=True, check=True
    ).stdout
    draw = torch.Generator().manual_seed(5)
    here = torch.randn(97, 391, generator=draw) @ torch.randn(391, 64, generator=draw)
    assert here.numpy().tobytes() == there
