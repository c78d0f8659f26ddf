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
from fedha.inputs import Form, arguments
from fedha.models.split import SplitModel, head_matrix, with_bias
from fedha.recipes import STATISTICS

LARGEST_HESSIAN = 4096  # weights of a head up to which its whole Hessian is held


@dataclass(frozen=True)
class HeadView:
    """A head at some parameters, ready to be measured.

    Attributes:
        functions: The module of statistics that fits the head: closed forms, or torch.func.
        arguments: What those functions take before the features.
        shape: Shape of a direction in head space: [C, D] for a linear head, [P] for another.
        prepare: Turns the featurizer's output into the features of the statistics.
    """

    functions: Any
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    prepare: Callable[[Tensor], Tensor]


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


def view_head(model: SplitModel, parameters: Mapping[str, Tensor]) -> HeadView:
    """The head of a model at the given parameters (the whole model's, by name).

    A linear head with a bias gets the closed forms. One without has no bias column, and one whose weight is computed
    from other parameters is not linear in them: these go through torch.func.
    """
    own = {name.removeprefix("head."): value for name, value in parameters.items() if name.startswith("head.")}
    if isinstance(model.head, nn.Linear) and own.keys() == {"weight", "bias"}:
        matrix = head_matrix(own["weight"], own["bias"])
        return HeadView(statistics, (matrix,), tuple(matrix.shape), with_bias)
    size = sum(value.numel() for value in own.values())
    return HeadView(nonlinear, (partial(_call, model.head), own), (size,), lambda features: features)


def measure(name: str, view: HeadView, features: Tensor, labels: Tensor, around: Circumstances) -> Tensor:
    """One statistic of one client.

    Args:
        name: A key of `fedha.recipes.STATISTICS`, or the name of a reference there.
        view: The head.
        features: The view's prepared features, [n, D].
        labels: Class indices, [n].
        around: Signs and references.

    Raises:
        FedhaError: The statistic is too large for this head.
    """
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


def shapes(model: SplitModel, form: Form | Sequence[int], names: Iterable[str], probes: int) -> dict[str, torch.Size]:
    """The shape of each of these statistics for a model.

    Args:
        model: Its structure.
        form: Of its inputs, or the shape of one.
        names: As for `measure`.
        probes: As in `Circumstances`.
    """
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    some = next(iter(parameters.values()))
    view = view_head(model, parameters)
    around = Circumstances(0, 1, None, probes, {"gradient": some.new_zeros(view.shape)})
    with torch.no_grad(), statistics.shared():
        by_place, by_name = arguments(Form.of(form, some.dtype).zeros(2, device=some.device))
        features = view.prepare(model.featurizer(*by_place, **by_name))
        labels = torch.zeros(2, dtype=torch.int64, device=some.device)
        return {name: measure(name, view, features, labels, around).shape for name in names}


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


def _call(head: nn.Module, parameters: Mapping[str, Tensor], features: Tensor) -> Tensor:
    logits: Tensor = functional_call(head, dict(parameters), (features,))
    return logits
