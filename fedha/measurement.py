"""Statistics by name, for whatever head a model has."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedha import nonlinear, sketches, statistics
from fedha.errors import FedhaError
from fedha.models.chance import Key, drawing
from fedha.models.split import SplitModel, evaluating, head_matrix, with_bias
from fedha.recipes import STATISTICS

LARGEST_HESSIAN = 4096  # weights of a head up to which its whole Hessian is held
_ONE_BY_ONE = {
    *("hessian_diagonal", "hutchinson_diagonal", "hutchinson_diagonal_shared", "hessian", "hessian_off_diagonal"),
    *("off_diagonal_energy", "gradient_variance", "squared_gradient"),
}


@dataclass(frozen=True)
class HeadView:
    """A head at some parameters, ready to be measured.

    Attributes:
        functions: The module of statistics that fits the head: closed forms, or torch.func.
        arguments: What those functions take before the features.
        shape: Shape of a direction in head space: [C, D] for a linear head, [P] for another.
        prepare: Turns the featurizer's output into the features of the statistics.
        draws: Whether the head is called with draws of its own, the same in each call.
    """

    functions: Any
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    prepare: Callable[[Tensor], Tensor]
    draws: bool = False


@dataclass(frozen=True)
class Circumstances:
    """What a statistic may depend on beside head and data.

    Attributes:
        seed: The run's seed.
        round: The round, from 1.
        client: Whose statistic it is; None for a reference.
        probes: Sign vectors of the Hutchinson statistics.
        references: References of earlier exchanges.
    """

    seed: int
    round: int
    client: str | None
    probes: int
    references: Mapping[str, Tensor]


def view_head(model: SplitModel, parameters: Mapping[str, Tensor], draws: Key | None = None) -> HeadView:
    """The head of a model at the given parameters (the whole model's, by name); those left out are the model's own.

    A linear head with a bias gets the closed forms. One without has no bias column, and one whose weight is computed
    from other parameters is not linear in them: these go through torch.func. Statistics are of the whole head, whatever
    of it is frozen.

    Args:
        model: Its structure, and what is frozen.
        parameters: What is trained.
        draws: By what a head that draws at random draws, in each call.
    """
    own = {name: parameters.get(f"head.{name}", value.detach()) for name, value in model.head.named_parameters()}
    if isinstance(model.head, nn.Linear) and own.keys() == {"weight", "bias"}:
        matrix = head_matrix(own["weight"], own["bias"])
        return HeadView(statistics, (matrix,), tuple(matrix.shape), with_bias)
    size = sum(value.numel() for value in own.values())
    call = partial(_call, model.head, draws)
    return HeadView(nonlinear, (call, own), (size,), lambda features: features, draws is not None)


def measure(name: str, view: HeadView, features: Tensor, labels: Tensor, around: Circumstances) -> Tensor:
    """One statistic of one client.

    Args:
        name: A key of `fedha.recipes.STATISTICS`, or the name of a reference there.
        view: The head.
        features: The view's prepared features, [n, D].
        labels: Class indices, [n].
        around: Signs and references.

    Raises:
        FedhaError: The statistic is too large for this head, or not of one that draws at random.
    """
    refuse_chance(name, view)
    if name not in STATISTICS and name != "accuracy":
        raise FedhaError(f"there is no statistic {name!r}; there are {', '.join(STATISTICS)}")
    arguments = (*view.arguments, features, labels)
    value: Tensor
    if name == "pooled_gradient_hessian_product":
        value = view.functions.hessian_vector_product(*arguments, around.references["gradient"])
    elif name in ("hutchinson_diagonal", "hutchinson_diagonal_shared"):
        functions = sketches if view.functions is statistics else nonlinear
        value = functions.hutchinson_diagonal(*arguments, _signs(name, view, around, features))
    else:
        if name in ("hessian", "hessian_off_diagonal"):
            _refuse_large(name, view)
        value = getattr(view.functions, name)(*arguments)
    return value


def shapes(model: SplitModel, input_shape: Sequence[int], names: Iterable[str], probes: int) -> dict[str, torch.Size]:
    """The shape of each of these statistics for a model.

    Args:
        model: Its structure.
        input_shape: Shape of one input.
        names: As for `measure`.
        probes: As in `Circumstances`.
    """
    some = next(model.parameters())
    view = view_head(model, {})
    around = Circumstances(0, 1, None, probes, {"gradient": some.new_zeros(view.shape)})
    with torch.no_grad(), statistics.shared(), evaluating(model):
        features = view.prepare(model.featurizer(some.new_zeros(2, *input_shape)))
        labels = torch.zeros(2, dtype=torch.int64, device=some.device)
        return {name: measure(name, view, features, labels, around).shape for name in names}


def refuse_chance(name: str, view: HeadView) -> None:
    """Refuse a statistic that looks at many directions or examples one by one, of a head that draws at random.

    Raises:
        FedhaError: It does; says what to do.
    """
    if view.draws and name in _ONE_BY_ONE:
        raise FedhaError(
            f"statistic {name!r} calls the head once for each example or direction, and the head draws at random "
            "(dropout?): each call would be of another head. Let the featurizer end with what draws, as in "
            "SplitModel(nn.Sequential(backbone, nn.Dropout(0.5)), nn.Linear(512, 10))"
        )


def _signs(name: str, view: HeadView, around: Circumstances, features: Tensor) -> Tensor:
    if name == "hutchinson_diagonal_shared":
        owner = None
    else:
        owner = "reference" if around.client is None else f"client {around.client}"
    return sketches.draw_signs(around.seed, around.round, around.probes, torch.Size(view.shape), owner).to(features)


def _refuse_large(name: str, view: HeadView) -> None:
    size = torch.Size(view.shape).numel()
    if size > LARGEST_HESSIAN:
        raise FedhaError(
            f"statistic {name!r} would hold {size} x {size} numbers for this head; it is for heads of up to "
            f"{LARGEST_HESSIAN} "
            "weights: use hessian_diagonal or gradient_hessian_product"
        )


def _call(head: nn.Module, draws: Key | None, parameters: Mapping[str, Tensor], features: Tensor) -> Tensor:
    with drawing(draws, features.device):
        logits: Tensor = functional_call(head, dict(parameters), (features,))
    return logits
