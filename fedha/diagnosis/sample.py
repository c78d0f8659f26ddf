"""Features and labels of one domain, and what it answers, in chunks: memory beside the features is flat in n."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedha.diagnosis.lanczos import extremes, start_vectors
from fedha.diagnosis.party import Answers, Party, Sizes
from fedha.errors import FedhaError

CHUNK_NUMBERS = 2**20  # of a chunk's logits: 8 MB, and of its features
LEAST_ROWS = 256
_STEPS, _WIDTH = 30, 0.1  # of Lanczos, for a domain's own largest eigenvalues, whose upper ends alone are used


@dataclass(frozen=True)
class Sample:
    """One domain's examples at a learned head.

    Attributes:
        name: The domain.
        features: With a last column of ones, [n, D], float64, n >= 1.
        labels: Class indices, [n].
        head: The learned head, [C, D], float64; one row is the binary logistic head.
        classes: Of the labels.
        groups: Which group an example is in, [n]; None: each stands for itself.
    """

    name: str
    features: Tensor
    labels: Tensor
    head: Tensor
    classes: int
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.features) == 0:
            raise FedhaError(f"domain {self.name!r} has no examples to diagnose; leave it out, or add data")
        if self.features.shape[1] != self.head.shape[1]:
            raise FedhaError(
                f"features of {self.name!r} have {self.features.shape[1]} columns but the head {self.head.shape[1]}; "
                "append a column of ones for the bias"
            )

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, columns: int) -> Iterator[slice]:
        """Stretches of rows that are worked on at once, for so many numbers an example."""
        step = max(LEAST_ROWS, CHUNK_NUMBERS // max(columns, self.features.shape[1]))
        yield from (slice(start, start + step) for start in range(0, len(self), step))

    def heads(self, at: Tensor) -> Answers:
        """Risks, gradients and accuracies at heads, [K, C, D]."""
        count, outputs, width = at.shape
        flat = at.reshape(count * outputs, width)
        risks, hits = at.new_zeros(count), at.new_zeros(count)
        gradients = torch.zeros_like(flat)
        for rows in self.rows(count * outputs):
            features, labels = self.features[rows], self.labels[rows]
            logits = (features @ flat.T).view(-1, count, outputs)
            losses, correct, residuals = _told(logits, labels)
            risks += losses.sum(0)
            hits += correct.sum(0)
            gradients.addmm_(residuals.reshape(-1, count * outputs).T, features)
        return Answers(risks / len(self), gradients.view_as(at) / len(self), hits / len(self))

    def directions(self, along: Tensor, weights: Tensor | None = None) -> Tensor:
        """Products of the Hessian at the learned head with directions, [m, C, D].

        Args:
            along: Directions.
            weights: Of the examples, for each direction its own, [m, n]; default: 1 / n each, which is the mean.
        """
        count, outputs, width = along.shape
        flat = along.reshape(count * outputs, width)
        total = torch.zeros_like(flat)
        for rows in self.rows(count * outputs):
            features = self.features[rows]
            moved = (features @ flat.T).view(-1, count, outputs)
            changes = _changes(self.probabilities(rows)[:, None], moved)
            if weights is not None:
                changes *= weights[:, rows].T[:, :, None]
            total.addmm_(changes.reshape(-1, count * outputs).T, features)
        return total.view_as(along) if weights is not None else total.view_as(along) / len(self)

    def probabilities(self, rows: slice = slice(None)) -> Tensor:
        """The learned head's, [n, C]."""
        return probabilities(self.features[rows] @ self.head.T)

    def moment_products(self, along: Tensor) -> Tensor:
        """Products of ``mean z z^T`` with vectors, [m, D]."""
        total = torch.zeros_like(along)
        for rows in self.rows(len(along)):
            features = self.features[rows]
            total.addmm_((features @ along.T).T, features)
        return total / len(self)

    def hessian(self) -> Tensor:
        """The whole Hessian, [P, P]; for heads of few weights."""
        outputs, width = self.head.shape
        unit = torch.eye(outputs * width, dtype=self.head.dtype)
        step = max(1, CHUNK_NUMBERS // (LEAST_ROWS * outputs))
        parts = [self.directions(some.view(-1, outputs, width)) for some in unit.split(step)]
        whole = torch.cat(parts).view(len(unit), len(unit))
        return (whole + whole.T) / 2

    def party(self) -> Party:
        """The domain as a diagnosis sees it."""
        return Party(self.name, self.heads, self.directions, self.sizes())

    def sizes(self) -> Sizes:
        """Numbers about the features; the eigenvalues are upper ends that fail with a probability of 1e-6."""
        lengths = torch.cat([self.features[rows].norm(dim=1) for rows in self.rows(1)])
        width = self.features.shape[1]
        start = start_vectors(1, (width,), 0, "moment", self.name)
        moment = extremes(self.moment_products, start, width, steps=_STEPS, tolerance=1e-2, width=_WIDTH)
        shape = tuple(self.head.shape)
        dimensions = free_dimensions(shape)
        hessian = extremes(
            self.directions,
            start_vectors(1, shape, 0, "hessian", self.name),
            dimensions,
            steps=_STEPS,
            tolerance=1e-2,
            width=_WIDTH,
        )
        half = curvature_of_loss(shape[0])
        top_moment = min(moment[0].high_end, float((lengths**2).mean()))
        return Sizes(
            len(self),
            float((lengths**2).mean()),
            float((lengths**3).mean()),
            float(lengths.max()),
            top_moment,
            min(hessian[0].high_end, half * top_moment),
        )


def logit_unit(samples: Sequence[Sample]) -> float:
    """The radius that is one logit unit, in weights of the head: a head so far away moves a typical logit by 1."""
    squares = sum(float((one.features[rows] ** 2).sum()) for one in samples for rows in one.rows(1))
    return math.sqrt(sum(len(one) for one in samples) / squares)


def probabilities(logits: Tensor) -> Tensor:
    """Of the classes, or with a single logit of class 1."""
    return logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)


def curvature_of_loss(outputs: int) -> float:
    """The largest curvature that the loss of one example can have in its logits: ½, or ¼ of a single logit."""
    return 0.25 if outputs == 1 else 0.5


def free_dimensions(shape: tuple[int, ...]) -> int:
    """Dimensions of head space that predictions feel: adding one vector to all rows of a softmax changes nothing."""
    outputs, width = shape
    return width if outputs == 1 else (outputs - 1) * width


def _told(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses and hits, [n, K], and residuals, [n, K, C]; the logits are written over."""
    if logits.shape[-1] == 1:
        single = logits[..., 0]
        target = labels[:, None].to(single.dtype)
        losses = functional.softplus(single) - target * single
        correct = (single > 0) == (target > 0.5)
        return losses, correct.to(single.dtype), (single.sigmoid() - target)[..., None]
    picked = labels[:, None, None].expand(-1, logits.shape[1], 1)
    own = logits.gather(2, picked)[..., 0]
    correct = logits.argmax(2) == labels[:, None]
    total = logits.logsumexp(2)
    residuals = logits.sub_(total[..., None]).exp_()
    residuals.scatter_add_(2, picked, residuals.new_full(picked.shape, -1.0))
    return total - own, correct.to(own.dtype), residuals


def _changes(known: Tensor, moved: Tensor) -> Tensor:
    """How residuals change as logits move, [n, m, C]."""
    if moved.shape[-1] == 1:
        return known * (1 - known) * moved
    return known * (moved - (known * moved).sum(-1, keepdim=True))
