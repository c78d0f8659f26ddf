"""What the attacker knows beside what was sent, and what the attack may cost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedha.audit.inversion import Inversion
from fedha.data.domain import Examples
from fedha.models.split import SplitModel

Predict = Callable[[Examples], Tensor]  # n of them to logits [n, C]
Train = Callable[[Mapping[int, Examples], int], Predict]  # every client's training examples, the shadow's number


@dataclass(frozen=True)
class Attacker:
    """An honest-but-curious server, or whoever reads what it reads.

    Attributes:
        classes: C, which everyone knows.
        model: The network's structure, which every participant knows; parameters come with each release.
        public: Labelled examples that the attacker has, of no client, for the public prior; None for none.
        weight_decay: L2 of the training config: its derivative, ``2 * weight_decay * parameters``, is taken off an
            update,
        decay: of what is decayed, as `training.decay` says.
        update_scale: What a local update is divided by to be a mean gradient: learning rate times steps, of plain SGD;
            None where the update is no such sum (Adam, momentum), which then tells nothing of head gradients.
        averaged: Statistics that clients send with a moving average added; the closed forms leave them alone.
        inversion: Budget and priors of image recovery.
        inversion_examples: Batches up to this size are inverted.
        inversions: At most so many releases are inverted, of the earliest rounds: they cost seconds each.
        train: Trains a shadow model as the federation would have, on other examples; None: no LiRA.
        shadows: Shadow models, an even number of 4 or more.
        seed: Of shadows, restarts and resamples.
        unasked: Why no client answers heads of a diagnosis; "": those may whose contracts say so.
    """

    classes: int
    model: SplitModel | None = None
    public: Examples | None = None
    weight_decay: float = 0.0
    decay: str = "all"
    update_scale: float | None = None
    averaged: frozenset[str] = frozenset()
    inversion: Inversion = field(default_factory=Inversion)
    inversion_examples: int = 8
    inversions: int = 8
    train: Train | None = None
    shadows: int = 8
    seed: int = 0
    unasked: str = ""
