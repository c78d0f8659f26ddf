"""Clients of a linear head, drawn; and twins of their risk and Hessian by autograd."""

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.func import hessian as autograd_hessian


class Client(NamedTuple):
    head: Tensor
    features: Tensor
    labels: Tensor


def make_client(seed: int, classes: int, examples: int, width: int) -> Client:
    draws = torch.Generator().manual_seed(seed)
    features = torch.randn(examples, width, generator=draws, dtype=torch.float64)
    features[:, -1] = 1
    labels = torch.randint(0, max(classes, 2), (examples,), generator=draws)
    return Client(torch.randn(classes, width, generator=draws, dtype=torch.float64), features, labels)


HEADS = st.integers(1, 4)


def clients(classes: st.SearchStrategy[int] = HEADS) -> st.SearchStrategy[Client]:
    """C = 1 is the one-logit head; fewer and more examples than classes and than weights occur."""
    return st.builds(make_client, st.integers(0, 2**31), classes, st.integers(2, 6), st.integers(2, 4))


def risk_twin(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    logits = features @ head.T
    if len(head) == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    scores = logits.exp()
    return -(scores / scores.sum(1, keepdim=True)).log()[torch.arange(len(labels)), labels].mean()


def hessian_twin(head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    return autograd_hessian(risk_twin)(head, features, labels).reshape(head.numel(), head.numel())
