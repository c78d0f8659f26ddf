"""A first layer as coefficients of its inputs is SGD on its weights."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fedha.batching.first_layer import FirstLayer, pays
from fedha.batching.rows import Batch
from fedha.batching.updates import Rows, WeightedSum
from fedha.config import TrainingConfig
from tests.batching.twins import local

CLIENTS, EXAMPLES, WIDTH, HIDDEN = 3, 5, 7, 4
RATE = 0.1


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def start(momentum: float, decay: float) -> tuple[FirstLayer, Tensor, Tensor]:
    """The layer, its inputs and its weights."""
    inputs, weight = random(CLIENTS, EXAMPLES, WIDTH), random(HIDDEN, WIDTH, seed=1)
    gram = inputs @ inputs.transpose(1, 2)
    return FirstLayer(weight, inputs, inputs @ weight.T, gram, RATE, momentum, decay), inputs, weight


def some_rows(step: int) -> tuple[Tensor, Batch]:
    """Two rows of each client, others each step."""
    rows = torch.stack(
        [torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(10 * step + k))[:2] for k in range(CLIENTS)]
    )
    flat = (torch.arange(CLIENTS)[:, None] * EXAMPLES + rows).flatten()
    return rows, Batch(slice(0, CLIENTS), 2, flat)


@pytest.mark.parametrize(("momentum", "decay"), list(itertools.product((0.0, 0.9), (0.0, 0.3))))
def test_coefficients_follow_torchs_sgd(momentum: float, decay: float) -> None:
    layer, inputs, weight = start(momentum, decay)
    weights = [weight.clone().requires_grad_() for _ in range(CLIENTS)]
    optimizer = torch.optim.SGD(weights, lr=RATE, momentum=momentum, weight_decay=decay)
    for step in range(4):
        rows, batch = some_rows(step)
        derivative = random(CLIENTS, 2, HIDDEN, seed=100 + step)
        taken = [inputs[k, rows[k]] for k in range(CLIENTS)]
        assert_close(layer.outputs(batch), torch.stack([x @ w.T for x, w in zip(taken, weights, strict=True)]).detach())
        norms = torch.stack([w.detach().square().sum() for w in weights])
        if decay:  # nobody asks otherwise
            assert_close(layer.squared_norms(slice(None)), norms)
        for k in range(CLIENTS):
            weights[k].grad = derivative[k].T @ taken[k]
        optimizer.step()
        layer.receive(batch, derivative)
        layer.step()
    update = torch.empty(CLIENTS, HIDDEN, WIDTH, dtype=torch.float64)
    layer.write(Rows({"w": update}), "w", slice(0, 2))
    layer.write(Rows({"w": update}), "w", slice(2, 3))
    expected = torch.stack([weight - w.detach() for w in weights])
    assert_close(update, expected)
    total, shares = torch.zeros(HIDDEN, WIDTH, dtype=torch.float64), random(CLIENTS).abs()
    for clients in (slice(0, 2), slice(2, 3)):
        layer.write(WeightedSum({"w": total}, shares), "w", clients)
    assert_close(total, (shares[:, None, None] * expected).sum(0))
    assert (layer.bound() >= expected.abs().amax((1, 2))).all()


def test_the_bound_is_not_finite_where_the_update_is_not() -> None:
    layer, _, _ = start(0.0, 0.0)
    _, batch = some_rows(0)
    derivative = random(CLIENTS, 2, HIDDEN)
    derivative[1, 0, 2] = torch.nan
    layer.receive(batch, derivative)
    assert layer.bound().isfinite().tolist() == [True, False, True]


def test_coefficients_pay_where_they_cost_less() -> None:
    images = {"inputs": 784, "steps": 6, "rows": 10}
    assert pays(60, **images, training=local(epochs=1, batch_size=10))
    assert pays(60, **images, training=local(epochs=1, batch_size=10, momentum=0.9, weight_decay=0.1))
    assert not pays(60, **images, training=local(epochs=1, batch_size=10, optimizer="adam"))
    assert not pays(10_000, inputs=784, steps=1000, rows=10, training=local(epochs=1, batch_size=10))
    assert not pays(200, inputs=13, steps=10, rows=20, training=local(epochs=1, batch_size=20))
    more: TrainingConfig = local(epochs=5, batch_size=10, weight_decay=0.1)  # the norm of the weights: n n each step
    assert pays(2000, inputs=784, steps=1000, rows=10, training=local(epochs=5, batch_size=10))
    assert not pays(2000, inputs=784, steps=1000, rows=10, training=more)
