"""What is wrong with a request, before anything is computed from it: the sentence names no number of the data.

Whoever sends a request may want its answer to tell more than was agreed on. So every number that a client would compute
with is looked at, with every request: what the bounds on sums are proven for (`fedha.privacy.clipping`) is let through.
"""

import math
from collections.abc import Iterator, Mapping
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from fedha.config import LARGEST, SMALLEST, PrivacyConfig
from fedha.exchange import Request, Task
from fedha.inputs import Form
from fedha.measurement import shapes
from fedha.models.split import SplitModel
from fedha.models.state import state_of
from fedha.privacy.contract import task_terms
from fedha.privacy.guards import Refusal
from fedha.privacy.site import sensitive
from fedha.recipes import Recipe

_SQUARED = 1e19  # what float32 holds the square of no more, so that no distance to it is finite
_WIDEST = 2.0**40  # of a setting: the largest that a schema has, `privacy.bound`
_TASKS = 8  # that are remembered

_settled: dict[int, tuple[Task, Refusal | None]] = {}
_looked: dict[str, tuple[float, tuple[ref[Tensor], ...], str | None]] = {}

_References = tuple[Form, tuple[str, ...], int]
_shapes: WeakKeyDictionary[SplitModel, dict[_References, dict[str, torch.Size]]] = WeakKeyDictionary()


def refuse_request(request: Request, model: SplitModel, form: Form) -> Refusal | None:
    """Refuse what `refuse_numbers` does, and a model or references that are not what they must be.

    Args:
        request: What the server sent.
        model: This client's own network, whose parameters say which names, shapes and types are right.
        form: Of its inputs.
    """
    return refuse_numbers(request) or _refuse_foreign(request, model, form)


def refuse_numbers(request: Request) -> Refusal | None:
    """Refuse a round without number, settings out of range, and tensors of a size that no training ends at.

    It is asked of every request, whether its run covers anything or not.

    Args:
        request: What the server sent.
    """
    if request.round < 1 or not 0 < request.averaging_weight <= 1:
        asked = f"round {request.round} with a weight of {request.averaging_weight:g}"
        return Refusal("request", f"the server asked for {asked}")
    return refuse_settings(request.task) or _refuse_values(request)


def refuse_settings(task: Task) -> Refusal | None:
    """Refuse settings that are no numbers, or of a size for which nothing is proven.

    Args:
        task: The run's, as the server sent it; looked at once, for it never changes.
    """
    known = _settled.get(id(task))
    if known is None or known[0] is not task:
        if len(_settled) >= _TASKS:
            _settled.clear()
        known = _settled[id(task)] = task, _refuse_settings(task)
    return known[1]


def _refuse_settings(task: Task) -> Refusal | None:
    for name, value, least, most in (*_of_privacy(task.privacy), *_of_recipe(task.recipe), *_of_all(task)):
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
    for name in ("weight", "warmup_weight", "step_size", "mixup_alpha", "sam_radius", "warmup_rounds", "probes"):
        yield f"recipe.{name}", getattr(recipe, name), 0.0, LARGEST
    for term in recipe.terms:
        yield f"the weight of {term.statistic}", term.weight, 0.0, LARGEST
        yield f"the client's average of {term.statistic}", term.client_average, 0.0, below_one
        yield f"the reference's average of {term.statistic}", term.reference_average, 0.0, below_one


def _of_all(task: Task) -> Iterator[tuple[str, float, float, float]]:
    """Every number of a task but the seed: how fast is trained, how much is decayed."""
    for name, value in task_terms(task).items():
        for one in value if isinstance(value, list) else (value,):
            if isinstance(one, int | float) and name != "seed":
                yield name, one, -_WIDEST, _WIDEST


def _refuse_foreign(request: Request, model: SplitModel, form: Form) -> Refusal | None:
    """Refuse names, shapes and types that are not those of this site's network."""
    state = state_of(model)
    own = {name: (value.shape, value.dtype) for name, value in (state.trained | state.running).items()}
    told = {name: (value.shape, value.dtype) for name, value in {**request.parameters, **request.running}.items()}
    if own != told:
        wrong = sorted(name for name in own.keys() | told.keys() if own.get(name) != told.get(name))
        return Refusal(
            "request",
            f"the model that the server sent is not this site's: {', '.join(wrong)} missing, foreign or of another "
            "shape or type; do both have one config?",
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
    bound = LARGEST if sensitive(request.task.privacy) else _SQUARED  # a run that comes apart is told as such below it
    kinds = {"parameter": request.parameters, "reference": request.references}
    for kind, tensors in (kinds | {"rule's tensor": request.sent, "buffer": request.running}).items():
        if tensors and (name := _beyond_once(kind, tensors, bound)) is not None:
            return _too_large(f"{kind} {name}", bound)
    return None


def _beyond_once(kind: str, tensors: Mapping[str, Tensor], most: float) -> str | None:
    """As `beyond`; tensors that were the last of their kind, as a process' clients share them, are known."""
    known = _looked.get(kind)
    last = known[1] if known is not None and known[0] == most else ()
    if known is not None and len(last) == len(tensors) and all(map(_is, last, tensors.values())):
        return known[2]
    found = beyond(tensors, most)
    _looked[kind] = most, tuple(map(ref, tensors.values())), found
    return found


def _is(known: ref[Tensor], value: Tensor) -> bool:
    return known() is value


def refuse_constants(model: SplitModel, sent: Mapping[str, Tensor]) -> Refusal | None:
    """Refuse frozen parameters of such a size; a buffer may hold anything, such as a mask of minus infinity.

    Args:
        model: This client's own network.
        sent: What the server sent for what of it never moves.
    """
    own = {name for name, _ in model.named_parameters()}
    name = beyond({name: value for name, value in sent.items() if name in own}, LARGEST)
    return None if name is None else _too_large(f"frozen parameter {name}", LARGEST)


def _too_large(what: str, most: float) -> Refusal:
    return Refusal(
        "request",
        f"the {what} that the server sent has numbers that are not finite, or beyond {most:g}; where the run is "
        "honest, lower training.learning_rate or the recipe's weight",
    )


def beyond(tensors: Mapping[str, Tensor], most: float) -> str | None:
    """The first of some tensors that has numbers that are not finite, larger than these, or complex; None of none."""
    filled = [value for value in tensors.values() if value.numel()]
    if filled and all(value.is_cuda and value.is_floating_point() for value in filled):
        largest = torch.stack([one.double() for one in torch._foreach_norm(filled, math.inf)])
        if bool((largest <= most).all()):  # one look at all, since each waits for a card; false for NaN
            return None
    for name, value in tensors.items():
        if value.is_complex():
            return name
        if value.numel():
            low, high = (float(end) for end in value.aminmax())
            if not (low >= -most and high <= most):  # false for NaN
                return name
    return None
