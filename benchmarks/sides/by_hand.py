"""A hand-written loop in DomainBed's way: all domains at hand, one concatenated forward pass, the penalty by autograd.

The losses are those of its algorithms.py where it has them; HGP is written with its authors' norm trick, and the exact
diagonal, which nobody published a loop of, in closed form.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedha.data.domain import Domain
from fedha.models import SplitModel

Loss = Callable[[SplitModel, Tensor, Tensor, Sequence[int]], Tensor]


def _erm(model: SplitModel, features: Tensor, labels: Tensor, sizes: Sequence[int]) -> Tensor:
    return functional.cross_entropy(model.head(features), labels)


def _risks(model: SplitModel, features: Tensor, labels: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    logits = model.head(features)
    pairs = zip(logits.split(sizes), labels.split(sizes), strict=True)
    return [functional.cross_entropy(*one) for one in pairs]


def _vrex(model: SplitModel, features: Tensor, labels: Tensor, sizes: Sequence[int]) -> Tensor:
    risks = torch.stack(_risks(model, features, labels, sizes))
    return risks.mean() + ((risks - risks.mean()) ** 2).mean()


def _coral(model: SplitModel, features: Tensor, labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """Each domain through the head by itself, as DomainBed's AbstractMMD does."""
    risks, parts, count = [], features.split(sizes), len(sizes)
    penalty = features.new_zeros(())
    for one, truth in zip(parts, labels.split(sizes), strict=True):
        risks.append(functional.cross_entropy(model.head(one), truth))
    for i in range(count):
        for j in range(i + 1, count):
            x, y = parts[i], parts[j]
            centred_x, centred_y = x - x.mean(0), y - y.mean(0)
            apart = centred_x.T @ centred_x / (len(x) - 1) - centred_y.T @ centred_y / (len(y) - 1)
            penalty = penalty + (x.mean(0) - y.mean(0)).pow(2).mean() + apart.pow(2).mean()
    # DomainBed's mean over pairs, count (count - 1) / 2, is 2 count / (count - 1) times fedha's mean over domains
    return torch.stack(risks).mean() + penalty / count**2


def _spread(own: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean squared distance of the domains' tensors from their mean."""
    means = [torch.stack(column).mean(0) for column in zip(*own, strict=True)]
    apart = [(value - mean).pow(2).sum() for one in own for value, mean in zip(one, means, strict=True)]
    return torch.stack(apart).sum() / len(own)


def _gradients(risks: Sequence[Tensor], head: Sequence[nn.Parameter]) -> list[tuple[Tensor, ...]]:
    return [torch.autograd.grad(risk, head, create_graph=True) for risk in risks]


def _iga(model: SplitModel, features: Tensor, labels: Tensor, sizes: Sequence[int]) -> Tensor:
    risks = _risks(model, features, labels, sizes)
    return torch.stack(risks).mean() + _spread(_gradients(risks, list(model.head.parameters())))


def _hgp(model: SplitModel, features: Tensor, labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """Each domain's product is held against that of the mean Hessian and the mean gradient, as the paper has it."""
    head, risks = list(model.head.parameters()), _risks(model, features, labels, sizes)
    slopes = _gradients(risks, head)
    means = [torch.stack(column).mean(0) for column in zip(*slopes, strict=True)]
    along = torch.stack([(mean * mean.detach()).sum() for mean in means]).sum()
    pooled = torch.autograd.grad(along, head, retain_graph=True)
    halves = [torch.stack([value.pow(2).sum() for value in one]).sum() / 2 for one in slopes]
    products = _gradients(halves, head)
    apart = [(value - mean).pow(2).sum() for one in products for value, mean in zip(one, pooled, strict=True)]
    return torch.stack(risks).mean() + _spread(slopes) + torch.stack(apart).sum() / len(products)


def _exact_diagonal(model: SplitModel, features: Tensor, labels: Tensor, sizes: Sequence[int]) -> Tensor:
    logits, curved = model.head(features), []
    pairs = list(zip(logits.split(sizes), labels.split(sizes), strict=True))
    risks = [functional.cross_entropy(*one) for one in pairs]
    for own, (values, _) in zip(features.split(sizes), pairs, strict=True):
        chances = values.softmax(1)
        variances = chances * (1 - chances) / len(own)
        curved.append((variances.T @ own.square(), variances.sum(0)))
    return torch.stack(risks).mean() + _spread(_gradients(risks, list(model.head.parameters()))) + _spread(curved)


BY_HAND: dict[str, Loss] = {
    "erm": _erm,
    "vrex": _vrex,
    "coral": _coral,
    "iga": _iga,
    "hgp": _hgp,
    "exact_diagonal": _exact_diagonal,
}


def steps(model: SplitModel, sources: Sequence[Domain], recipe: str, rows: int, rate: float) -> Iterator[None]:
    """One step each time.

    Args:
        model: On its device; trained in place.
        sources: With inputs in memory, on the same device.
        recipe: One of `BY_HAND`.
        rows: Drawn of each domain in a step; all where it has no more.
        rate: Adam's.
    """
    optimizer, draws = torch.optim.Adam(model.parameters(), lr=rate), torch.Generator().manual_seed(2)
    sizes = [min(rows, len(one.train)) for one in sources]
    while True:
        chosen = [torch.randperm(len(one.train), generator=draws)[:rows] for one in sources]
        inputs = torch.cat([one.train.take(own) for one, own in zip(sources, chosen, strict=True)])
        labels = torch.cat([one.train.labels[own] for one, own in zip(sources, chosen, strict=True)])
        loss = BY_HAND[recipe](model, model.featurizer(inputs), labels, sizes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # DomainBed notes it each step
        yield
