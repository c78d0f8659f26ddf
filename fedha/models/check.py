"""Whether a network can be trained by many clients alike, and fits the data and the arrays that it is sent."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedha.errors import FedhaError
from fedha.inputs import Form, arguments, nested, several
from fedha.models.split import SplitModel

_START = "start from {name: value.detach() for name, value in network().named_parameters()}"


def check_network(model: object) -> SplitModel:
    """Return a network that can be trained, or say what is wrong with it.

    Args:
        model: What somebody's function made.

    Raises:
        FedhaError: It is no `SplitModel`, has nothing to train, or a part that clients would not share: running
            statistics, chance, or parameters that are frozen (they would be trained like the others).
    """
    if not isinstance(model, SplitModel):
        what = "a state_dict" if isinstance(model, Mapping) else f"a {type(model).__name__}"
        raise FedhaError(
            f"the network is {what}, not a fedha.models.SplitModel; give its two parts, as in "
            "SplitModel(backbone, nn.Linear(512, 10))"
        )
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats and module.training:
            raise FedhaError(
                f"module {name!r} keeps running statistics, which clients would not share; use GroupNorm, "
                "or freeze it with .eval()"
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise FedhaError(
                f"module {name!r} draws from torch's global generator, so that no run could be repeated and statistics "
                "would be of another model than is trained; take it out, or switch it off with .eval()"
            )
    check_trainable(model)
    return model


def check_trainable(model: nn.Module) -> None:
    """Refuse a network with frozen parameters, which would be trained like all others, or with none at all.

    Raises:
        FedhaError: Names the frozen ones.
    """
    parameters = dict(model.named_parameters())
    if not parameters:
        raise FedhaError("the network has no parameters, so there is nothing to train; give it layers")
    frozen = [name for name, value in parameters.items() if not value.requires_grad]
    if frozen:
        raise FedhaError(
            f"the network's {_some(frozen)} frozen (requires_grad=False), and frozen parameters cannot be kept yet: "
            "every parameter is trained. Make them buffers, or call model.requires_grad_()"
        )


def check_parameters(model: nn.Module, sent: Mapping[str, Sequence[int]]) -> None:
    """Refuse arrays that are not a network's parameters.

    Args:
        model: The client's network.
        sent: Shapes by name, of what the server starts from.

    Raises:
        FedhaError: Some are missing, foreign, buffers, or of another shape; names them.
    """
    own = {name: tuple(value.shape) for name, value in model.named_parameters()}
    buffers = [name for name, _ in model.named_buffers() if name in sent]
    if buffers:
        raise FedhaError(
            f"of the arrays that the server starts from, {_some(buffers)} no parameters but buffers of the network and "
            f"would be trained; {_START}"
        )
    for what, names in (("lack", own.keys() - sent.keys()), ("hold", sent.keys() - own.keys())):
        if names:
            foreign = ", which the network does not have" if what == "hold" else ", which the network has"
            raise FedhaError(f"the arrays that the server starts from {what} {_list(sorted(names))}{foreign}; {_START}")
    for name, shape in own.items():
        if tuple(sent[name]) != shape:
            raise FedhaError(
                f"the array {name!r} that the server starts from has shape {tuple(sent[name])} but the client's "
                f"network {shape}; build both with the same function"
            )


_taken: WeakKeyDictionary[SplitModel, dict[Form, bool]] = WeakKeyDictionary()  # a trial takes a while


def takes(model: SplitModel, form: Form) -> bool:
    """Whether a network takes inputs of a form, such as whole numbers: one that begins with an embedding does.

    Args:
        model: Tried on zeros, once.
        form: Of its inputs.
    """
    known = _taken.setdefault(model, {})
    if form not in known:
        known[form] = _tried(model, form)
    return known[form]


def _tried(model: SplitModel, form: Form) -> bool:
    inputs, state = form.zeros(2, device=next(model.parameters()).device), _state(model)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            functional_call(model, state, (inputs,))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return False
    return True


def likely_form(model: SplitModel, input_shape: Any) -> Form:
    """What a network's inputs are where only their shape is known: floating, or whole numbers where it takes no others.

    Args:
        model: Tried on zeros.
        input_shape: Of one input; of several, a tuple of shapes or shapes by name.
    """
    parts = several(input_shape) if nested(input_shape) else {"": input_shape}
    shapes, names = tuple(map(tuple, parts.values())), tuple(parts) if isinstance(input_shape, Mapping) else ()
    kinds = (next(model.parameters()).dtype, torch.int64)
    forms = [Form(shapes, some, names, not nested(input_shape)) for some in product(kinds, repeat=min(len(parts), 8))]
    return next((one for one in forms if takes(model, one)), forms[0])


def check_inputs(model: SplitModel, domain: str, form: Form | Sequence[int]) -> int:
    """The number of classes that a network tells apart, once it has been tried on inputs of this shape.

    Args:
        model: Tried on zeros, so that what it says depends on no example.
        domain: Whose inputs.
        form: Of its inputs, or the shape of one.

    Returns:
        C; 2 for a network with one logit.

    Raises:
        FedhaError: It cannot take them, or what it gives are no features [n, D - 1] or no logits [n, C].
    """
    like, before = next(model.parameters()), _state(model)
    wanted = Form.of(form, like.dtype)
    shape, (by_place, by_name) = wanted.input_shape, arguments(wanted.zeros(2, device=like.device))
    with torch.no_grad():
        try:
            features = model.featurizer(*by_place, **by_name)
            _check_output("featurizer", features, "[n, features]; end it with nn.Flatten()")
            logits = model.head(features)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            last = wanted.alone and len(shape) == 3 and shape[2] in (1, 3, 4) and shape[0] not in (1, 3, 4)
            hint = "move the channels to the front with inputs.permute(0, 3, 1, 2)" if last else "change one of the two"
            raise FedhaError(
                f"the network cannot take the inputs of domain {domain!r}, of shape {shape} each: {reason}; {hint}"
            ) from error
    _check_output("head", logits, "[n, classes]")
    after = _state(model)
    changed = [name for name, value in before.items() if name not in after or not _same(value, after[name])]
    if changed:
        raise FedhaError(
            f"the network writes to {_list(changed)} when it is given inputs, so that one client's inputs would change "
            "another's model; let it compute without a memory"
        )
    return max(2, int(logits.shape[1]))


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {name: value.detach().clone() for name, value in (*model.named_parameters(), *model.named_buffers())}


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one != one)).all())


def _check_output(part: str, value: object, wanted: str) -> None:
    if not isinstance(value, Tensor):
        raise FedhaError(f"the network's {part} gives a {type(value).__name__}; let it return a tensor {wanted}")
    if value.ndim != 2 or len(value) != 2 or not value.shape[1]:
        raise FedhaError(f"the network's {part} gives {tuple(value.shape)} for 2 inputs; it must give {wanted}")


def _some(names: Sequence[str]) -> str:
    return f"{_list(names)} {'is' if len(names) == 1 else 'are'}"


def _list(names: Sequence[str]) -> str:
    more = len(names) - 3
    return ", ".join(map(repr, names[:3])) + (f" and {more} more" if more > 0 else "")
