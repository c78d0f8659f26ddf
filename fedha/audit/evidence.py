"""What an attacker reads off one release: the head's gradient and curvature, wherever they stand in it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedha.audit.attacker import Attacker
from fedha.audit.sent import Sent
from fedha.models.split import head_matrix
from fedha.optimizers import is_decayed

DIAGONALS = ("hessian_diagonal", "hutchinson_diagonal_shared", "hutchinson_diagonal")  # the best first


@dataclass(frozen=True)
class Evidence:
    """What the closed forms need, each None where it was not sent.

    Attributes:
        gradient: Of the risk in the head, [C, D].
        diagonal: Of the Hessian in the head, [C, D].
        exact: Whether the diagonal is exact, or Hutchinson's estimate.
        variance: Of the example gradients, [C, D].
        feature_mean: [D - 1].
        source: Where the gradient was read: "gradient" or "update"; "" for none.
        missing: Why something is None, by attribute, in a sentence.
    """

    gradient: Tensor | None
    diagonal: Tensor | None
    exact: bool
    variance: Tensor | None
    feature_mean: Tensor | None
    source: str
    missing: Mapping[str, str]


def collect(sent: Sent, attacker: Attacker) -> Evidence:
    """Read a release.

    A gradient that was sent as a statistic is taken; else that in the head's part of the update, without the derivative
    of the L2 term. What a penalty added to the update stays in it: the attacker cannot take it off without the data.
    """
    known = {name: value for name, value in sent.statistics.items() if name not in attacker.averaged}
    missing = {
        name: f"{name} was sent with a moving average added" for name in sent.statistics.keys() & attacker.averaged
    }
    gradient, source = known.get("gradient"), "gradient"
    if gradient is None:
        gradient, reason = _head_of_update(sent, attacker)
        source = "" if gradient is None else "update"
        missing.setdefault("gradient", reason)
    if "hessian" in known and sent.head is not None:
        known.setdefault(DIAGONALS[0], known["hessian"].diagonal().reshape(sent.head.shape))
    diagonal = next((known[name] for name in DIAGONALS if name in known), None)
    missing.setdefault("diagonal", "no diagonal of the Hessian was sent")
    missing.setdefault("gradient_variance", "no variance of the example gradients was sent")
    variance = known.get("gradient_variance")
    exact = DIAGONALS[0] in known
    return Evidence(gradient, diagonal, exact, variance, known.get("feature_mean"), source, missing)


def plain_update(sent: Sent, attacker: Attacker) -> dict[str, Tensor] | None:
    """The update as a mean gradient of the loss without L2, by parameter name; None where it is no such thing."""
    if sent.update is None:
        return None
    if sent.mode == "local":
        scale = attacker.update_scale
        return None if scale is None else {name: value / scale for name, value in sent.update.items()}
    weights, decay = sent.parameters, 2 * attacker.weight_decay
    return {
        name: value - decay * weights[name] if is_decayed(name, weights[name], attacker.decay) else value
        for name, value in sent.update.items()
    }


def _head_of_update(sent: Sent, attacker: Attacker) -> tuple[Tensor | None, str]:
    if sent.update is None:
        return None, "neither a gradient nor an update was sent"
    if not {"head.weight", "head.bias"} <= sent.update.keys():
        return None, "no gradient was sent, and the update has no linear head"
    update = plain_update(sent, attacker)
    if update is None:
        return None, "no gradient was sent, and the update is not a sum of plain SGD steps of a known size"
    return head_matrix(update["head.weight"], update["head.bias"]), ""
