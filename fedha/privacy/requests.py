"""What is wrong with a request, before anything is computed from it: the sentence names no number of the data.

Whoever sends a request may want its answer to tell more than was agreed on. So every number that a client would compute
with is looked at, with every request: what the bounds on sums are proven for (`fedha.privacy.clipping`) is let through.
"""

import math
from collections.abc import Iterator, Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fedha.config import LARGEST, SMALLEST, PrivacyConfig
from fedha.exchange import Request, Task
from fedha.inputs import Form
from fedha.measurement import shapes
from fedha.models.split import SplitModel
from fedha.models.state import state_of
from fedha.privacy.guards import Refusal
from fedha.recipes import Recipe

_References = tuple[Form, tuple[str, ...], int]
_shapes: WeakKeyDictionary[SplitModel, dict[_References, dict[str, torch.Size]]] = WeakKeyDictionary()


def refuse_request(request: Request, model: SplitModel, form: Form) -> Refusal | None:
    """Refuse a round without number, settings out of range, and a model or references that are not what they must be.

    Args:
        request: What the server sent.
        model: This client's own network, whose parameters say which names and shapes are right.
        form: Of its inputs.
    """
    if request.round < 1 or not 0 < request.averaging_weight <= 1:
        asked = f"round {request.round} with a weight of {request.averaging_weight:g}"
        return Refusal("request", f"the server asked for {asked}")
    return refuse_settings(request.task) or _refuse_foreign(request, model, form) or _refuse_values(request)


def refuse_settings(task: Task) -> Refusal | None:
    """Refuse settings that are no numbers, or of a size for which nothing is proven.

    Args:
        task: The run's, as the server sent it.
    """
    for name, value, least, most in (*_of_privacy(task.privacy), *_of_recipe(task.recipe)):
        if not least <= value <= most:  # false for NaN
            return Refusal(
                "request", f"the server sent {name} {value:g}; this site computes with {least:g} to {most:g} alone"
            )
    return None


def _of_privacy(privacy: PrivacyConfig) -> Iterator[tuple[str, float, float, float]]:
    yield "privacy.clip", privacy.clip, SMALLEST, LARGEST
    yield "privacy.statistics_clip", privacy.statistics_clip, SMALLEST, LARGEST
    yield "privacy.statistics_noise", privacy.statistics_noise, SMALLEST, LARGEST
    for name, scale in privacy.scales.items():
        yield f"privacy.scales.{name}", scale, SMALLEST, LARGEST
    for name in ("noise_multiplier", "evaluation_noise"):
        if (value := getattr(privacy, name)) is not None:
            yield f"privacy.{name}", value, math.ulp(0.0), LARGEST


def _of_recipe(recipe: Recipe) -> Iterator[tuple[str, float, float, float]]:
    below_one = math.nextafter(1.0, 0.0)
    for name in ("weight", "warmup_weight", "step_size"):
        yield f"recipe.{name}", getattr(recipe, name), 0.0, LARGEST
    for term in recipe.terms:
        yield f"the weight of {term.statistic}", term.weight, 0.0, LARGEST
        yield f"the client's average of {term.statistic}", term.client_average, 0.0, below_one
        yield f"the reference's average of {term.statistic}", term.reference_average, 0.0, below_one


def _refuse_foreign(request: Request, model: SplitModel, form: Form) -> Refusal | None:
    """Refuse names and shapes that are not those of this site's network."""
    state = state_of(model)
    own = {name: value.shape for name, value in (state.trained | state.running).items()}
    told = {name: value.shape for name, value in {**request.parameters, **request.running}.items()}
    if own != told:
        wrong = sorted(name for name in own.keys() | told.keys() if own.get(name) != told.get(name))
        return Refusal(
            "request",
            f"the model that the server sent is not this site's: {', '.join(wrong)} missing, foreign or of another "
            "shape; do both have one config?",
        )
    for name, shape in _reference_shapes(request, model, form).items():
        if request.references[name].shape != shape:
            return Refusal(
                "request",
                f"the reference {name} that the server sent has shape {tuple(request.references[name].shape)} and "
                f"is {tuple(shape)} of this site's network; do both have one config?",
            )
    return None


def _reference_shapes(request: Request, model: SplitModel, form: Form) -> dict[str, torch.Size]:
    """What the shapes of the averages are that the run's recipe measures, of those that came."""
    recipe = request.task.recipe
    names = tuple(name for group in recipe.measurements() for name in group if name in request.references)
    known, wanted = _shapes.setdefault(model, {}), (form, names, recipe.probes)
    if names and wanted not in known:
        known[wanted] = shapes(model, form, names, recipe.probes)
    return known.get(wanted, {})


def _refuse_values(request: Request) -> Refusal | None:
    """Refuse numbers that are not finite, or of a size that no training ends at."""
    kinds = {"parameter": request.parameters, "reference": request.references}
    for kind, tensors in (kinds | {"rule's tensor": request.sent, "buffer": request.running}).items():
        if (name := _beyond(tensors)) is not None:
            return Refusal(
                "request",
                f"the {kind} {name} that the server sent has numbers that are not finite, or beyond {LARGEST:g}",
            )
    return None


def _beyond(tensors: Mapping[str, Tensor]) -> str | None:
    for name, value in tensors.items():
        if value.numel():
            low, high = (float(end) for end in value.aminmax())
            if not (low >= -LARGEST and high <= LARGEST):  # false for NaN
                return name
    return None
