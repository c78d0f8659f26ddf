"""Was this example trained on? Loss threshold and likelihood ratio on a final model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedha.cross_entropy import losses
from fedha.data.examples import Examples, joined
from fedha.randomness import generator


def loss_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Higher for what the model fits better: the negative loss, [n].

    Args:
        logits: [n, C], or one logit, [n, 1].
        labels: [n].

    Source:
        Yeom et al., "Privacy Risk in Machine Learning" (CSF 2018): members are those below a threshold on the loss.
    """
    return -losses(logits, labels)


def confidences(logits: Tensor, labels: Tensor) -> Tensor:
    """``log(p_y / (1 - p_y))``, [n]: about normal over models, unlike the loss.

    Args:
        logits: [n, C], or one logit, [n, 1].
        labels: [n].
    """
    if logits.shape[1] == 1:
        return torch.where(labels > 0, logits[:, 0], -logits[:, 0])
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)


def shadow_halves(examples: int, shadows: int, seed: int, *key: int | str) -> Tensor:
    """Who is in which shadow model: [shadows, n], true for in; everyone is in exactly half of them.

    Args:
        examples: n.
        shadows: An even number, 4 or more: two a side are the least that a spread can be told from.
        seed: Of the halves, with `key`.
        key: Whose examples they are.

    Raises:
        ValueError: An odd number, or under 4.
    """
    if shadows < 4 or shadows % 2:
        raise ValueError(f"shadows is {shadows}; take an even number of 4 or more, so that each example is in half")
    halves = []
    for pair in range(shadows // 2):
        order = torch.randperm(examples, generator=generator(seed, "shadow", *key, pair))
        inside = torch.zeros(examples, dtype=torch.bool)
        inside[order[: examples // 2]] = True
        halves += [inside, ~inside]
    return torch.stack(halves)


@dataclass(frozen=True)
class Question:
    """What shadow models are asked of one client.

    Attributes:
        candidates: The examples in question, n.
        always: In every shadow, so that shadows have as many examples as the model under attack; may be empty.
        inside: Who of the candidates is in which shadow, [shadows, n].
    """

    candidates: Examples
    always: Examples
    inside: Tensor

    def part(self, number: int) -> Examples:
        """The client's training examples in a shadow."""
        own, always = self.candidates.select(self.inside[number]), self.always
        return joined([always, own])


def shadow_confidences(
    train: Callable[[Mapping[int, Examples], int], Callable[[Examples], Tensor]], questions: Mapping[int, Question]
) -> dict[int, Tensor]:
    """Train the shadow models, and ask each how sure it is of every candidate: [shadows, n] by client.

    Each shadow serves all clients: its examples are drawn anew at each of them.

    Args:
        train: Every client's examples and the shadow's number to a function from examples to logits: the
            federation's own training.
        questions: By client; of the same number of shadows.
    """
    rows: dict[int, list[Tensor]] = {client: [] for client in questions}
    for number in range(max((len(one.inside) for one in questions.values()), default=0)):
        predict = train({client: one.part(number) for client, one in questions.items()}, number)
        for client, one in questions.items():
            known = one.candidates
            rows[client].append(confidences(predict(known), known.labels).detach())
    return {client: torch.stack(found) for client, found in rows.items()}


def likelihood_ratios(target: Tensor, shadows: Tensor, inside: Tensor) -> Tensor:
    """How much likelier a confidence is for a model that was trained on the example: log of two normal densities.

    Each example has its own two means, over the shadows with and without it; the two deviations are shared by all
    examples, because few shadows tell no deviation of one.

    Args:
        target: The attacked model's confidences, [n].
        shadows: The shadow models', [shadows, n].
        inside: Who was in which, [shadows, n]; every column has two or more of both.

    Returns:
        [n], higher for members, in nats.

    Source:
        Carlini et al., "Membership Inference Attacks From First Principles" (IEEE S&P 2022): LiRA, online, with the
        global variance that they advise for few shadow models.
    """
    target, shadows = target.double(), shadows.double()
    densities = []
    for side in (inside, ~inside):
        count = side.sum(0)
        mean = torch.where(side, shadows, 0.0).sum(0) / count
        squares = torch.where(side, (shadows - mean).square(), 0.0).sum() / (count - 1).sum()
        variance = squares.clamp(min=1e-12)
        densities.append(-0.5 * (target - mean).square() / variance - 0.5 * variance.log())
    return densities[0] - densities[1]


def balanced(members: int, others: int, seed: int) -> tuple[Tensor, Tensor]:
    """Places of the members that are candidates, as many as there are others, and of those that stay in every shadow.

    Args:
        members: How many examples the model was trained on.
        others: How many non-members there are.
        seed: Of the choice.
    """
    order: Sequence[Tensor] = torch.randperm(members, generator=generator(seed, "candidates")).split(
        [min(members, others), max(0, members - others)]
    )
    return order[0], order[1]
