"""A network called with other tensors in the places of its own."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fedha.errors import FedhaError

_BEYOND = "index out of range in self"  # torch's, of nn.Embedding

Slot = tuple[dict[str, Any], str, str]  # a module's parameters or buffers, a key of these, and the whole name


def call_with(
    module: nn.Module, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> Any:
    """What a module makes of its inputs with these tensors in the places of its parameters and buffers.

    It is `torch.func.functional_call` in one walk through the modules: that one makes lists of all names, which takes
    longer than to launch a large network's step on a GPU.

    Args:
        module: As it was, afterwards.
        tensors: By name; what is left out is the module's own. Names that are tied to one another share what is given
            for any of them.
        args: The module's, by place.
        kwargs: And by name.

    Raises:
        FedhaError: An embedding has no row for a number among the inputs; which one, it does not say.
    """
    slots = _slots(module)
    given = {id(holder[key]): tensors[name] for holder, key, name in slots if name in tensors}
    own = [(holder, key, value) for holder, key, _ in slots if id(value := holder[key]) in given]
    try:
        for holder, key, value in own:
            holder[key] = given[id(value)]
        return module(*args, **(kwargs or {}))
    except IndexError as error:
        if str(error) != _BEYOND:
            raise
        raise FedhaError(
            "an embedding of the network has no row for a whole number among the inputs (a token id that is negative, "
            "or not below num_embeddings); mend the ids, or make the embedding larger"
        ) from error
    finally:
        for holder, key, value in own:
            holder[key] = value


def _slots(module: nn.Module) -> list[Slot]:
    """Where a module and those in it hold tensors."""
    found, ahead = list[Slot](), [("", module)]
    while ahead:
        prefix, one = ahead.pop()
        for holder in (one._parameters, one._buffers):
            found += [(holder, key, prefix + key) for key, value in holder.items() if value is not None]
        ahead += [(f"{prefix}{name}.", child) for name, child in one._modules.items() if child is not None]
    return found
