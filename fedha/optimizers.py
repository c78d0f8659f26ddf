"""torch's optimisers by name, with their own options: found, checked, and made, each parameter at its own rate."""

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fedha.errors import FedhaError, brief
from fedha.schema import nearest
from fedha.signature import meant

Named = Mapping[str, Tensor]
Group = dict[str, Any]

# What of a signature is no choice here: it is given elsewhere, is for graphs on a GPU, or would climb.
_HOW = ("foreach", "fused")  # true or false, though their default is neither
_NOT_HERE = ("params", "lr", "capturable", "differentiable", "maximize")
# Their step looks at a parameter as a whole: its norm, its rows, its singular values.
_NOT_BY_ENTRY = ("adafactor", "muon")

_SHOWN = 40  # parts of a network that a sentence looks for the nearest in


@cache
def known() -> dict[str, type[torch.optim.Optimizer]]:
    """torch's optimisers by their names in a config: the classes' own, in small letters."""
    found = (one for one in vars(torch.optim).values() if isinstance(one, type))
    return {
        one.__name__.lower(): one
        for one in found
        if issubclass(one, torch.optim.Optimizer) and one is not torch.optim.Optimizer
    }


def checked(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """An optimiser's options as torch takes them.

    Args:
        name: Of `known`.
        options: As a config gives them: texts that are numbers or truth values become such.

    Raises:
        FedhaError: It cannot be used here, has no such option, or refuses a value.
    """
    kind = _usable(name)
    usual = usual_options(name)
    if "lr" in options:
        raise FedhaError(f"optimizer {name!r} is given lr; give learning_rate beside it")
    for option in options:
        if option not in usual:
            raise FedhaError(f"optimizer {name!r} has no option {option!r}{nearest(option, usual)}")
    given = {option: _like(name, option, meant(value), usual[option]) for option, value in options.items()}
    try:
        _try(kind, given)
    except Exception as error:  # whatever torch says of a value
        told = ", ".join(f"{option}: {value}" for option, value in options.items())
        raise FedhaError(f"optimizer {name!r} cannot be made with {told}: {brief(error)}") from error
    return given


def usual_options(name: str) -> dict[str, Any]:
    """The options that a config may give an optimiser, with torch's defaults."""
    wanted = inspect.signature(known()[name]).parameters
    return {one: value.default for one, value in wanted.items() if one not in _NOT_HERE}


def usual_rate(name: str) -> float:
    """torch's default learning rate of an optimiser."""
    return float(inspect.signature(known()[name]).parameters["lr"].default)


def by_entry(name: str) -> bool:
    """Whether a step treats every number by itself, so that one over stacked parameters is one for each of them."""
    return name not in _NOT_BY_ENTRY


def groups(
    parameters: Named, rates: Mapping[str, float], decay: str, decayed: float, like: Named | None = None
) -> list[Group]:
    """Parameters in groups of one rate and one weight decay, in their order.

    Args:
        parameters: By name.
        rates: Factors of the learning rate, by what names begin with.
        decay: As `training.decay` says: all, or weights.
        decayed: The optimiser's own weight decay.
        like: Tensors whose axes tell weights from biases and norms; default: the parameters.

    Returns:
        Mappings for torch; ``scale`` is a group's factor of the rate. One group where nothing sets parameters apart.
    """
    found: dict[tuple[float, float], list[Tensor]] = {}
    for name, value in parameters.items():
        axes = (parameters if like is None else like)[name]
        own = decayed if is_decayed(name, axes, decay) else 0.0
        found.setdefault((rate_of(name, rates), own), []).append(value)
    apart = [{"params": some, "scale": scale} for (scale, _), some in found.items()]
    if decayed:
        apart = [{**one, "weight_decay": own} for one, (_, own) in zip(apart, found, strict=True)]
    return apart


def make(name: str, options: Mapping[str, Any], some: Sequence[Group], rate: float) -> torch.optim.Optimizer:
    """An optimiser of torch's over some groups.

    Args:
        name: Of `known`.
        options: Of `checked`.
        some: Of `groups`.
        rate: The learning rate, of which each group has its part.

    Raises:
        FedhaError: It does not take such parameters.
    """
    kind: Any = known()[name]
    scaled = [{**one, "lr": rate * one["scale"]} for one in some]
    try:
        made: torch.optim.Optimizer = kind(scaled, lr=rate, **options)
    except (ValueError, TypeError) as error:
        raise FedhaError(
            f"the optimizer {name!r} does not take this network's parameters: {brief(error)}; take another"
        ) from error
    return made


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its part of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def rate_of(name: str, rates: Mapping[str, float]) -> float:
    """A parameter's factor of the learning rate: of the longest beginning of its name that has one, else 1."""
    fitting = [one for one in rates if _begins(name, one)]
    return rates[max(fitting, key=len)] if fitting else 1.0


def check_rates(rates: Mapping[str, float], names: Sequence[str]) -> None:
    """Look whether every factor has parameters.

    Raises:
        FedhaError: No trained parameter's name begins so.
    """
    for prefix in rates:
        if not any(_begins(name, prefix) for name in names):
            parts = list(dict.fromkeys(beginning for name in names for beginning in _beginnings(name)))
            alike = [one for one in parts if one.endswith(f".{prefix.rpartition('.')[2]}")]
            raise FedhaError(
                f"training.rates has {prefix!r}, with which no trained parameter's name begins"
                f"{f'; did you mean {alike[0]!r}?' if alike else nearest(prefix, parts[:_SHOWN])}"
            )


def is_decayed(name: str, value: Tensor, decay: str) -> bool:
    """Whether weight decay pulls at a parameter; biases and norms have one axis."""
    return decay == "all" or (value.dim() > 1 and not name.endswith(".bias"))


def clip(gradients: Named, most: float | None) -> dict[str, Tensor]:
    """Gradients scaled to a norm over all of them together, as `torch.nn.utils.clip_grad_norm_` does.

    Args:
        gradients: By name; not changed.
        most: The largest norm; None: as they are.
    """
    if most is None:
        return dict(gradients)
    norms = torch.stack([torch.linalg.vector_norm(value) for value in gradients.values()])
    factor = (most / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1.0)
    return {name: value * factor.to(value.dtype) for name, value in gradients.items()}


def _begins(name: str, prefix: str) -> bool:
    """Whether a name begins so, up to a dot; what is in mixed precision has its layers one name deeper (`full`)."""
    plain = name.replace(".full.", ".", 1)
    return any(one == prefix or one.startswith(f"{prefix}.") for one in (name, plain))


def _beginnings(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def _usable(name: str) -> type[torch.optim.Optimizer]:
    kind = known()[name]
    closure = inspect.signature(inspect.unwrap(kind.step)).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise FedhaError(
            f"optimizer is {name!r}, which asks for the loss several times within a step, and a step here has one "
            "gradient; take adamw, or another"
        )
    if name == "sparseadam":
        raise FedhaError(f"optimizer is {name!r}, which takes sparse gradients alone, and none is here; take adam")
    return kind


def _like(name: str, option: str, value: Any, usual: Any) -> Any:
    """A value of the kind of its default."""
    whole = f"optimizer {name!r}: {option} is {value!r}"
    if isinstance(usual, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(usual):
            raise FedhaError(f"{whole}; give {len(usual)} numbers, such as {list(usual)}")
        pairs = zip(value, usual, strict=True)
        return tuple(None if one is None and other is None else _number(whole, one) for one, other in pairs)
    if isinstance(usual, bool) or option in _HOW:
        if not isinstance(value, bool):
            raise FedhaError(f"{whole}; give true or false")
        return value
    if isinstance(usual, int | float):
        return _number(whole, value)
    return value


def _number(whole: str, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FedhaError(f"{whole}; give {'numbers' if isinstance(value, list) else 'a number'}")
    return value


def _try(kind: Any, options: Mapping[str, Any]) -> None:
    """Two steps of a small matrix: torch looks at some values only when it steps."""
    weight = torch.ones(2, 2, requires_grad=True)
    optimizer = kind([weight], **options)
    for _ in range(2):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
