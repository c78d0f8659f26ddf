"""What one example adds, written out in full: autograd on that example alone, nothing factored."""

from collections.abc import Callable, Mapping

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad

from tests.linear_clients import Client, hessian_twin, make_client, risk_twin

Term = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def gradient_term(head: Tensor, row: Tensor, label: Tensor, _: Tensor) -> Tensor:
    return grad(risk_twin)(head, row, label)


def curvature_term(head: Tensor, row: Tensor, label: Tensor, _: Tensor) -> Tensor:
    return hessian_twin(head, row, label).diagonal().reshape(head.shape)


def product_term(head: Tensor, row: Tensor, label: Tensor, vector: Tensor) -> Tensor:
    return (hessian_twin(head, row, label) @ vector.flatten()).reshape(head.shape)


def hit_term(head: Tensor, row: Tensor, label: Tensor, _: Tensor) -> Tensor:
    logits = row @ head.T
    if len(head) == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    return (logits.argmax(1) == label).double()


TERMS: Mapping[str, Term] = {
    "risk": lambda head, row, label, _: risk_twin(head, row, label),
    "accuracy": hit_term,
    "gradient": gradient_term,
    "hessian_diagonal": curvature_term,
    "pooled_gradient_hessian_product": product_term,
    "squared_gradient": lambda *example: gradient_term(*example).square(),
    "scale_gradient": lambda head, row, label, _: grad(lambda s: risk_twin(s * head, row, label))(head.new_ones(())),
    "feature_mean": lambda head, row, label, _: row[0, :-1],
    "feature_square": lambda head, row, label, _: torch.outer(row[0, :-1], row[0, :-1]),
}


def terms(name: str, client: Client, vector: Tensor) -> Tensor:
    """Every example's own term, flat: [n, U * V]."""
    pairs = zip(client.features, client.labels, strict=True)
    return torch.stack([TERMS[name](client.head, row[None], label[None], vector).flatten() for row, label in pairs])


def make_vector(client: Client, seed: int = 5) -> Tensor:
    return torch.randn(client.head.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clients() -> st.SearchStrategy[Client]:
    """Softmax and one-logit heads; examples of very different size."""
    return st.builds(make_client, st.integers(0, 2**31), st.integers(1, 4), st.integers(2, 6), st.integers(2, 4))
