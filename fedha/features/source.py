"""Features that a trunk makes of examples when they are taken, as a source of inputs."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fedha.data.examples import Chosen, Draws, Examples, Joined
from fedha.data.images.source import Images
from fedha.data.mapped import Mapped
from fedha.errors import FedhaError
from fedha.features.trunk import BLOCK, computed


@dataclass(frozen=True)
class Features:
    """Features [n, D] on the CPU.

    Attributes:
        trunk: Makes them.
        examples: Of these, placed for it.
        width: D.
        half: Whether they are rounded to float16, as a cache of them would.
        known: What is known of them already, as a source; None: nothing.
        remembers: Whether what was computed is kept in memory.
    """

    trunk: nn.Module
    examples: Examples
    width: int
    half: bool = False
    known: Any = None
    remembers: bool = False
    _memory: list[Tensor] = field(default_factory=list, compare=False, repr=False)  # features, and which are there

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, D]."""
        return (len(self.examples), self.width)

    @property
    def dtype(self) -> torch.dtype:
        """Of what is taken."""
        return next(self.trunk.parameters()).dtype

    def __len__(self) -> int:
        return len(self.examples)

    def expect(self, rows: Tensor, draws: Draws | None) -> None:
        """The inputs of what will be taken soon, where they have to be computed."""
        if draws is not None or self.known is None:
            self.examples.expect(rows[:BLOCK], self._drawn(draws))

    def take(self, rows: Tensor, draws: Draws | None = None) -> Tensor:
        """These features.

        Raises:
            FedhaError: Some are beyond float16, and are to be rounded to it.
        """
        draws = self._drawn(draws)
        if draws is None and self.known is not None:
            return _taken(self.known, rows)
        return self._remembered(rows) if draws is None and self.remembers else self.fresh(rows, draws)

    def fresh(self, rows: Tensor, draws: Draws | None = None) -> Tensor:
        """These features, computed."""
        made = []
        for some, after in _with_next(rows.split(BLOCK)):
            inputs = self.examples.take(some, draws)
            if after is not None:
                self.examples.expect(after, draws)
            made.append(computed(self.trunk, inputs).cpu())
        found = torch.cat(made) if made else torch.empty(0, self.width, dtype=self.dtype)
        return rounded(found) if self.half else found

    def _drawn(self, draws: Draws | None) -> Draws | None:
        """What changes the inputs of these examples; None where nothing does."""
        return draws if changes(self.examples.inputs) else None

    def _remembered(self, rows: Tensor) -> Tensor:
        if not self._memory:
            self._memory[:] = [torch.empty(self.shape, dtype=self.dtype), torch.zeros(len(self), dtype=torch.bool)]
        features, there = self._memory
        missing = rows[~there[rows]].unique()
        if len(missing):
            features[missing] = self.fresh(missing)
            there[missing] = True
        return features[rows]


def rounded(features: Tensor) -> Tensor:
    """Features as float16 has them.

    Raises:
        FedhaError: Some are beyond its range.
    """
    found = features.half().to(features.dtype)
    if bool((features.isfinite() & ~found.isfinite()).any()):
        largest = float(features[features.isfinite()].abs().max())
        raise FedhaError(f"features are up to {largest:.3g}, beyond float16; set model.features.precision to float32")
    return found


def changes(kept: Any) -> bool:
    """Whether chance has a part in inputs that are taken with draws.

    Of a source of somebody's it is taken to have, unless its attribute ``augmentation`` is None.
    """
    if isinstance(kept, Chosen):
        return changes(kept.source)
    if isinstance(kept, Joined):
        return any(map(changes, kept.parts))
    if isinstance(kept, Tensor | Mapped):
        return False
    if isinstance(kept, Images):
        return kept.augmentation is not None
    return getattr(kept, "augmentation", True) is not None


def of_features(examples: Examples, inputs: Any) -> Examples:
    """The same examples with features in their inputs' place."""
    return replace(examples, inputs=inputs, divisor=1.0)


def _taken(known: Any, rows: Tensor) -> Tensor:
    found: Tensor = known[rows] if isinstance(known, Tensor) else known.take(rows, None)
    return found


def _with_next(parts: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor | None]]:
    return list(zip(parts, [*parts[1:], None], strict=True))
