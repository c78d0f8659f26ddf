"""The published objectives: they see all domains at once and use nothing of `fedha.statistics`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call, hessian, vmap
from torch.func import grad as grad_of
from torch.nn import functional

from fedha.random_features import KERNELS, frequencies
from fedha.sketches import draw_signs
from tests.problems import PROBES, SEED, Problem

PARTS = ("featurizer.", "head.")


@dataclass(frozen=True)
class Live:
    """All domains at one model with their graph, and what the method remembers of earlier rounds."""

    head: Tensor  # [C, D], the bias in the last column; [P] for a head that is a network
    logits: Callable[[Tensor, Tensor], Tensor]  # of (head, features)
    features: list[Tensor]  # [n, D - 1] a domain
    labels: list[Tensor]
    names: list[str]
    round: int
    memory: dict[str, Any]

    def losses(self, place: int, head: Tensor) -> Tensor:
        return example_losses(self.logits(head, self.features[place]), self.labels[place])

    def risks(self) -> list[Tensor]:
        return [self.losses(place, self.head).mean() for place in range(len(self.names))]

    def pooled(self) -> Tensor:
        return mean(self.risks())

    def gradients(self) -> list[Tensor]:
        return [derivative(risk, self.head) for risk in self.risks()]

    def hessians(self) -> list[Tensor]:
        size = self.head.numel()
        return [
            hessian(lambda head, k=k: self.losses(k, head).mean())(self.head).reshape(size, size)
            for k in range(len(self.names))
        ]


def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits), reduction="none")
    return functional.cross_entropy(logits, labels, reduction="none")


def derivative(value: Tensor, at: Tensor) -> Tensor:
    return grad(value, at, create_graph=True)[0]


def mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(0)


def spread(values: Sequence[Tensor], reference: Tensor) -> Tensor:
    return mean([(value - reference).square().sum() for value in values])


def no_penalty(live: Live) -> Tensor:
    return live.head.new_zeros(())


def hgp(live: Live) -> Tensor:
    def products(risk: Tensor) -> tuple[Tensor, Tensor]:
        gradient = derivative(risk, live.head)
        return gradient, gradient.norm() * derivative(gradient.norm(), live.head)

    gradients, curvatures = zip(*map(products, live.risks()), strict=True)
    pooled = products(live.pooled())
    return spread(gradients, pooled[0].detach()) + spread(curvatures, pooled[1].detach())


def hutchinson(live: Live, shared: bool = False) -> Tensor:
    def estimate(risk: Tensor, owner: str) -> Tensor:
        gradient = derivative(risk, live.head)
        signs = draw_signs(SEED, live.round, PROBES, live.head.shape, None if shared else owner).to(live.head)
        return mean([sign * derivative((gradient * sign).sum(), live.head) for sign in signs])

    estimates = [estimate(risk, f"client {name}") for risk, name in zip(live.risks(), live.names, strict=True)]
    pooled = derivative(live.pooled(), live.head).detach()
    return spread(live.gradients(), pooled) + spread(estimates, estimate(live.pooled(), "reference").detach())


def hutchinson_expected(live: Live) -> Tensor:
    shrinkage = mean([off_diagonal(one).square().sum() for one in live.hessians()])
    return exact_diagonal(live) + shrinkage / PROBES


def hutchinson_shared_expected(live: Live) -> Tensor:
    rest = [off_diagonal(one) for one in live.hessians()]
    return exact_diagonal(live) + spread(rest, mean(rest)) / PROBES


def exact_diagonal(live: Live) -> Tensor:
    diagonals = [one.diagonal() for one in live.hessians()]
    return iga(live) + spread(diagonals, mean(diagonals))


def off_diagonal(matrix: Tensor) -> Tensor:
    return matrix * (1 - torch.eye(len(matrix), dtype=matrix.dtype))


def irm(live: Live) -> Tensor:
    scale = torch.ones((), dtype=live.head.dtype, requires_grad=True)
    logits = [live.logits(live.head, features) * scale for features in live.features]
    risks = [example_losses(*one).mean() for one in zip(logits, live.labels, strict=True)]
    return mean([derivative(risk, scale).square() for risk in risks])


def vrex(live: Live) -> Tensor:
    return torch.stack(live.risks()).var(correction=0)


def iga(live: Live) -> Tensor:
    gradients = live.gradients()
    return spread(gradients, mean(gradients))


def fish(live: Live) -> Tensor:
    gradients = torch.stack(live.gradients()).flatten(1)
    count = len(gradients)
    products = gradients @ gradients.T
    return -(products.sum() - products.trace()) / (count * (count - 1))


def fishr(live: Live, decay: float = 0.95) -> Tensor:
    """DomainBed's: a moving average of each domain's variance, corrected by 1 / (1 - decay)."""
    averages = []
    for place in range(len(live.names)):

        def one_loss(head: Tensor, features: Tensor, label: Tensor) -> Tensor:
            return example_losses(live.logits(head, features[None]), label[None])[0]

        each = vmap(grad_of(one_loss), in_dims=(None, 0, 0))(live.head, live.features[place], live.labels[place])
        variance = (each - each.mean(0)).square().mean(0)
        average = decay * live.memory.get(place, 0.0) + (1 - decay) * variance
        live.memory[place] = average.detach()
        averages.append(average / (1 - decay))
    return mean([(average - mean(averages)).square().mean() for average in averages])


def coral(live: Live) -> Tensor:
    """DomainBed's: over pairs of domains. The row's sum to the mean, times 2 E / (E - 1), is the same."""
    pairs = [(a, b) for place, a in enumerate(live.features) for b in live.features[place + 1 :]]
    means = [(a.mean(0) - b.mean(0)).square().mean() for a, b in pairs]
    covariances = [(a.T.cov() - b.T.cov()).square().mean() for a, b in pairs]
    count = len(live.names)
    return (mean(means) + mean(covariances)) * (count - 1) / (2 * count)


def fediir(live: Live, decay: float = 0.95) -> Tensor:
    gradients = live.gradients()
    moved = decay * live.memory.get("gradient", 0.0) + (1 - decay) * mean(gradients).detach()
    live.memory["gradient"] = moved
    return spread(gradients, moved)


def cma(live: Live) -> Tensor:
    gradients, hessians, size = live.gradients(), live.hessians(), live.head.numel()
    return spread(gradients, mean(gradients)) / size + spread(hessians, mean(hessians)) / size**2


def cma_diagonal(live: Live) -> Tensor:
    diagonals, size = [one.diagonal() for one in live.hessians()], live.head.numel()
    return (spread(live.gradients(), mean(live.gradients())) + spread(diagonals, mean(diagonals))) / size


def mmd(live: Live) -> Tensor:
    return distance_of_features(live, "representation", live.features)


def rdm(live: Live) -> Tensor:
    return distance_of_features(live, "losses", [live.losses(k, live.head)[:, None] for k in range(len(live.names))])


def distance_of_features(live: Live, what: str, values: list[Tensor]) -> Tensor:
    """By random features of the round; that they stand for the kernels is `test_random_features`."""
    width = values[0].shape[1]
    drawn = frequencies(SEED, live.round, what, KERNELS[what], PROBES, width).flatten(0, 1)
    phases = [one @ drawn.T for one in values]
    means = [torch.cat([one.cos(), one.sin()], 1).mean(0) / PROBES**0.5 for one in phases]
    return spread(means, mean(means))


def mine(live: Live) -> Tensor:
    centres = [features.mean(0) for features in live.features]
    return 0.5 * iga(live) + 2 * spread(centres, mean(centres)) + 3 * vrex(live)


PENALTIES: dict[str, Callable[[Live], Tensor]] = {
    "erm": no_penalty,
    "hgp": hgp,
    "hutchinson": hutchinson,
    "hutchinson_shared": lambda live: hutchinson(live, shared=True),
    "hutchinson_expected": hutchinson_expected,
    "hutchinson_shared_expected": hutchinson_shared_expected,
    "exact_diagonal": exact_diagonal,
    "irm": irm,
    "vrex": vrex,
    "iga": iga,
    "fish": fish,
    "fishr": fishr,
    "coral": coral,
    "mmd": mmd,
    "rdm": rdm,
    "groupdro": no_penalty,
    "afl": no_penalty,
    "fediir": fediir,
    "cma": cma,
    "cma_diagonal": cma_diagonal,
    "mine": mine,
}


def look(problem: Problem, parameters: dict[str, Tensor], round: int, memory: dict[str, Any]) -> Live:
    """All domains at these parameters, which require gradients."""
    own = {part: {n.removeprefix(part): v for n, v in parameters.items() if n.startswith(part)} for part in PARTS}
    featurizer, head = own["featurizer."], own["head."]

    def linear(matrix: Tensor, features: Tensor) -> Tensor:
        return features @ matrix[:, :-1].T + matrix[:, -1]

    def network(flat: Tensor, features: Tensor) -> Tensor:
        pieces = torch.split(flat, [value.numel() for value in head.values()])
        weights = {name: piece.reshape(head[name].shape) for name, piece in zip(head, pieces, strict=True)}
        return functional_call(problem.model.head, weights, (features,))

    if isinstance(problem.model.head, nn.Linear):
        point, logits = torch.cat([head["weight"], head["bias"][:, None]], 1), linear
    else:
        point, logits = torch.cat([value.flatten() for value in head.values()]), network
    return Live(
        point,
        logits,
        [functional_call(problem.model.featurizer, featurizer, (d.train.inputs,)) for d in problem.domains],
        [domain.train.labels for domain in problem.domains],
        [domain.name for domain in problem.domains],
        round,
        memory,
    )


def objective(name: str, live: Live, weight: float, step_size: float = 0.01) -> Tensor:
    """The centralised objective: the mean risk, or group DRO's worst-case mixture, plus the weighted penalty."""
    risks = torch.stack(live.risks())
    if name == "groupdro":
        mixture = (
            live.memory.get("mixture", torch.full_like(risks, 1 / len(risks))) * (step_size * risks.detach()).exp()
        )
        live.memory["mixture"] = mixture / mixture.sum()
        return live.memory["mixture"] @ risks
    if name == "afl":
        mixture = live.memory.get("mixture", torch.full_like(risks, 1 / len(risks))) + step_size * risks.detach()
        live.memory["mixture"] = mixture - (mixture.sum() - 1) / len(risks)  # within the simplex: all stay positive
        return live.memory["mixture"] @ risks
    return risks.mean() + weight * PENALTIES[name](live)


def leaves(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
