"""Layers that draw from torch's generator while they are trained: what they draw is repeated wherever it is computed.

Dropout, stochastic depth and the like draw from one generator of the whole process, so that what one client draws
would depend on who came before, and how a batch was cut. Where a network draws at all, each row of a batch has draws of
its own, made of (run seed, round, client, step, the row's place in the batch): on every engine, in every pass, in
pieces of any size and after a resume the same. Which side of what is drawn are the rows is found by trying a network
with batches of two sizes. Networks without chance pay nothing.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from fedha.inputs import Form, arguments
from fedha.models.split import SplitModel, evaluating
from fedha.randomness import generator

Key = tuple[int | str, ...]  # the run's seed first
BLOCK = 2**14  # numbers that are drawn at once, whole rows: a generator for each row would take longer than its numbers

_ATEN = torch.ops.aten
_IN_PLACE = {
    *(_ATEN.bernoulli_.float, _ATEN.uniform_.default, _ATEN.normal_.default, _ATEN.exponential_.default),
    *(_ATEN.geometric_.default, _ATEN.cauchy_.default, _ATEN.log_normal_.default),
}
_LIKE_OTHERS = {
    _ATEN.rand_like.default: _ATEN.uniform_.default,
    _ATEN.randn_like.default: _ATEN.normal_.default,
    _ATEN.bernoulli.default: _ATEN.uniform_.default,  # then held against its argument
    _ATEN.bernoulli.p: _ATEN.bernoulli_.float,  # what torch.func makes of it
}
_OF_A_SIZE = {_ATEN.rand.default: _ATEN.uniform_.default, _ATEN.randn.default: _ATEN.normal_.default}


class Draw(NamedTuple):
    """Where the rows of a batch are in something that is drawn.

    Attributes:
        side: Which of its sides; None: all rows have it together.
        each: How much of that side belongs to one row, such as a number of heads.
    """

    side: int | None
    each: int = 1


Draws = tuple[Draw | None, ...]  # in the order of a forward pass; None: whose it is, is not known


class RandomParts(NamedTuple):
    """What the parts of a network draw; nothing where empty.

    Attributes:
        featurizer: The featurizer.
        head: The head.
    """

    featurizer: Draws
    head: Draws


@dataclass(frozen=True)
class DrawSource:
    """By what some rows of a batch draw.

    Attributes:
        key: Whose first entry is the run's seed.
        draws: What the network draws.
        first: Place in the batch of the first of the rows.
    """

    key: Key
    draws: Draws
    first: int = 0


def random_parts(model: SplitModel, form: Form, *, evaluation: bool = False) -> RandomParts:
    """What the parts of a network draw, tried on two and on four examples of zeros.

    Args:
        model: In the mode in which it is trained; it stays as it is.
        form: Of its inputs.
        evaluation: Whether it is looked at in evaluation mode, in which few draw.
    """
    return _tried(model, form, evaluation)


@lru_cache(maxsize=16)
def _tried(model: SplitModel, form: Form, evaluation: bool) -> RandomParts:
    with evaluating(model) if evaluation else nullcontext():
        few, more = _noted(model, form, 2), None
        if any(few):
            more = _noted(model, form, 4)
    return RandomParts(*(_places(*both) for both in zip(few, more or few, strict=True)))


def _noted(model: SplitModel, form: Form, rows: int) -> tuple[list[torch.Size | None], list[torch.Size | None]]:
    """What featurizer and head draw of so many rows: shapes, or None where these do not tell whose it is."""
    device = next(model.parameters()).device
    inputs, parts = arguments(form.zeros(rows, device=device)), []
    with untouched(device), torch.enable_grad():
        torch.manual_seed(0)
        for part in (model.featurizer, model.head):
            before = generator_state(device)
            with _Noting() as noting:
                inputs = (functional_call(part, kept_apart(part), *inputs),), {}
            moved = not torch.equal(before, generator_state(device))
            parts.append(noting.shapes or ([None] if moved else []))
    return parts[0], parts[1]


def _places(few: Sequence[torch.Size | None], more: Sequence[torch.Size | None]) -> Draws:
    """From what two and four rows draw: the side that is twice as long is the rows'."""
    if len(few) != len(more):
        return (None,) * len(few)
    return tuple(_place(*both) for both in zip(few, more, strict=True))


def _place(few: torch.Size | None, more: torch.Size | None) -> Draw | None:
    if few is None or more is None or len(few) != len(more):
        return None
    if few == more:
        return Draw(None)
    longer = [side for side, (one, other) in enumerate(zip(few, more, strict=True)) if one != other]
    if len(longer) != 1 or more[longer[0]] != 2 * few[longer[0]] or few[longer[0]] % 2:
        return None
    return Draw(longer[0], few[longer[0]] // 2)


def kept_apart(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's buffers, for `functional_call` to write to in their place."""
    return {name: value.clone() for name, value in module.named_buffers()}


@contextmanager
def untouched(device: torch.device) -> Iterator[None]:
    """Leave torch's generators as they are."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def drawing(source: DrawSource | None, device: torch.device) -> Iterator[None]:
    """Draw as a source says, and leave torch's generators as they were.

    Args:
        source: None: nothing is drawn.
        device: Where it is computed.
    """
    if source is None:
        yield
        return
    seed, *rest = source.key
    with untouched(device), _ByRow(source):
        torch.manual_seed(generator(int(seed), *rest, source.first).initial_seed())  # for what no row is known of
        yield


class _Noting(TorchDispatchMode):
    """Notes the shapes of what is drawn.

    What a checkpointed layer draws is drawn again on the way back, from torch's generator, so that nothing may be put
    in its place: such a layer computes without a graph, or with hooks on what is saved.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch declares it to Python alone
        self.shapes: list[torch.Size | None] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler with the first operation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if _draws(func, kwargs):
            again = (
                not torch.is_grad_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
            )
            self.shapes.append(None if again else found.shape)
        return found


class _ByRow(TorchDispatchMode):
    """Puts draws of its own for each row in the place of what a network draws."""

    def __init__(self, source: DrawSource) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._source, self._count = source, itertools.count()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as in `_Noting`

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if not _draws(func, kwargs):
            return func(*args, **given)
        number = next(self._count)
        draw = self._source.draws[number] if number < len(self._source.draws) else None
        if draw is None:
            return func(*args, **given)
        into, fill, more = _emptied(func, args, {name: one for name, one in given.items() if name != "generator"})
        filled = self._fill(into, partial(_filled, fill, more), number, draw)
        return (filled < args[0]).to(filled.dtype) if func is _ATEN.bernoulli.default else filled

    def _fill(
        self, into: Tensor, filled: Callable[[Tensor, torch.Generator], Tensor], number: int, draw: Draw
    ) -> Tensor:
        """Draw a tensor's rows, block by block of the batch's."""
        if draw.side is None:
            return filled(into, self._generator(number, 0, into.device))
        shape = (*into.shape[: draw.side], *into.shape[draw.side + 1 :])
        size = max(1, BLOCK // max(1, draw.each * torch.Size(shape).numel()))
        first = self._source.first
        end, found = first + into.shape[draw.side] // draw.each, list[Tensor]()
        for start in range(first - first % size, end, size):
            block = filled(into.new_empty(size * draw.each, *shape), self._generator(number, start, into.device))
            found.append(block[max(0, first - start) * draw.each : (end - start) * draw.each])
        return into.copy_(torch.cat(found).movedim(0, draw.side)) if found else into

    def _generator(self, number: int, row: int, device: torch.device) -> torch.Generator:
        seed, *rest = self._source.key
        made = generator(int(seed), *rest, number, row)
        return made if device.type == "cpu" else torch.Generator(device).manual_seed(made.initial_seed())


def _emptied(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Any, Any]:
    """What an operation would fill, with what, and what else it takes."""
    if func in _IN_PLACE:
        return args[0], func, args[1:]
    if func in _OF_A_SIZE:
        return torch.empty(args[0], **kwargs), _OF_A_SIZE[func], ()
    return torch.empty_like(args[0], **kwargs), _LIKE_OTHERS[func], args[1:]


def _filled(fill: Any, more: Any, into: Tensor, source: torch.Generator) -> Tensor:
    drawn: Tensor = fill(into, *more, generator=source)
    return drawn


def _draws(func: Any, kwargs: Any) -> bool:
    """Whether an operation draws numbers, each by itself, from torch's own generator."""
    known = func in _IN_PLACE or func in _LIKE_OTHERS or func in _OF_A_SIZE
    return known and not (kwargs and kwargs.get("generator") is not None)


def generator_state(device: torch.device) -> Tensor:
    """The state of what layers draw from."""
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    return torch.cat(states)
