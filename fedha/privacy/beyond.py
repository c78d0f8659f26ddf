"""Layers that look beyond one example: nothing bounds what an example does where the others' numbers hold some of it.

Known kinds are named at sight. Whatever else a network is made of is tried, on inputs that are nobody's: an example's
numbers may not change with its neighbours, nothing may be drawn, and nothing may be left behind for the next example.
It is tried as it is, and once more at other parameters: those of a request are the server's, and a factor that a
network begins with at zero need not stay there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from fedha.errors import FedhaError
from fedha.inputs import Form, Inputs, each
from fedha.randomness import generator

_ROUNDING = 1e-4  # relative to the largest number: batches of one size are computed alike, to the bit or nearly


@dataclass(frozen=True)
class _Pass:
    """What a layer did with a batch.

    Attributes:
        taken: The first tensor that went in, if any.
        given: The first that came out.
        chance: The state of torch's generators at its end.
    """

    taken: Tensor | None
    given: Tensor | None
    chance: Tensor


def refuse_beyond_examples(model: nn.Module, form: Form | Sequence[int]) -> None:
    """Raise unless every layer treats an example alone, draws nothing at random and keeps nothing.

    Args:
        model: As clients hold it, in the mode in which they train.
        form: Of its inputs, or the shape of one.

    Raises:
        FedhaError: Names the first layer that does not, and what to do about it.
    """
    for name, module in model.named_modules():
        if problem := _known_kind(module):
            raise FedhaError(f"layer {name!r} ({type(module).__name__}) {problem}")
    whole = Form.of(form, next(model.parameters()).dtype)
    if found := _tried(model, whole, {}) or _tried(model, whole, _elsewhere(model)):
        name, problem = found
        who = f"layer {name!r} ({type(model.get_submodule(name)).__name__})" if name else "the network"
        raise FedhaError(f"{who} {problem}")


def _known_kind(module: nn.Module) -> str:
    if isinstance(module, nn.modules.batchnorm._NormBase) and _keeps_or_mixes(module):
        return (
            "makes statistics of the batch, so one example changes the others' gradients; "
            "take model.batch_norm frozen, its statistics being public, or nn.GroupNorm"
        )
    if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
        return "draws at random, which private steps do not repeat; switch it off with eval() or p=0"
    if isinstance(module, nn.RNNBase) and module.training and module.dropout > 0:
        return "draws at random, which private steps do not repeat; switch it off with dropout=0"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
        return "shortens the weights of what it meets, without clip or noise; leave out max_norm"
    return ""


def _keeps_or_mixes(module: nn.modules.batchnorm._NormBase) -> bool:
    across = not isinstance(module, nn.modules.instancenorm._InstanceNorm)  # instance norm stays within an example
    if module.running_mean is None:
        return across
    return module.training


def _elsewhere(model: nn.Module) -> dict[str, Tensor]:
    """What is trained, moved by about as much as a layer's fresh weights are large: nothing of it is zero, or tiny."""
    found = {}
    for name, value in model.named_parameters():
        if value.requires_grad and value.is_floating_point():
            size = 1.0 if value.dim() < 2 else (len(value) / max(1, value.numel())) ** 0.5
            drawn = torch.rand(value.shape, generator=generator(0, "trial", name)) - 0.5
            moved = drawn.sign() * (0.5 + drawn.abs()) * size  # some to either side, or deep networks overflow
            found[name] = value.detach() + moved.to(value)
    return found


def _tried(model: nn.Module, form: Form, parameters: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """The first layer that fails a trial at some parameters, the others being the network's own, and how."""
    some = next(model.parameters())

    def batch(*ones: bool) -> Inputs:
        """Three examples of small whole numbers, which may be token ids."""
        kinds = iter(form.kinds)
        return each(lambda zeros: _batch(zeros, ones).to(next(kinds)), form.zeros(device=some.device))

    kept = {name: value.clone() for name, value in model.named_buffers()}
    devices = [some.device] if some.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        before = _chance(some.device)
        usual = _passed(model, batch(False, False, False), parameters)
        changed = _put_back(model, kept)
        mixed = _passed(model, batch(True, False, True), parameters)
        _put_back(model, kept)
    for name, passed in usual.items():
        if not torch.equal(passed.chance, before):
            return name, "draws at random, which private steps do not repeat; switch it off, for instance with eval()"
    for owner, _, buffer in (name.rpartition(".") for name in changed):
        return owner, f"changes its buffer {buffer!r} with every batch; freeze it, for instance with eval()"
    for name, passed in mixed.items():
        if _differ(passed.given, usual[name].given) and not _differ(passed.taken, usual[name].taken):
            return name, "mixes examples: what it gives for one changes with the others; is its first axis the batch?"
    return None


def _batch(like: Tensor, ones: Sequence[bool]) -> Tensor:
    places = torch.arange(like.numel(), device=like.device).view(like.shape)
    one, other = places % 2, 1 - places // 2 % 2
    return torch.stack([one if own else other for own in ones])


def _put_back(model: nn.Module, kept: Mapping[str, Tensor]) -> list[str]:
    """Give buffers their content back, and name those that had another."""
    changed = [name for name, value in model.named_buffers() if not torch.equal(value, kept[name])]
    for name in changed:
        model.get_buffer(name).copy_(kept[name])
    return changed


def _chance(device: torch.device) -> Tensor:
    """The state of what layers draw from."""
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    return torch.cat(states)


def _passed(model: nn.Module, inputs: Inputs, parameters: Mapping[str, Tensor]) -> dict[str, _Pass]:
    """What each layer does, by name, in the order in which they end."""
    device = next(model.parameters()).device
    passed: dict[str, _Pass] = {}

    def listen(name: str, module: nn.Module) -> RemovableHandle:
        def note(_: nn.Module, taken: Any, given: Any) -> None:
            passed[name] = _Pass(_tensor(taken), _tensor(given), _chance(device))

        return module.register_forward_hook(note)

    handles = [listen(name, module) for name, module in model.named_modules()]
    try:
        functional_call(model, dict(parameters), (inputs,))
    except Exception as error:
        raise FedhaError(
            f"the network cannot be tried on inputs of zeros and ones of shape {Form.like(inputs).input_shape}, to see "
            f"that no layer mixes examples: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return passed


def _tensor(value: Any) -> Tensor | None:
    """The first tensor of what a layer takes or gives."""
    while isinstance(value, tuple | list) and value:
        value = value[0]
    return value.detach().clone() if isinstance(value, Tensor) else None


def _differ(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether the second of three examples differs; where there is no such axis, whether anything does not fit."""
    if one is None or other is None or one.shape != other.shape or one.dim() == 0 or len(one) != 3:
        return False
    mine, theirs = one[1].double(), other[1].double()
    return not torch.allclose(mine, theirs, rtol=0, atol=_ROUNDING * max(1.0, float(mine.abs().max())), equal_nan=True)
