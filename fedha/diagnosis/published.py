"""The attack as it was published: Adam on minibatches pulls the largest domain's risk away from the smallest's.

Zhang, Zhao, Yu and Poupart, NeurIPS 2021, as their script does it: each domain is split 80/20 once; at every step the
two domains are those of the largest and smallest risk on minibatches of the 80 %; the head is projected back into the
ball; after each epoch all domains are looked at on the 20 %. Its end is what a fixed number of steps reaches, which may
lie well inside the ball, so the distance is told beside it. It is here to be compared with `fedha.diagnosis.attack`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedha.diagnosis.sample import Sample
from fedha.randomness import generator

EPOCHS = 10
BATCH = 64  # examples of a domain in a step
RATE = 1e-3  # of Adam
LEARNED_FROM = 0.8  # of each domain; the rest is looked at


@dataclass(frozen=True)
class Published:
    """The epoch with the largest gap that the attack came to in one ball.

    Attributes:
        radius: Of the ball.
        distance: Of the head from the learned one.
        gap: Risk of `largest` minus risk of `smallest` there, on the examples that are looked at.
        largest: The domain of the largest risk.
        smallest: Of the smallest.
        risks: Of every domain, at the learned head and there.
        accuracies: Likewise, fractions.
    """

    radius: float
    distance: float
    gap: float
    largest: str
    smallest: str
    risks: Mapping[str, tuple[float, float]]
    accuracies: Mapping[str, tuple[float, float]]


def published(samples: Sequence[Sample], head: Tensor, radius: float, *, seed: int) -> Published:
    """Run the published attack on all domains, the target among them.

    Args:
        samples: Two domains or more.
        head: The learned head, [C, D].
        radius: Of the ball around it, in weights of the head.
        seed: Of the splits and minibatches.
    """
    parts = [_split(one, seed) for one in samples]
    looked_at = [one for _, one in parts]
    start = _looked(looked_at, head)
    best, found = -1.0, (head, start)
    for at in _epochs([one for one, _ in parts], head, radius, seed):
        told = _looked(looked_at, at)
        gap = float(told[0].max() - told[0].min())
        if gap > best:
            best, found = gap, (at, told)
    at, (risks, accuracies) = found
    names = [one.name for one in samples]
    return Published(
        radius,
        float((at - head).norm()),
        best,
        names[int(risks.argmax())],
        names[int(risks.argmin())],
        {name: (float(start[0][place]), float(risks[place])) for place, name in enumerate(names)},
        {name: (float(start[1][place]), float(accuracies[place])) for place, name in enumerate(names)},
    )


def _split(one: Sample, seed: int) -> tuple[Sample, Sample]:
    """The examples that are learned from, and those that are looked at; of a single one both."""
    order = torch.randperm(len(one), generator=generator(seed, "published", one.name))
    cut = min(max(1, int(LEARNED_FROM * len(one))), max(1, len(one) - 1))
    return _of(one, order[:cut]), _of(one, order[cut:] if len(one) > 1 else order)


def _of(one: Sample, rows: Tensor) -> Sample:
    return Sample(one.name, one.features[rows], one.labels[rows], one.head, one.classes)


def _looked(samples: Sequence[Sample], at: Tensor) -> tuple[Tensor, Tensor]:
    answers = [one.heads(at[None]) for one in samples]
    return torch.cat([one.risks for one in answers]), torch.cat([one.accuracies for one in answers])


def _epochs(samples: Sequence[Sample], head: Tensor, radius: float, seed: int) -> Iterator[Tensor]:
    """The head after each epoch."""
    at = head.clone()
    optimizer = torch.optim.Adam([at], lr=RATE)
    draws = [generator(seed, "published", "batches", one.name) for one in samples]
    for _ in range(EPOCHS):
        for _ in range(min(len(one) for one in samples) // BATCH + 1):
            answers = []
            for one, drawn in zip(samples, draws, strict=True):
                rows = torch.randint(len(one), (min(BATCH, len(one)),), generator=drawn)
                answers.append(_of(one, rows).heads(at[None]))
            risks = torch.cat([one.risks for one in answers])
            at.grad = answers[int(risks.argmin())].gradients[0] - answers[int(risks.argmax())].gradients[0]
            optimizer.step()
            moved = at - head
            at.copy_(head + moved * min(1.0, radius / max(float(moved.norm()), 1e-300)))
        yield at.clone()
