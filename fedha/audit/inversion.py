"""From gradients back to inputs: an optimisation through the backbone, and where one example allows it, a division."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedha import cross_entropy, statistics
from fedha.audit.network import features_of
from fedha.models.split import SplitModel, head_matrix
from fedha.randomness import generator


@dataclass(frozen=True)
class Inversion:
    """Budget and priors of the optimisation.

    Attributes:
        iterations: Steps of Adam on the sign of the gradient; the rate falls tenfold after 3/8, 5/8 and 7/8 of them.
        restarts: Starts at random inputs; the one that ends with the smallest loss is kept.
        learning_rate: Of Adam, in units of the input.
        variation_weight: Of the total variation beside the cosine distance, for images.
        low: No input is below; None: unbounded, and starts are normal instead of uniform.
        high: No input is above.
    """

    iterations: int = 600
    restarts: int = 2
    learning_rate: float = 0.1
    variation_weight: float = 1e-4
    low: float | None = 0.0
    high: float | None = 1.0


@dataclass(frozen=True)
class Reconstruction:
    """What an inversion ends with.

    Attributes:
        inputs: [n, ...], in an order of their own.
        loss: Cosine distance and prior at the end of the best start.
    """

    inputs: Tensor
    loss: float


def invert(
    model: SplitModel,
    parameters: Mapping[str, Tensor],
    target: Mapping[str, Tensor] | Tensor,
    labels: Tensor,
    input_shape: Sequence[int],
    settings: Inversion,
    seed: int,
    *key: int | str,
) -> Reconstruction:
    """Search inputs whose gradient points where the one that was sent does.

    Minimises ``1 - cos(gradient(x), target) + variation_weight * total_variation(x)`` over the inputs of a whole batch.

    Args:
        model: The structure.
        parameters: At which the gradient was taken, by name.
        target: The mean gradient of the loss by parameter name, or that of a linear head alone, [C, D].
        labels: The batch's labels, as the attacker believes them, [n].
        input_shape: Of one input.
        settings: Budget and priors.
        seed: Of the starts, with `key`.
        key: Whose inversion it is, for its own draws.

    Returns:
        Inputs of the parameters' precision.

    Source:
        Matching gradients: Zhu, Liu, Han, "Deep Leakage from Gradients" (NeurIPS 2019); the cosine, the prior, signed
        Adam and its schedule: Geiping et al., "Inverting Gradients" (NeurIPS 2020). Ours is the plain core of it.
    """
    wanted = [target] if isinstance(target, Tensor) else list(target.values())
    names = None if isinstance(target, Tensor) else list(target)
    fixed = {
        name: value.detach().clone().requires_grad_(names is not None and name in names)
        for name, value in parameters.items()
    }
    shape = (len(labels), *input_shape)
    best: Reconstruction | None = None
    for restart in range(settings.restarts):
        start = _start(shape, settings, generator(seed, "inversion", *key, restart)).to(wanted[0])
        found = _descend(model, fixed, names, wanted, labels, start, settings)
        if best is None or found.loss < best.loss:
            best = found
    if best is None:
        raise ValueError(f"restarts is {settings.restarts}; an inversion needs one start or more")
    return best


def first_layer_input(model: SplitModel, update: Mapping[str, Tensor], input_shape: Sequence[int]) -> Tensor | None:
    """The only example's input, exactly: in a first linear layer every unit's gradient is a number times the input.

    Args:
        model: The structure.
        update: The gradient of one example by parameter name; a penalty in its loss changes the numbers only.
        input_shape: Of one input.

    Returns:
        The input; None where the first layer is not linear with a bias, or no unit passed anything back.

    Source:
        Phong et al., "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption" (2018).
    """
    name = _first_layer(model)
    if name is None or f"{name}.weight" not in update or f"{name}.bias" not in update:
        return None
    weight, bias = update[f"{name}.weight"], update[f"{name}.bias"]
    unit = int(bias.abs().argmax())
    return None if bias[unit] == 0 else (weight[unit] / bias[unit]).reshape(tuple(input_shape))


def total_variation(inputs: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, down and across, of images [n, channels, height, width]."""
    down = (inputs[..., 1:, :] - inputs[..., :-1, :]).abs().mean()
    across = (inputs[..., 1:] - inputs[..., :-1]).abs().mean()
    return down + across


def _descend(
    model: SplitModel,
    parameters: Mapping[str, Tensor],
    names: Sequence[str] | None,
    wanted: Sequence[Tensor],
    labels: Tensor,
    start: Tensor,
    settings: Inversion,
) -> Reconstruction:
    inputs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([inputs], lr=settings.learning_rate)
    drops = [settings.iterations * eighths // 8 for eighths in (3, 5, 7)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, gamma=0.1)
    size = torch.cat([value.flatten() for value in wanted]).norm()

    def loss() -> Tensor:
        found = _gradients(model, parameters, names, inputs, labels)
        inner = torch.stack([(a * b).sum() for a, b in zip(found, wanted, strict=True)]).sum()
        length = torch.stack([value.square().sum() for value in found]).sum().sqrt()
        distance: Tensor = 1 - inner / (length * size).clamp(min=1e-30)
        return distance + settings.variation_weight * total_variation(inputs) if inputs.dim() == 4 else distance

    for _ in range(settings.iterations):
        (slope,) = torch.autograd.grad(loss(), inputs)
        inputs.grad = slope.nan_to_num(0.0, 0.0, 0.0).sign()
        optimizer.step()
        schedule.step()
        if settings.low is not None or settings.high is not None:
            inputs.data.clamp_(settings.low, settings.high)
    return Reconstruction(inputs.detach(), float(loss().detach()))


def _gradients(
    model: SplitModel,
    parameters: Mapping[str, Tensor],
    names: Sequence[str] | None,
    inputs: Tensor,
    labels: Tensor,
) -> Sequence[Tensor]:
    if names is None:
        head = head_matrix(parameters["head.weight"], parameters["head.bias"])
        return [statistics.gradient(head, features_of(model, parameters, inputs), labels)]
    risk = cross_entropy.losses(functional_call(model, dict(parameters), (inputs,)), labels).mean()
    slopes: tuple[Tensor, ...] = torch.autograd.grad(risk, [parameters[name] for name in names], create_graph=True)
    return slopes


def _start(shape: tuple[int, ...], settings: Inversion, draws: torch.Generator) -> Tensor:
    if settings.low is None or settings.high is None:
        return torch.randn(shape, generator=draws)
    return settings.low + (settings.high - settings.low) * torch.rand(shape, generator=draws)


def _first_layer(model: SplitModel) -> str | None:
    """The name of the first layer that has parameters, where it sees the input itself and is linear with a bias."""
    for name, module in model.featurizer.named_modules(prefix="featurizer"):
        if next(module.parameters(recurse=False), None) is not None:
            linear = isinstance(module, nn.Linear) and module.bias is not None
            return name if linear else None
    return "head" if isinstance(model.head, nn.Linear) and model.head.bias is not None else None
