"""A first linear layer that never leaves the span of its inputs: its weights as coefficients of the examples.

Let X [n, F] be a client's inputs, W the layer's weights [H, F], and a step's gradient ``g = d^T X + c W``: d [n, H]
is the loss's derivative in the layer's outputs, zero outside the minibatch, and c comes from L2. SGD with momentum m
and rate r is ``V' = m V + g``, ``W' = W - r V'``. Put ``W = a W0 - Z^T X`` and ``V = p W0 + Y^T X``, with a = 1 and
p, Z, Y zero at the start. Inserting gives

    p' = m p + c a      Y' = m Y + d - c Z      a' = a - r p'      Z' = Z + r Y'

so that Z and Y, [n, H], and two numbers carry the whole layer. Its outputs on some rows are
``X_rows W^T = a (X_rows W0^T) - (X_rows X^T) Z``: rows of ``B = X W0^T``, one product for all clients, which share W0,
and of the Gram matrix ``G = X X^T``, which stays the same over rounds. The update ``W0 - W = (1 - a) W0 + Z^T X`` is
one product at the end. Nothing is approximated; only the order of sums differs.
"""

import torch
from torch import Tensor

from fedha.batching.rows import Batch
from fedha.batching.updates import Updates
from fedha.config import TrainingConfig

# What moving one weight costs beside its products, in multiplications: a step reads and writes it several times.
_MOVING = 16


def pays(examples: int, inputs: int, steps: int, rows: int, training: TrainingConfig) -> bool:
    """Whether coefficients cost fewer multiplications a hidden unit than weights.

    Weights: outputs and gradient, 2 b F, and moving F weights, each step. Coefficients: b n (n n where L2 wants the
    norm of the weights) each step, the update n F, and where momentum or L2 move all of them, n each step.

    Args:
        examples: n, of a client.
        inputs: F, of the layer.
        steps: Local steps a round.
        rows: b, examples a step.
        training: The clients' optimiser, and L2. Adam moves weights out of the span, so there it never pays.
    """
    local, decay = training.local, training.weight_decay
    if local.optimizer != "sgd":
        return False
    weights = steps * inputs * (2 * rows + _MOVING)
    moving = _MOVING * examples if local.momentum or decay else 0
    coefficients = steps * (examples * (examples if decay else rows) + moving) + examples * inputs
    return coefficients < weights


class FirstLayer:
    """The first layer's weights of each client of a chunk, as coefficients of its examples."""

    def __init__(
        self,
        weight: Tensor,
        inputs: Tensor,
        products: Tensor,
        gram: Tensor | None,
        rate: float,
        momentum: float,
        decay: float,
    ) -> None:
        """Start at the shared weights.

        Args:
            weight: W0, [H, F].
            inputs: X of each client, [k, n, F], zeros beyond its own examples.
            products: B, [k, n, H].
            gram: G, [k, n, n]; None where one step is all that is taken.
            rate: r.
            momentum: m.
            decay: c.
        """
        self._weight, self._inputs, self._products, self._gram = weight.detach(), inputs, products, gram
        self._rate, self._momentum, self._decay = rate, momentum, decay
        self._share, self._speed_share = 1.0, 0.0  # a and p
        self._coefficients = torch.zeros_like(products)  # Z
        # Y; where nothing carries over from step to step the derivatives go into Z at once
        self._speed = torch.zeros_like(products) if momentum or decay else None
        self._square = float(self._weight.square().sum()) if decay else 0.0

    def outputs(self, batch: Batch) -> Tensor:
        """The layer's outputs on a batch without its bias, [k, b, H], a leaf."""
        products = batch.take(self._products)
        if self._gram is None:
            return products.detach().requires_grad_()
        gram, coefficients = batch.take(self._gram), self._coefficients[batch.clients]
        return torch.baddbmm(products, gram, coefficients, beta=self._share, alpha=-1).requires_grad_()

    def squared_norms(self, clients: slice) -> Tensor:
        """Each client's sum of squares of the weights, [k]: ``a^2 |W0|^2 - 2 a <Z, B> + <Z, G Z>``."""
        products, coefficients = self._products[clients], self._coefficients[clients]
        inner = -2 * self._share * products
        if self._gram is not None:
            inner = torch.baddbmm(inner, self._gram[clients], coefficients)
        squares: Tensor = self._share**2 * self._square + (coefficients * inner).flatten(1).sum(1)
        return squares

    def receive(self, batch: Batch, derivative: Tensor) -> None:
        """Note the derivative in a batch's outputs, [k, b, H], for the next step."""
        into = self._coefficients if self._speed is None else self._speed
        factor = self._rate if self._speed is None else 1.0
        if batch.flat is None:
            into[batch.clients].add_(derivative, alpha=factor)
        else:
            into.flatten(0, 1).index_add_(0, batch.flat, derivative.flatten(0, 1), alpha=factor)

    def step(self) -> None:
        """Move all clients by what was received since the last step."""
        self._speed_share = self._momentum * self._speed_share + self._decay * self._share
        self._share -= self._rate * self._speed_share
        if self._speed is not None:
            self._coefficients.add_(self._speed, alpha=self._rate)
            self._speed.mul_(self._momentum).sub_(self._coefficients, alpha=self._decay)

    def write(self, updates: Updates, name: str, clients: slice) -> None:
        """Hand over ``W0 - W`` of these clients as the update of the parameter of that name."""
        rest = None if self._share == 1 else (1 - self._share) * self._weight
        updates.product(name, self._coefficients[clients], self._inputs[clients], rest, clients)

    def bound(self) -> Tensor:
        """No entry of a client's update is larger than this, [k]; not finite where one might not be.

        By Cauchy and Schwarz an entry is at most ``|Z| |X|`` and the share of W0: nothing the size of the weights is
        read.
        """
        if self._gram is None:
            length = torch.linalg.vector_norm(self._inputs.flatten(1), dim=1)
        else:
            length = self._gram.diagonal(dim1=1, dim2=2).sum(1).sqrt()
        largest: Tensor = torch.linalg.vector_norm(self._coefficients.flatten(1), dim=1) * length
        return largest if self._share == 1 else largest + abs(1 - self._share) * self._weight.abs().amax()
