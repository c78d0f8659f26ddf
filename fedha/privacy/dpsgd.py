"""DP-SGD: gradients clipped an example at a time, summed, disturbed.

An example's loss depends on that example alone, so its gradient does too; each is cut to the norm `clip`, and the sum
is all that stays. One example more or less moves the sum by at most `clip`, and noise of that scale times the noise
multiplier covers it. What the optimiser does with it afterwards (momentum, Adam, L2, many steps, the difference to the
global model) is post-processing. `fedha.privacy.surrogate` makes such losses.

Three ways lead to the same sum. Where every parameter is a linear layer's, norms and sums come from activations
(`fedha.privacy.ghost`) at about the cost of a plain gradient. For most other networks `torch.func` maps ``grad(loss)``
over the examples of a chunk and holds their gradients. What it cannot map, such as GRU layers, is differentiated one
example after the other.

Rounding does not move a site's sum further: it adds up in float64, and clips shorter by what that can lose. With
``u = 2^-53``, P parameters and at most n examples a batch, n public, a norm is short by at most ``(P / 2 + 2) u`` of
itself; a sum is off as in `fedha.privacy.clipping`, in at most 2 n additions, n of examples and n of chunks, so by
``1.2 (2 n + 2)^2 u clip`` between neighbours; its quotient, by ``2 n u clip``. Squares that vanish are of numbers below
2^-511, whose norm is far below any clip. What a network makes of an example is rounded in the network's own way, and
bounded whatever it is.
"""

import operator
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.func import grad, vmap

from fedha.data.examples import Examples
from fedha.errors import FedhaError
from fedha.inputs import Form, Inputs, each
from fedha.models.reach import stackable, unreached
from fedha.optimizers import is_decayed
from fedha.pieces import rows_at_once
from fedha.privacy import ghost
from fedha.privacy.clipping import factors
from fedha.privacy.loss import Loss
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.noise import Source
from fedha.steps import LocalSteps

Named = Mapping[str, Tensor]

MEMORY_BYTES = 64 * 2**20  # of example gradients, or activations, at once; from where on more is no faster
_MOST_SLACK = 0.1  # of the clip: reached at 1.3e7 examples


def private_gradient(
    loss: Loss,
    parameters: Named,
    inputs: Inputs,
    labels: Tensor,
    mechanism: Mechanism,
    source: Source,
    memory_bytes: int = MEMORY_BYTES,
) -> dict[str, Tensor]:
    """`noisy_gradient` of a batch that is at hand: inputs [b, ...] and labels [b]; the rest as there."""
    return noisy_gradient(loss, parameters, Examples(inputs, labels, divisor=1.0), mechanism, source, memory_bytes)


def noisy_gradient(
    loss: Loss,
    parameters: Named,
    examples: Examples,
    mechanism: Mechanism,
    source: Source,
    memory_bytes: int = MEMORY_BYTES,
    most: int | None = None,
) -> dict[str, Tensor]:
    """The noisy mean gradient of one batch.

    Args:
        loss: Of each example.
        parameters: By name, P numbers in all; not changed.
        examples: b of them; b may be 0, and noise is returned all the same.
        mechanism: Norm, noise and divisor.
        source: Of this run of steps.
        memory_bytes: What the examples' gradients, or activations, may take at once; one example's at least.
        most: n, how many a batch may have, which is public where b is not; default: b is.

    Returns:
        Like the parameters. Without noise and with an infinite norm, the sum of the examples' gradients over
        ``mechanism.divisor``. An example whose gradient is not finite adds nothing: an error would tell of it. What the
        network's output is not made of has a zero, and no noise.

    Source:
        Abadi et al., "Deep learning with differential privacy" (CCS 2016), with the fixed divisor that Poisson sampling
        calls for.
    """
    form = examples.form
    idle = unreached(loss.model, form)
    own = {name: value.detach() for name, value in parameters.items() if name not in idle}
    total = {name: torch.zeros_like(value, dtype=source.precision(value.dtype)) for name, value in own.items()}
    if ghost.unsuited(loss.model, own, form):
        add, size = _add_clipped, sum(value.numel() * value.element_size() for value in total.values())
    else:
        add, size = ghost.add_clipped, ghost.row_bytes(total)
    rows, clip = max(1, min(memory_bytes // size, rows_at_once(loss.model, form, (), 1))), mechanism.norm
    if source.name == "cryptographic":
        clip *= 1 - _slack(len(examples) if most is None else most, sum(value.numel() for value in own.values()))
    for start in range(0, len(examples), rows):
        some = slice(start, start + rows)
        add(total, loss, own, examples.take(some), examples.labels[some], clip)
    moved = _disturbed(total, mechanism, source, own)
    return {name: moved[name] if name in moved else torch.zeros_like(value) for name, value in parameters.items()}


def descend(
    loss: Loss,
    steps: LocalSteps,
    batches: Iterable[Examples],
    mechanism: Mechanism,
    source: Source,
    weight_decay: float = 0.0,
    decay: str = "all",
    most: int | None = None,
) -> None:
    """Step the parameters in place, once a batch.

    Args:
        loss: As in `private_gradient`.
        steps: Fresh; their clipping is of the noisy gradient, which costs nothing more.
        batches: Of each step.
        mechanism: Norm, noise and divisor of each step.
        source: Of all steps.
        weight_decay: Adds this times the squared norm of what is decayed to the loss; no example's, so not clipped.
        decay: What that is, as `training.decay` says.
        most: As in `noisy_gradient`.
    """
    for batch in batches:
        gradient = noisy_gradient(loss, steps.parameters, batch, mechanism, source, most=most)
        steps.take(with_decay(gradient, steps.parameters, weight_decay, decay))


def with_decay(gradient: Named, parameters: Named, weight_decay: float, decay: str) -> dict[str, Tensor]:
    """A gradient with L2's derivative; arguments as in `descend`."""
    if not weight_decay:
        return dict(gradient)
    return {
        name: value + 2 * weight_decay * parameters[name].detach()
        if is_decayed(name, parameters[name], decay)
        else value
        for name, value in gradient.items()
    }


def _slack(rows: int, numbers: int) -> float:
    """What rounding can cost at worst, as a part of the clip."""
    part = (1.2 * (2 * rows + 2) ** 2 + 2 * rows + numbers + 16) * torch.finfo(torch.float64).eps / 2
    if part > _MOST_SLACK:
        raise FedhaError(
            f"sums of {rows} examples' gradients of {numbers} numbers cannot be rounded to within the clip; share the "
            "examples out among clients"
        )
    return part


def _add_clipped(total: Named, loss: Loss, parameters: Named, inputs: Inputs, labels: Tensor, clip: float) -> None:
    """Add a chunk's clipped example gradients to the sums, for any network."""
    gradients_of = _at_once if stackable(loss.model, Form.like(inputs)) else _one_by_one
    gradients = gradients_of(loss, parameters, inputs, labels)
    flat = {name: value.reshape(len(value), -1).to(total[name].dtype) for name, value in gradients.items()}
    norms = torch.stack([torch.linalg.vector_norm(value, dim=1) for value in flat.values()])
    out, weights = factors(torch.linalg.vector_norm(norms, dim=0), clip)
    for name, value in flat.items():
        into = total[name]
        into += (weights @ (value if out is None else value.masked_fill(out[:, None], 0))).view(into.shape)


def _at_once(loss: Loss, parameters: Named, inputs: Inputs, labels: Tensor) -> dict[str, Tensor]:
    def alone(own: dict[str, Tensor], example: Inputs, label: Tensor) -> Tensor:
        return loss.each(own, each(lambda one: one[None], example), label[None]).sum()

    gradients: dict[str, Tensor] = vmap(grad(alone), in_dims=(None, 0, 0))(dict(parameters), inputs, labels)
    return gradients


def _one_by_one(loss: Loss, parameters: Named, inputs: Inputs, labels: Tensor) -> dict[str, Tensor]:
    """For layers without a rule for vmap: about a hundred times slower for small networks, and the same numbers."""
    own = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    rows = []
    for row in range(len(labels)):
        one = slice(row, row + 1)
        value = loss.each(own, each(operator.itemgetter(one), inputs), labels[one]).sum()
        rows.append(torch.autograd.grad(value, list(own.values()), materialize_grads=True))
    return {
        name: torch.stack([one.to_dense() for one in column])
        for name, column in zip(own, zip(*rows, strict=True), strict=True)
    }


def _disturbed(total: dict[str, Tensor], mechanism: Mechanism, source: Source, like: Named) -> dict[str, Tensor]:
    deviation = mechanism.deviation()
    for name, value in total.items():
        value /= mechanism.divisor
        if deviation:
            noise = source.normal(value.numel(), value.dtype).to(value.device)
            value.add_(noise.view(value.shape), alpha=deviation)
        total[name] = source.settle(value, deviation).to(like[name].dtype)
    return total
