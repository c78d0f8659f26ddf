"""A representation that is a Gaussian of each example, as FedSR's: the featurizer gives its mean and its spread.

The head draws one vector of it for every example while it is trained, and takes the mean where it is evaluated. It also
holds what each class' representation is compared with, which is trained and averaged with the rest.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedha.errors import FedhaError
from fedha.models.split import SplitModel


class GaussianHead(nn.Module):
    """A linear head on a draw of each example's Gaussian.

    Attributes:
        linear: From a draw to the logits.
        reference_mean: Of each class, [C, Z].
        reference_spread: Likewise, before it is made positive.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)
        self.reference_mean = nn.Parameter(torch.zeros(classes, width))
        self.reference_spread = nn.Parameter(torch.ones(classes, width))

    def forward(self, features: Tensor) -> Tensor:
        """Logits, [n, C], of means and spreads side by side, [n, 2 Z]."""
        mean, spread = mean_and_spread(features)
        logits: Tensor = self.linear(mean + spread * torch.randn_like(mean) if self.training else mean)
        return logits


def gaussian(model: SplitModel) -> SplitModel:
    """The same network with such a representation: one linear layer more, and another head.

    Args:
        model: Its head is one linear layer.

    Raises:
        FedhaError: It is not.
    """
    if not isinstance(model.head, nn.Linear):
        raise FedhaError(
            f"model.representation is 'gaussian', which takes a network whose head is one linear layer, not a "
            f"{type(model.head).__name__}; leave model.head_hidden out, or take another recipe"
        )
    width, like = model.head.in_features, model.head.weight
    featurizer = nn.Sequential(model.featurizer, nn.Linear(width, 2 * width)).to(like.device, like.dtype)
    head = GaussianHead(width, model.head.out_features).to(like.device, like.dtype)
    made = SplitModel(featurizer, head, batch_norm=model.batch_norm)
    made.remarks = model.remarks
    return made


def mean_and_spread(features: Tensor) -> tuple[Tensor, Tensor]:
    """The halves of what the featurizer gives, [n, Z] each; a spread is positive."""
    mean, spread = features.chunk(2, -1)
    return mean, functional.softplus(spread)


def mean_square(features: Tensor) -> Tensor:
    """The expected squared norm of a draw, mean over examples.

    Args:
        features: Means and spreads side by side, [n, 2 Z].

    Source:
        Nguyen, Torr, Lim, "FedSR: A simple and effective domain generalization method for federated learning" (NeurIPS
        2022), its L2R regulariser, in closed form.
    """
    mean, spread = mean_and_spread(features)
    return (mean.square() + spread.square()).sum(-1).mean()


def information(features: Tensor, labels: Tensor, reference_mean: Tensor, reference_spread: Tensor) -> Tensor:
    """The divergence of each example's Gaussian from its class', mean over examples, in nats.

    Args:
        features: As in `mean_square`.
        labels: Class indices, [n].
        reference_mean, reference_spread: Of `GaussianHead`, [C, Z].

    Source:
        As there, its CMI regulariser: an upper bound of the information that the representation has of the example
        beyond its class. The authors' code also learns a factor of the representation, which the paper does not have.
    """
    mean, spread = mean_and_spread(features)
    centre, width = reference_mean[labels], functional.softplus(reference_spread)[labels]
    ratio = (spread.square() + (mean - centre).square()) / (2 * width.square())
    return (width.log() - spread.log() + ratio - 0.5).sum(-1).mean()
