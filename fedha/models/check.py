"""Whether a network can be trained by many clients alike, and fits the data and the arrays that it is sent."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedha.config import PrivacyConfig, TrainingConfig
from fedha.errors import FedhaError
from fedha.inputs import Form, arguments, nested, several
from fedha.models.random_layers import kept_apart, untouched
from fedha.models.split import SplitModel, ending_with_head
from fedha.models.state import BUFFER, MOVED, TIED, kinds_of, moving_layers, named_state, state_of

_PRECISIONS = (torch.float32, torch.float64)
_START = "start from network().state_dict(), of the same function"


def check_network(model: object) -> SplitModel:
    """Return a network that can be trained, or say what is wrong with it.

    Args:
        model: What somebody's function made.

    Raises:
        FedhaError: It is no `SplitModel`, has nothing to train, or is too coarse.
    """
    if not isinstance(model, SplitModel):
        what = "a state_dict" if isinstance(model, Mapping) else f"a {type(model).__name__}"
        raise FedhaError(
            f"the network is {what}, not a fedha.models.SplitModel; give its two parts, as in "
            "SplitModel(backbone, nn.Linear(512, 10))"
        )
    check_trainable(model)
    return model


def check_trainable(model: nn.Module) -> None:
    """Refuse a network without anything to train, or whose numbers are too coarse to be trained by many.

    Raises:
        FedhaError: It has no parameters, all of them are frozen, or some are neither float32 nor float64.
    """
    parameters = [value.requires_grad for value in model.parameters()]
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(value):
            raise FedhaError(
                f"{name!r} has no shape yet, for its layer is a lazy one; call the network once where it is made, as "
                "in network(torch.zeros(1, 8))"
            )
    if not parameters:
        raise FedhaError("the network has no parameters, so there is nothing to train; give it layers")
    if not any(parameters):
        raise FedhaError(
            "all parameters of the network are frozen (requires_grad=False), so there is nothing to train; leave the "
            "head's, at least, with model.head.requires_grad_()"
        )
    for name, value in model.named_parameters():
        if value.dtype not in _PRECISIONS and (value.requires_grad or value.dtype == torch.bfloat16):
            raise FedhaError(
                f"parameter {name!r} is {value.dtype}, too coarse for statistics and sums; call model.float(), and "
                "compute the featurizer alone in lower precision (fedha.models.split.MixedPrecision)"
            )


def check_batch_norm(model: SplitModel, training: TrainingConfig, privacy: PrivacyConfig) -> None:
    """Refuse a choice for running statistics that this network, or this training, cannot keep.

    Args:
        model: In the mode in which it is trained.
        training: How.
        privacy: What is covered.

    Raises:
        FedhaError: Names the layer, or the setting.
    """
    policy, layers = model.batch_norm, list(moving_layers(model))
    if policy == "frozen":
        return
    chosen = f"model.batch_norm is {policy!r}"
    if not layers:
        raise FedhaError(
            f"{chosen}, but no layer of the network that is in training mode keeps running statistics; leave it out, "
            "or call .train() on the network"
        )
    if inside := [name for name in layers if name.startswith("head")]:
        raise FedhaError(
            f"{chosen}, but layer {inside[0]!r} is in the head, whose statistics are of single examples; "
            "let the featurizer end with it"
        )
    if policy == "local" and training.mode != "local":
        raise FedhaError(
            f"{chosen}, but training.mode is {training.mode!r}, in which clients take no steps of their own; take "
            "training.mode local, or model.batch_norm averaged"
        )
    if privacy.protect != "nothing":
        kind = type(model.get_submodule(layers[0])).__name__
        raise FedhaError(
            f"{chosen} and privacy.protect {privacy.protect!r}, but what layer {layers[0]!r} ({kind}) makes statistics "
            "of is not clipped, and no noise covers them; take model.batch_norm frozen, or nn.GroupNorm"
        )


def check_parameters(model: nn.Module, sent: Mapping[str, Sequence[int]]) -> None:
    """Refuse arrays that are not a network's state.

    Args:
        model: The client's network.
        sent: Shapes by name, of what the server starts from: ``state_dict()``, or the parameters alone.

    Raises:
        FedhaError: Some are missing, foreign, or of another shape; names them.
    """
    kinds = kinds_of(model)
    own = {name: value.shape for name, value in named_state(model).items()}
    rest = {name for name, kind in kinds.items() if kind == BUFFER or kind.startswith(TIED)}
    _check_arrays({name: own[name] for name in own if rest & sent.keys() or name not in rest}, sent)


def check_request(model: nn.Module, parameters: Mapping[str, Tensor], running: Mapping[str, Tensor]) -> None:
    """Refuse what a server sends in a round where it is not what the network trains and moves.

    Args:
        model: The client's network.
        parameters: What is trained, by name.
        running: What moves beside it.

    Raises:
        FedhaError: As `check_parameters`.
    """
    state = state_of(model)
    for own, sent in ((state.trained, parameters), (state.running, running)):
        _check_arrays({name: one.shape for name, one in own.items()}, {name: one.shape for name, one in sent.items()})


def _check_arrays(own: Mapping[str, Sequence[int]], sent: Mapping[str, Sequence[int]]) -> None:
    for what, names in (("lack", own.keys() - sent.keys()), ("hold", sent.keys() - own.keys())):
        if names:
            foreign = "does not have" if what == "hold" else "has"
            raise FedhaError(
                f"the arrays that the server starts from {what} {_list(sorted(names))}, which the network {foreign}; "
                f"{_START}"
            )
    for name, shape in own.items():
        if tuple(sent[name]) != tuple(shape):
            raise FedhaError(
                f"the array {name!r} that the server starts from has shape {tuple(sent[name])} but the client's "
                f"network {tuple(shape)}; build both with the same function"
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
    device = next(model.parameters()).device
    try:
        with untouched(device), torch.no_grad():
            functional_call(model, kept_apart(model), (form.zeros(2, device=device),))
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
        FedhaError: It cannot take them, what it gives are no features [n, D - 1] or no logits [n, C], or it writes to
            what is constant.
    """
    like, before = next(model.parameters()), {name: value.clone() for name, value in _state(model).items()}
    wanted = Form.of(form, like.dtype)
    shape, (by_place, by_name) = wanted.input_shape, arguments(wanted.zeros(2, device=like.device))
    with torch.no_grad(), untouched(like.device):
        try:
            with ending_with_head(model.featurizer):
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
    with torch.no_grad():
        for name in {*changed} & after.keys():
            after[name].copy_(before[name])
    if changed := [name for name in changed if kinds_of(model).get(name) not in MOVED]:
        raise FedhaError(
            f"the network writes to {_list(changed)} when it is given inputs, so that one client's inputs would change "
            "another's model; let it compute without a memory"
        )
    return max(2, int(logits.shape[1]))


def _state(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers."""
    return {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one != one)).all())


def _check_output(part: str, value: object, wanted: str) -> None:
    if not isinstance(value, Tensor):
        raise FedhaError(f"the network's {part} gives a {type(value).__name__}; let it return a tensor {wanted}")
    if value.ndim != 2 or len(value) != 2 or not value.shape[1]:
        raise FedhaError(f"the network's {part} gives {tuple(value.shape)} for 2 inputs; it must give {wanted}")


def _list(names: Sequence[str]) -> str:
    more = len(names) - 3
    return ", ".join(map(repr, names[:3])) + (f" and {more} more" if more > 0 else "")
