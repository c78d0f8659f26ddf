"""What a network is given of some examples: one tensor, or several by place or by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Inputs = Any  # Tensor | tuple[Tensor, ...] | dict[str, Tensor], which a type checker would ask for at each step


def each(change: Callable[[Any], Any], inputs: Any) -> Any:
    """The same inputs with each of their tensors changed.

    Args:
        change: Of one tensor, or of what stands for one.
        inputs: One, or several in a tuple or a mapping.
    """
    if isinstance(inputs, Mapping):
        return {name: change(one) for name, one in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(change(one) for one in inputs)
    return change(inputs)


def several(inputs: Any) -> dict[str, Any]:
    """The tensors by what people call them: their name or place, and "" where there is but one."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    if isinstance(inputs, tuple):
        return {str(place): one for place, one in enumerate(inputs)}
    return {"": inputs}


def joined(parts: Sequence[Inputs]) -> Inputs:
    """Several batches one after the other, alike in form."""
    if isinstance(parts[0], Mapping):
        return {name: torch.cat([one[name] for one in parts]) for name in parts[0]}
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return torch.cat(list(parts))


def arguments(inputs: Inputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """How a module is called with these inputs: by place, or by name."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def nested(input_shape: Any) -> bool:
    """Whether it is a shape of several inputs: a tuple of shapes, or shapes by name."""
    return isinstance(input_shape, Mapping) or any(not isinstance(one, int) for one in input_shape)


@dataclass(frozen=True)
class Form:
    """What one example's inputs look like; can be a key.

    Attributes:
        shapes: Of each tensor, without the batch axis.
        kinds: Its type.
        names: What each is called where they are given by name; () where by place.
        alone: Whether there is but one, which is given as it is.
    """

    shapes: tuple[tuple[int, ...], ...]
    kinds: tuple[torch.dtype, ...]
    names: tuple[str, ...] = ()
    alone: bool = True

    @classmethod
    def of(cls, shape: "Form | Sequence[int]", kind: torch.dtype) -> "Form":
        """The form of one tensor of this shape; a form stays what it is."""
        return shape if isinstance(shape, Form) else cls((tuple(shape),), (kind,))

    @classmethod
    def like(cls, inputs: Any) -> "Form":
        """The form of a batch: of anything that has a shape [n, ...] and a type."""
        parts = several(inputs)
        shapes = tuple(tuple(one.shape[1:]) for one in parts.values())
        names = tuple(parts) if isinstance(inputs, Mapping) else ()
        alone = not isinstance(inputs, Mapping | tuple)
        return cls(shapes, tuple(one.dtype for one in parts.values()), names, alone)

    @property
    def numbers(self) -> int:
        """How many numbers one example has."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    @property
    def bytes(self) -> int:
        """What one example takes."""
        sizes = zip(self.shapes, self.kinds, strict=True)
        return sum(torch.Size(shape).numel() * kind.itemsize for shape, kind in sizes)

    @property
    def itemsize(self) -> int:
        """Bytes of a number of its widest tensor."""
        return max(kind.itemsize for kind in self.kinds)

    @property
    def input_shape(self) -> Any:
        """As who makes a network is told: a shape, a tuple of shapes, or shapes by name."""
        if self.alone:
            return self.shapes[0]
        return dict(zip(self.names, self.shapes, strict=True)) if self.names else self.shapes

    def zeros(self, *count: int, device: torch.device | str | None = None) -> Inputs:
        """Inputs of so many examples that are nothing but zeros, which every embedding knows."""
        return self._filled(torch.zeros, count, device)

    def ones(self, *count: int, device: torch.device | str | None = None) -> Inputs:
        """The same of ones, but for whole numbers: those stay zeros."""

        def filled(size: Sequence[int], dtype: torch.dtype, device: Any) -> Tensor:
            return torch.full(size, float(dtype.is_floating_point), dtype=dtype, device=device)

        return self._filled(filled, count, device)

    def _filled(self, make: Callable[..., Tensor], count: Sequence[int], device: Any) -> Inputs:
        made = [
            make((*count, *shape), dtype=kind, device=device)
            for shape, kind in zip(self.shapes, self.kinds, strict=True)
        ]
        if self.alone:
            return made[0]
        return dict(zip(self.names, made, strict=True)) if self.names else tuple(made)
