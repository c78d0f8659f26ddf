"""Losses of one example: the risk, and the alignment penalty as its tangent at what was released.

The penalty ``P(m)`` of a client, such as ``weight * |s(m) - reference|^2``, is a function of its moments' means
``m = mean_i t_i``, not a sum over examples, so its gradient cannot be clipped an example at a time. By the chain rule

    d P(m(theta)) / d theta = <P'(m), d m / d theta> = mean_i d <P'(m), t_i(theta)> / d theta,

with ``P'(m)``, of m's shape, held constant. Let ``m~`` be the noisy moments that the client has released this round.
Whatever is computed from them is public, so ``u = P'(m~)`` is a public constant, and

    loss_i(theta) = risk_i(theta) + <u, t_i(theta)>

depends on example i alone: DP-SGD on it is ordinary DP-SGD, with the guarantee of its clipping and noise. For the
squared distance, ``u = 2 weight (m~ - reference)``. Where ``m~ = m(theta)`` the mean gradient is the exact one. They
differ

- by the release's noise: for a quadratic P, P' is affine, and the noise is independent of the round's first theta, so
  the first step's gradient is exact on average over the noise (before clipping);
- by clipping: the pull is that of the clipped means;
- because theta has moved since the release (local steps): the pull is the round's first one, as old as its reference.

With the undisturbed m instead, every example's term would depend on all others through u: nothing would bound what one
example can do, and no epsilon could be given.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.func import grad

from fedha.cross_entropy import losses
from fedha.errors import FedhaError
from fedha.models.split import SplitModel, with_bias
from fedha.privacy.loss import Loss
from fedha.privacy.moments import Batch, measure
from fedha.targets import Soften, as_they_are

Penalty = Callable[[dict[str, Tensor]], Tensor]


def risk_loss(model: SplitModel, soften: Soften = as_they_are) -> Loss:
    """Negative log-likelihood of each example, for any head; `soften` makes targets of labels."""
    return Loss(model, lambda features, logits, labels: losses(logits, soften(labels)))


def pulls(penalty: Penalty, released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``P'`` at the released moments: where each moment is pulled, with what force.

    Args:
        penalty: P, the weighted penalty as a scalar function of the moments' means (see `releasable.derive`).
        released: The client's own release of this round, by moment; nothing else of its data may enter.

    Returns:
        Like `released`.
    """
    directions: dict[str, Tensor] = grad(penalty)({name: value.detach() for name, value in released.items()})
    return directions


def check_head(model: SplitModel) -> None:
    """Refuse a head whose statistics are no outer products.

    Raises:
        FedhaError: It is not linear, or has no bias.
    """
    if not isinstance(model.head, nn.Linear) or model.head.bias is None:
        raise FedhaError(
            f"alignment with example-level privacy needs a linear head with a bias, not {type(model.head).__name__}; "
            "leave model.head_hidden empty, or take recipe erm"
        )


def aligned_loss(
    model: SplitModel, directions: Mapping[str, Tensor], vector: Tensor | None = None, soften: Soften = as_they_are
) -> Loss:
    """``risk_i + sum_k <u_k, t_ki>`` of each example.

    Args:
        model: With a linear head with a bias.
        directions: u by moment, [U, V] each, from `pulls`.
        vector: The pooled gradient, where the Hessian-vector product is among the moments.
        soften: What makes targets of labels.

    Raises:
        FedhaError: The head is not linear, so its statistics are no outer products.
    """
    check_head(model)
    constants = {name: value.detach() for name, value in directions.items()}

    def of(features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        targets = soften(labels)
        batch = Batch(with_bias(features), logits, targets, vector)
        value = losses(logits, targets)
        for name, moment in measure(constants, batch).items():
            value = value + moment.along(constants[name].to(features.dtype))
        return value

    return Loss(model, of)
