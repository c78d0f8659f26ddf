"""Objects that a program hands over, for as long as its process lives: known by a digest, which is what is recorded.

Nothing is pickled. Another process has none of them; who goes on with such a run hands the same object over again.
"""

import dataclasses
import hashlib
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fedha.errors import FedhaError

NAME = "objects"  # what a config says in the place of a name

_objects: dict[str, Any] = {}


def put_object(digest: str, value: Any) -> None:
    """Make an object known to this process by its digest."""
    _objects[digest] = value


def get_object(key: str, digest: object) -> Any:
    """The object with this digest.

    Args:
        key: The config's, such as ``data``.
        digest: As the config records it.

    Raises:
        FedhaError: Nobody has handed it over in this process.
    """
    if str(digest) not in _objects:
        raise FedhaError(
            f"the {key} of this run were objects of a program, known by the digest {str(digest)[:12]}, which this "
            "process does not have; hand them over again (fedha.simulate(…, resume=True), fedha.load(RUN, model=…)), "
            "or let the config name a function: package.module:function"
        )
    return _objects[str(digest)]


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A tensor that is never held whole.

    Attributes:
        shape: Of all of it.
        dtype: Likewise.
        pieces: One after the other along the first axis.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Iterable[Tensor]


def digest_of(parts: Iterable[tuple[str, Tensor | Pieces]]) -> str:
    """A digest of named tensors: names, shapes, types and every byte."""
    total = hashlib.sha256()
    for name, value in parts:
        total.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        for piece in value.pieces if isinstance(value, Pieces) else (value,):
            total.update(piece.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()[:32]


def code_digest(value: Any) -> str:
    """A digest of a function, or of a value made of functions: their code, and the values that they are made with.

    Of an object that is none of these its type alone is seen, and of a function that is called its name.
    """
    total = hashlib.sha256()
    for part in _digested(value, set()):
        total.update(part)
        total.update(b"\n")
    return total.hexdigest()[:32]


def _digested(value: Any, seen: set[int]) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield digest_of([("", value)]).encode()
    elif value is None or isinstance(value, str | bytes | int | float | bool | complex):
        yield repr(value).encode()
    elif id(value) in seen:
        yield b"again"
    else:
        seen.add(id(value))
        for part in _parts(value):
            yield from _digested(part, seen)


def _parts(value: Any) -> Iterable[Any]:
    """What an object is made of."""
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [name, value.__code__, value.__defaults__, value.__kwdefaults__, *cells]
    if isinstance(value, types.MethodType):
        return [name, value.__func__, value.__self__]
    if isinstance(value, types.CodeType):
        return [name, value.co_code, value.co_consts, value.co_names, value.co_varnames, value.co_freevars]
    if isinstance(value, Mapping):
        return [name, *(part for pair in value.items() for part in pair)]
    if isinstance(value, tuple | list):
        return [name, *value]
    if isinstance(value, frozenset | set):
        return [name, *sorted(value, key=repr)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [name, *(part for one in dataclasses.fields(value) for part in (one.name, getattr(value, one.name)))]
    return [name]
