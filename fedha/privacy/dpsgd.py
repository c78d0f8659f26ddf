"""DP-SGD: gradients clipped an example at a time, summed, disturbed.

An example's loss depends on that example alone, so its gradient does too; each is cut to the norm `clip`, and the sum
is all that stays. One example more or less moves the sum by at most `clip`, and noise of that scale times the noise
multiplier covers it. What the optimiser does with it afterwards (momentum, Adam, L2, many steps, the difference to the
global model) is post-processing. `fedha.privacy.surrogate` makes such losses.

Two ways lead to the same sum. Where every parameter is a linear layer's, norms and sums come from activations
(`fedha.privacy.ghost`) at about the cost of a plain gradient. For any other network `torch.func` maps ``grad(loss)``
over the examples of a chunk and holds their gradients.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from fedha.errors import FedhaError
from fedha.pieces import rows_at_once
from fedha.privacy import ghost
from fedha.privacy.clipping import factors
from fedha.privacy.loss import Loss
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.noise import Source

Named = Mapping[str, Tensor]

MEMORY_BYTES = 64 * 2**20  # of example gradients, or activations, at once; from where on more is no faster


def private_gradient(
    loss: Loss,
    parameters: Named,
    inputs: Tensor,
    labels: Tensor,
    mechanism: Mechanism,
    source: Source,
    memory_bytes: int = MEMORY_BYTES,
) -> dict[str, Tensor]:
    """The noisy mean gradient of one batch.

    Args:
        loss: Of each example.
        parameters: By name, P numbers in all; not changed.
        inputs: [b, ...]; b may be 0, and noise is returned all the same.
        labels: [b].
        mechanism: Norm, noise and divisor.
        source: Of this run of steps.
        memory_bytes: What the examples' gradients, or activations, may take at once; one example's at least.

    Returns:
        Like the parameters. Without noise and with an infinite norm, the sum of the examples' gradients over
        ``mechanism.divisor``. An example whose gradient is not finite adds nothing: an error would tell of it.

    Source:
        Abadi et al., "Deep learning with differential privacy" (CCS 2016), with the fixed divisor that Poisson sampling
        calls for.
    """
    own = {name: value.detach() for name, value in parameters.items()}
    total = {name: torch.zeros_like(value, dtype=source.precision(value.dtype)) for name, value in own.items()}
    if ghost.unsuited(loss.model, own, inputs):
        add, size = _add_clipped, sum(value.numel() * value.element_size() for value in total.values())
    else:
        add, size = ghost.add_clipped, ghost.row_bytes(total)
    rows = max(1, min(memory_bytes // size, rows_at_once(loss.model, inputs, (), 1)))
    for some, theirs in zip(inputs.split(rows), labels.split(rows), strict=True):
        if len(some):
            add(total, loss, own, some, theirs, mechanism.norm)
    return _disturbed(total, mechanism, source, own)


def descend(
    loss: Loss,
    parameters: Named,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    mechanism: Mechanism,
    source: Source,
    weight_decay: float = 0.0,
) -> None:
    """Step the parameters in place, once a batch.

    Args:
        loss: As in `private_gradient`.
        parameters: Leaves that the optimiser holds.
        optimizer: Fresh.
        batches: Inputs and labels of each step.
        mechanism: Norm, noise and divisor of each step.
        source: Of all steps.
        weight_decay: Adds this times the squared norm of all parameters to the loss; no example's, so not clipped.
    """
    for inputs, labels in batches:
        gradient = private_gradient(loss, parameters, inputs, labels, mechanism, source)
        for name, value in parameters.items():
            value.grad = gradient[name] + 2 * weight_decay * value.detach() if weight_decay else gradient[name]
        optimizer.step()


def refuse_beyond_examples(model: nn.Module) -> None:
    """Raise unless every layer treats an example alone and draws nothing at random.

    Raises:
        FedhaError: Names the first layer that does not, and what to do about it.
    """
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.modules.batchnorm._NormBase) and _keeps_or_mixes(module):
            raise FedhaError(
                f"layer {name!r} ({kind}) makes statistics of the batch, so one example changes the others' gradients; "
                "freeze it with eval(), its statistics being public, or use nn.GroupNorm"
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise FedhaError(
                f"layer {name!r} ({kind}) draws outside of the run's seed; switch it off with eval() or p=0"
            )


def _keeps_or_mixes(module: nn.modules.batchnorm._NormBase) -> bool:
    across = not isinstance(module, nn.modules.instancenorm._InstanceNorm)  # instance norm stays within an example
    if module.running_mean is None:
        return across
    return module.training


def _add_clipped(total: Named, loss: Loss, parameters: Named, inputs: Tensor, labels: Tensor, clip: float) -> None:
    """Add a chunk's clipped example gradients to the sums, for any network."""

    def alone(own: dict[str, Tensor], example: Tensor, label: Tensor) -> Tensor:
        return loss.each(own, example[None], label[None]).sum()

    gradients = vmap(grad(alone), in_dims=(None, 0, 0))(dict(parameters), inputs, labels)
    flat = {name: value.reshape(len(value), -1).to(total[name].dtype) for name, value in gradients.items()}
    norms = torch.stack([torch.linalg.vector_norm(value, dim=1) for value in flat.values()])
    out, weights = factors(torch.linalg.vector_norm(norms, dim=0), clip)
    for name, value in flat.items():
        into = total[name]
        into += (weights @ (value if out is None else value.masked_fill(out[:, None], 0))).view(into.shape)


def _disturbed(total: dict[str, Tensor], mechanism: Mechanism, source: Source, like: Named) -> dict[str, Tensor]:
    deviation = mechanism.deviation()
    for name, value in total.items():
        value /= mechanism.divisor
        if deviation:
            noise = source.normal(value.numel(), value.dtype).to(value.device)
            value.add_(noise.view(value.shape), alpha=deviation)
        total[name] = source.settle(value, deviation).to(like[name].dtype)
    return total
