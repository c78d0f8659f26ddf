"""Examples: a source of inputs, with labels that are always in memory. Nobody above asks where inputs are kept."""

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedha.data.numbered import GROUP, as_given, numbered
from fedha.data.taking import taken
from fedha.inputs import Form, Inputs, each, several
from fedha.numerics import aligned

Rows = Tensor | slice | None  # which examples: indices, [m], or truth values, [n]; a stretch of them; or all
Draws = tuple[int, ...]  # seed, round and client: with an example's row they decide what chance does to it

GIVEN = "row as given"  # the column of metadata that says where in a user's own file or array an example is
_LARGE_BYTES = 2**24
BLOCK_BYTES = 2**23  # of inputs that are looked at at once
RANGES = {torch.uint8: 255.0, torch.uint16: 65535.0}  # of images' pixels


@runtime_checkable
class Source(Protocol):
    """Inputs that are not in memory, or are made when they are asked for. Anybody's object with these four is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, ...]."""

    @property
    def dtype(self) -> torch.dtype:
        """Of what `take` gives."""

    def __len__(self) -> int:
        """n."""

    def take(self, rows: Tensor, draws: Draws | None) -> Tensor:
        """The inputs of these rows, [m, ...], on the CPU.

        Args:
            rows: Indices, [m].
            draws: Where chance has a part in them (augmentation); None: they are evaluated.
        """


@dataclass(frozen=True)
class Chosen:
    """Some rows of a source, in an order of their own.

    Attributes:
        source: All of them.
        rows: Which, [n].
    """

    source: Source
    rows: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, ...]."""
        return (len(self.rows), *self.source.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """The source's."""
        return self.source.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor, draws: Draws | None) -> Tensor:
        """As the source."""
        return taken(self.source, self.rows[rows], draws)

    def expect(self, rows: Tensor, draws: Draws | None) -> None:
        """As the source."""
        _expect(self.source, self.rows[rows], draws)

    def digest(self, rows: Tensor, step: int) -> bytes | None:
        """As the source."""
        return digest_of_rows(self.source, self.rows[rows], step)


@dataclass(frozen=True)
class Placement:
    """Where a network computes, and in what precision.

    Attributes:
        device: Its.
        precision: Its parameters'.
        integers: Whether it takes whole numbers as they are, as int64: an embedding's token ids.
    """

    device: torch.device
    precision: torch.dtype
    integers: bool = False


@dataclass(frozen=True)
class Examples:
    """One part of one domain.

    Attributes:
        inputs: As they are kept, [n, ...]: a tensor, a `Source`, or several of them in a tuple or by name. Whole
            numbers stay such until they are taken.
        labels: Class indices, [n], int64.
        groups: Which group an example is in, [n], int64, such as its patient; None: each stands for itself. Of texts
            these are numbers, and the texts are the metadata ``group``.
        metadata: What else is known of each, a column a name, [n].
        divisor: What inputs are divided by when they are taken; None: the range of uint8 and uint16 with an image's
            axes, [n, h, w] or [n, c, h, w], else 1.
        placement: For whom they are taken; None: for nobody yet, as they are kept.
        unusable: Which of them are not to be trained on, [n]: their inputs are taken as NaN; None: none.
    """

    inputs: Any
    labels: Tensor
    groups: Tensor | None = None
    metadata: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    divisor: float | None = None
    placement: Placement | None = None
    unusable: Tensor | None = None

    def __post_init__(self) -> None:
        if self.groups is None or isinstance(self.groups, Tensor):
            return
        given = as_given(self.groups)
        names = {} if given.dtype.kind in "iub" else {GROUP: given}
        object.__setattr__(self, "groups", numbered(given))
        object.__setattr__(self, "metadata", {**names, **self.metadata})

    @classmethod
    def of(cls, inputs: Any, labels: Any, groups: Any = None) -> "Examples":
        """The same from arrays or anything that NumPy makes one of; labels become int64.

        Args:
            inputs: [n, ...], as above.
            labels: [n], whole numbers, of whatever type.
            groups: [n], whole numbers or texts.
        """
        kept = each(lambda one: torch.as_tensor(one) if isinstance(one, numpy.ndarray) else one, inputs)
        return cls(kept, torch.as_tensor(numpy.asarray(labels)).long(), groups)

    def __len__(self) -> int:
        return self.labels.shape[0]  # len() of a tensor takes ten times as long

    @cached_property
    def form(self) -> Form:
        """What `take` gives for one example."""
        kept = Form.like(self.inputs)
        parts = several(self.inputs).values()
        return replace(kept, kinds=tuple(self._kind(one) for one in parts))

    @cached_property
    def shape(self) -> Any:
        """Of one input, without the batch axis; of several, a tuple of shapes or shapes by name."""
        return Form.like(self.inputs).input_shape

    @property
    def is_empty(self) -> bool:
        """Whether there are neither labels nor inputs; those without the others are a fault."""
        return len(self) == 0 and all(len(one) == 0 for one in several(self.inputs).values())

    @property
    def nbytes(self) -> int:
        """What they hold in memory."""
        held = [one.nbytes for one in several(self.inputs).values() if isinstance(one, Tensor)]
        return sum(held) + self.labels.nbytes

    @property
    def device(self) -> torch.device:
        """Where they are in memory."""
        held = (one for one in several(self.inputs).values() if isinstance(one, Tensor))
        return next(held, self.labels).device

    @cached_property
    def in_memory(self) -> bool:
        """Whether there is one input an example, and all of them are in memory."""
        return self.unusable is None and isinstance(self.inputs, Tensor)

    def take(self, rows: Rows = None, draws: Draws | None = None) -> Inputs:
        """Inputs on the network's device and in its precision.

        Args:
            rows: Which; None: all.
            draws: See `Source.take`.

        Returns:
            [m, ...]; a tuple of such, or such by name.
        """
        if self._at_hand:
            return self.inputs if rows is None else self.inputs[rows]
        found = each(lambda kept: self._ready(kept, rows, draws), self.inputs)
        if self.unusable is None:
            return found
        out = self.unusable if rows is None else self.unusable[rows]
        return each(lambda one: _blanked(one, out), found)

    def expect(self, rows: Rows = None, draws: Draws | None = None) -> None:
        """Say what will be taken soon, so that a source which makes its inputs may begin; arguments as in `take`."""
        for kept in several(self.inputs).values():
            if not isinstance(kept, Tensor):
                _expect(kept, _indices(rows, len(self)), draws)

    def select(self, rows: Tensor | slice) -> "Examples":
        """The examples at these places, in this order; nothing that is not in memory is read."""
        places = _indices(rows, len(self)) if self.metadata else None
        return replace(
            self,
            inputs=each(lambda kept: _selected(kept, rows), self.inputs),
            labels=self.labels[rows],
            groups=None if self.groups is None else self.groups[rows],
            metadata={name: column[places.numpy()] for name, column in self.metadata.items()}
            if places is not None
            else {},
            unusable=None if self.unusable is None else self.unusable[rows],
        )

    def counted(self) -> "Examples":
        """The same, each with its place among these, which it keeps however it is moved: errors name it."""
        return replace(self, metadata={**self.metadata, GIVEN: numpy.arange(len(self))})

    def to(self, placement: Placement) -> "Examples":
        """The same examples for a network; floating tensors in memory are moved at once, whole numbers as such."""
        device = placement.device

        def moved(kept: Any) -> Any:
            if not isinstance(kept, Tensor):
                return kept
            if not (kept.is_floating_point() and self.divisor_of(kept) == 1):
                return kept.to(device)
            found = kept.to(device, placement.precision)
            stays = found.dtype == torch.float32 and found.nbytes > _LARGE_BYTES  # its products are oneDNN's
            return found if stays else aligned(found)

        out = None if self.unusable is None else self.unusable.to(device)
        inputs, labels = each(moved, self.inputs), self.labels.to(device)
        return replace(self, inputs=inputs, labels=labels, placement=placement, unusable=out)

    def blocks(self) -> Iterator[slice]:
        """Stretches of rows that together are all of them, each of a few megabytes."""
        rows = max(1, BLOCK_BYTES // max(1, self.form.bytes))
        yield from (slice(start, min(start + rows, len(self))) for start in range(0, len(self), rows))

    def kept(self, rows: Rows = None) -> dict[str, Tensor]:
        """Inputs on the CPU as they are kept, by name ("" for a single one)."""
        found = several(replace(self, placement=None, divisor=1.0).take(rows))
        return {name: one.cpu() for name, one in found.items()}

    def numbers(self, rows: Rows = None) -> dict[str, Tensor]:
        """Inputs on the CPU as floating numbers, by name ("" for a single one): what digests of them are made of."""
        plain = self if self.placement is None else replace(self, placement=None)
        return {
            name: one.cpu() if one.is_floating_point() else one.cpu().float()
            for name, one in several(plain.take(rows)).items()
        }

    @cached_property
    def _at_hand(self) -> bool:
        """Whether they are a tensor that is as the network wants it: the common case, in which a step waits for it."""
        return self.in_memory and self._is_ready(self.inputs)

    def _ready(self, kept: Any, rows: Rows, draws: Draws | None) -> Tensor:
        if not isinstance(kept, Tensor):
            found = taken(kept, _indices(rows, len(self)), draws)
        else:
            found = kept if rows is None else kept[rows]
        if self._is_ready(kept):
            return found
        place, divisor = self.placement, self.divisor_of(kept)
        if place is not None:
            found = found.to(place.device)
        if divisor != 1:  # bytes are divided in float32 on every device: half precision has no 255ths
            found = cast(found, found.dtype if found.is_floating_point() else torch.float32).div_(divisor)
        kind = self._kind(kept)
        return found if found.dtype == kind else cast(found, kind)

    def _is_ready(self, kept: Any) -> bool:
        same = self.placement is None or (kept.dtype, getattr(kept, "device", None)) == (
            self.placement.precision,
            self.placement.device,
        )
        return same and isinstance(kept, Tensor) and self.divisor_of(kept) == 1

    def divisor_of(self, kept: Any) -> float:
        """What inputs that are kept like this are divided by."""
        if self.divisor is not None:
            return self.divisor
        return RANGES.get(kept.dtype, 1.0) if len(kept.shape) in (3, 4) else 1.0

    def _kind(self, kept: Any) -> torch.dtype:
        """The type in which they are taken."""
        found: torch.dtype = kept.dtype
        whole = not found.is_floating_point and self.divisor_of(kept) == 1
        if self.placement is None:
            return found if whole or found.is_floating_point else torch.float32
        return torch.int64 if whole and self.placement.integers else self.placement.precision


def digest_of_rows(source: Any, rows: Tensor, step: int) -> bytes | None:
    """What a source says of some rows to tell whether they are what they were; None where it says nothing.

    Args:
        source: One that can may have ``digest``, with these arguments: cheaper than to take what it must make.
        rows: Which.
        step: Of how many the content of one is looked at.
    """
    digest = getattr(source, "digest", None)
    return None if digest is None else digest(rows, step)


def _expect(source: Any, rows: Tensor, draws: Draws | None) -> None:
    """A source that can begin ahead has ``expect``, with the arguments of ``take``."""
    if (expect := getattr(source, "expect", None)) is not None:
        expect(rows, draws)


def cast(values: Tensor, kind: torch.dtype) -> Tensor:
    """A copy in another type."""
    made = blank(values.shape, kind) if values.device.type == "cpu" else torch.empty_like(values, dtype=kind)
    return made.copy_(values)


def blank(shape: Sequence[int], kind: torch.dtype) -> Tensor:
    """A tensor in main memory for anybody's numbers.

    A large one is given back to the system when it goes: in the heap, what small tensors leave between such pieces
    would be too small for the next one, and memory would grow with every piece (`fedha.numerics` keeps what is freed).
    """
    count = torch.Size(shape).numel()
    if count * kind.itemsize < _LARGE_BYTES:
        return torch.empty(*shape, dtype=kind)
    return torch.frombuffer(mmap.mmap(-1, count * kind.itemsize), dtype=kind, count=count).view(*shape)


def rows_of(examples: Examples) -> Iterator[Tensor]:
    """Each example's numbers, one after the other; several inputs side by side, [k]."""
    for block in examples.blocks():
        parts = list(examples.numbers(block).values())
        yield from parts[0] if len(parts) == 1 else torch.cat([one.flatten(1) for one in parts], 1)


def largest_number(examples: Examples) -> float:
    """The largest absolute value of any input; 0 where there is none."""
    found = [
        float(one.abs().max()) for block in examples.blocks() for one in examples.numbers(block).values() if one.numel()
    ]
    return max(found, key=lambda one: (one != one, one), default=0.0)


def joined(parts: Sequence[Examples]) -> Examples:
    """Examples one after the other; what is not in memory is not read.

    Args:
        parts: One or more, of one domain or of domains that are kept alike.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    whole = [several(part.inputs) for part in parts]
    inputs = {name: _concatenated([one[name] for one in whole]) for name in whole[0]}
    names = iter(inputs.values())
    grouped = [part.groups for part in parts]
    out = [part.unusable for part in parts]
    return replace(
        first,
        inputs=each(lambda _: next(names), first.inputs),
        labels=torch.cat([part.labels for part in parts]),
        groups=None if any(one is None for one in grouped) else torch.cat(grouped),  # type: ignore[arg-type]
        metadata={
            name: numpy.concatenate([part.metadata[name] for part in parts])
            for name in first.metadata
            if all(name in part.metadata for part in parts)
        },
        unusable=None
        if all(one is None for one in out)
        else torch.cat([_none(part) if part.unusable is None else part.unusable for part in parts]),
    )


@dataclass(frozen=True)
class Joined:
    """Several sources one after the other.

    Attributes:
        parts: Tensors or sources, of one shape and type.
    """

    parts: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, ...]."""
        return (len(self), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """The parts'."""
        found: torch.dtype = self.parts[0].dtype
        return found

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def take(self, rows: Tensor, draws: Draws | None) -> Tensor:
        """Each part's own rows, put where they were asked for."""
        made = blank((len(rows), *self.shape[1:]), self.dtype)
        ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)
        part_of = torch.searchsorted(ends, rows, right=True)
        order = part_of.argsort(stable=True)
        held, counts = part_of[order].unique_consecutive(return_counts=True)
        for number, here in zip(held.tolist(), order.split(counts.tolist()), strict=True):
            part = self.parts[number]
            own = rows[here] - (ends[number] - len(part))
            made[here] = part[own] if isinstance(part, Tensor) else taken(part, own, draws)
        return made


def _concatenated(parts: Sequence[Any]) -> Any:
    if all(isinstance(one, Tensor) for one in parts):
        return torch.cat(list(parts))
    if all(isinstance(one, Chosen) and one.source is parts[0].source for one in parts):
        return Chosen(parts[0].source, torch.cat([one.rows for one in parts]))
    return Joined(tuple(parts))


def _selected(kept: Any, rows: Tensor | slice) -> Any:
    if isinstance(kept, Tensor):
        return kept[rows]
    if isinstance(kept, Chosen):
        return Chosen(kept.source, kept.rows[rows])
    return Chosen(kept, _indices(rows, len(kept)))


def _indices(rows: Rows, count: int) -> Tensor:
    if isinstance(rows, Tensor):
        own = rows.cpu()
        return own.nonzero()[:, 0] if own.dtype == torch.bool else own
    return torch.arange(count)[slice(None) if rows is None else rows]


def _blanked(found: Tensor, out: Tensor) -> Tensor:
    """NaN where an example is not to be trained on; whole numbers know none and stay."""
    return found.masked_fill(out.view(-1, *[1] * (found.ndim - 1)), torch.nan) if found.is_floating_point() else found


def _none(part: Examples) -> Tensor:
    return torch.zeros(len(part), dtype=torch.bool, device=part.labels.device)
