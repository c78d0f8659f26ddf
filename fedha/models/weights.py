"""Weights from a file: which array is which of a network's, and what was missing or left over."""

import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fedha.errors import FedhaError, brief, listed

NONE, PRETRAINED = "none", "pretrained"
_WITHIN = ("state_dict", "model_state_dict", "model", "net", "network")  # where training scripts put it
_BEFORE = ("_orig_mod.", "module.", "model.", "network.", "backbone.", "encoder.")  # what wraps it
_COUNTER = "num_batches_tracked"  # of steps: files of old lack it, and evaluation does not read it
_FEW = 3
_TOLERATED = 0.1  # of the arrays: what lacks more, or has more beside, is another network

Named = dict[str, Tensor]
Adapt = Callable[[Named, nn.Module], Mapping[str, Any]]


def fill(trunk: nn.Module, path: Path, classifier: Sequence[str] = (), adapt: Adapt | None = None) -> str:
    """Put a file's weights into a network without its classifier.

    Args:
        trunk: Changed in place.
        path: A file of safetensors, or what ``torch.save(network.state_dict(), path)`` wrote.
        classifier: The names of the layers that were taken off.
        adapt: What its library does with files of other layouts.

    Returns:
        What was taken, missing and left over, in a sentence.

    Raises:
        FedhaError: The file cannot be read, holds code instead of numbers, or the weights of another network.
    """
    found = read(path)
    if wrong := [name for name, value in found.items() if not bool(value.float().isfinite().all())]:
        raise FedhaError(
            f"model.weights {path} holds numbers that are not finite, in {listed(wrong)}; take the file from where it "
            "came once more, or save the network before it came apart"
        )
    own = {name: value for name, value in trunk.state_dict().items() if isinstance(value, Tensor)}
    for taken, how in _readings(found, own, trunk, adapt):
        missing = [name for name in own if name not in taken and not name.endswith(_COUNTER)]
        strange = [name for name in taken if name not in own and not _is_below(name, classifier)]
        if _is_it(taken, own, missing, strange):
            trunk.load_state_dict({name: taken[name] for name in own if name in taken}, strict=False)
            return _told(path, taken, own, missing, strange, classifier) + how
    raise FedhaError(_refusal(path, _plain(found, own), own, classifier))


def read(path: Path) -> Named:
    """A file's arrays by name.

    Raises:
        FedhaError: As `fill`.
    """
    if not path.is_file():
        raise FedhaError(f"model.weights is {path}, and there is no such file; name one, or pretrained, or none")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file:
            begins = file.read(2)
        if begins != b"PK" and begins[:1] != b"\x80":  # torch's archives, and its pickles of old
            raise ValueError("it is empty" if not begins else "it is no file of torch's")
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FedhaError(
            f"model.weights {path} holds more than numbers and is not loaded, since that would run code of whoever "
            "made it; where you trust it, load it yourself and write torch.save(network.state_dict(), path)"
        ) from error
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise FedhaError(
            f"cannot read model.weights {path}: {brief(error)}; give a file of safetensors, or what "
            "torch.save(network.state_dict(), path) wrote"
        ) from error
    arrays = _arrays(held)
    if not arrays:
        raise FedhaError(
            f"model.weights {path} holds a {type(held).__name__} without arrays by name; write "
            "torch.save(network.state_dict(), path)"
        )
    return arrays


def _arrays(held: object) -> Named:
    """The arrays of a state dict, or of one within what a training script saved."""
    if not isinstance(held, Mapping):
        return {}
    within = next((held[key] for key in _WITHIN if isinstance(held.get(key), Mapping)), held)
    return {str(name): one for name, one in within.items() if isinstance(one, Tensor)}


def _readings(found: Named, own: Named, trunk: nn.Module, adapt: Adapt | None) -> Iterable[tuple[Named, str]]:
    """The file's arrays by the network's names, in each way that there is, and what to say of it."""
    yield _plain(found, own), ""
    if adapt is not None:
        try:
            made = adapt(dict(found), trunk)
        except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError, AssertionError):
            made = {}  # it is of no layout that the library knows
        yield {name: one for name, one in made.items() if isinstance(one, Tensor)}, ""
    if ordered := _in_order(found, own, trunk):
        yield ordered, "; the file has other names, so its arrays were matched in order, by kind and shape"


def _plain(found: Named, own: Named) -> Named:
    """By name, without what wraps them: the same prefix before all."""
    best, most = found, len(own.keys() & found.keys())
    for prefix in _BEFORE:
        bare = {name.removeprefix(prefix): one for name, one in best.items()}
        if len(own.keys() & bare.keys()) > most or prefix == "_orig_mod.":
            best, most = bare, len(own.keys() & bare.keys())
    return best


def _in_order(found: Named, own: Named, trunk: nn.Module) -> Named:
    """Arrays in the order of the network's where the kind and shape of all agree; what follows them keeps its name.

    Networks of one design list their layers as they are computed, whatever they call them. Attention is left out: its
    projections have one shape, and not one order.
    """
    if any("attention" in type(one).__name__.lower() for one in trunk.modules()):
        return {}
    mine = {name: one for name, one in own.items() if not name.endswith(_COUNTER)}
    theirs = [(name, one) for name, one in found.items() if not name.endswith(_COUNTER)]
    pairs = list(zip(mine.items(), theirs, strict=False))
    same = len(theirs) >= len(mine) and all(
        (_kind(name), value.shape) == (_kind(other), one.shape) for (name, value), (other, one) in pairs
    )
    if not same:
        return {}
    rest = {name: one for name, one in theirs[len(mine) :] if name not in own}
    return {name: one for (name, _), (_, one) in pairs} | rest


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _is_it(taken: Named, own: Named, missing: Sequence[str], strange: Sequence[str]) -> bool:
    """Whether these are the network's weights: shapes agree, and nearly nothing is missing of it, or beside it."""
    families = {name.partition(".")[0] for name in own}
    inside = [name for name in strange if name.partition(".")[0] in families and not name.endswith(_COUNTER)]
    fits = all(taken[name].shape == value.shape for name, value in own.items() if name in taken)
    most = _TOLERATED * sum(not name.endswith(_COUNTER) for name in own)
    return fits and len(missing) <= most and len(inside) <= most


def _is_below(name: str, layers: Sequence[str]) -> bool:
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)


def _told(
    path: Path, taken: Named, own: Named, missing: Sequence[str], strange: Sequence[str], classifier: Sequence[str]
) -> str:
    used = sum(name in taken for name in own if not name.endswith(_COUNTER))
    lack = f"{len(missing)} missing and drawn anew ({listed(missing, _FEW)})" if missing else "none missing"
    head = [name for name in taken if name not in own and _is_below(name, classifier)]
    left = [
        *([f"the classifier {listed(head, _FEW)}"] if head else []),
        *([f"{len(strange)} more ({listed(strange, _FEW)})"] if strange else []),
    ]
    return f"model.weights {path}: {used} arrays taken, {lack}, left over {' and '.join(left) or 'none'}"


def _refusal(path: Path, found: Named, own: Named, classifier: Sequence[str]) -> str:
    other = "name the architecture that they are of"
    for name, value in own.items():
        if name in found and found[name].shape != value.shape:
            shapes = f"{tuple(found[name].shape)} there and {tuple(value.shape)} in the network"
            return f"model.weights {path} are of another network: {name} is {shapes}; {other}"
    lack = [name for name in own if name not in found and not name.endswith(_COUNTER)]
    more = [name for name in found if name not in own and not _is_below(name, classifier)]
    return (
        f"model.weights {path} are of another network: {len(lack)} of its {len(own)} arrays are missing there "
        f"({listed(lack, _FEW) or 'none'}), and {len(more)} are not its own ({listed(more, _FEW) or 'none'}); {other}"
    )
