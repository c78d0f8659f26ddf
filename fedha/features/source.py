"""Features that a trunk makes of examples when they are taken, as a source of inputs."""

import warnings
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from fedha.data.examples import Chosen, Draws, Examples, Joined
from fedha.data.images.source import Images
from fedha.data.mapped import Mapped
from fedha.data.taking import taken
from fedha.errors import FedhaError
from fedha.features.trunk import BLOCK, computed
from fedha.randomness import generator


@dataclass(frozen=True)
class Features:
    """Features [n, D] on the CPU.

    A place is a row as it is evaluated, below n, or a view of it: view k of row r has the place (k + 1) n + r.

    Attributes:
        trunk: Makes them.
        examples: Of these, placed for it.
        width: D.
        half: Whether they are rounded to float16, as a cache of them would.
        views: How many of each row there are, of which a step takes one; 0: what chance changes is computed afresh.
        known: What is known of all places already, as a source; None: nothing.
        remembers: Whether what was computed, and views that are known, are kept in memory.
        quiet: Whether those beyond float16 become infinite, and are no error.
    """

    trunk: nn.Module
    examples: Examples
    width: int
    half: bool = False
    views: int = 0
    known: Any = None
    remembers: bool = False
    quiet: bool = False
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

    @property
    def places(self) -> int:
        """Of rows and of their views."""
        return len(self) * (1 + self.views)

    def expect(self, rows: Tensor, draws: Draws | None) -> None:
        """The inputs of what will be taken soon, where they have to be computed."""
        drawn = self._drawn(draws)
        if self.views or (drawn is None and self.known is not None):
            return
        some = rows if drawn is not None else self._missing(rows)
        if len(some):
            self.examples.expect(some[:BLOCK], drawn)

    def take(self, rows: Tensor, draws: Draws | None = None) -> Tensor:
        """These features.

        Raises:
            FedhaError: Some are beyond float16, and are to be rounded to it.
        """
        draws = self._drawn(draws)
        if draws is not None and not self.views:
            return self.fresh(rows, draws)
        if draws is not None:
            return self._at(rows + len(self) * (1 + _picked(len(self), self.views, draws)[rows]))
        return _taken(self.known, rows) if self.known is not None else self._at(rows)

    def fresh(self, places: Tensor, draws: Draws | None = None) -> Tensor:
        """The features of these places, computed; with draws they are rows, changed as these say."""
        if not len(places):
            return torch.empty(0, self.width, dtype=self.dtype)
        made = []
        for some, after in _with_next(places.split(BLOCK)):
            inputs = self._inputs(some, draws)
            for _, rows, drawn in self._by_view(after, draws)[:1] if after is not None else ():
                self.examples.expect(rows, drawn)
            made.append(computed(self.trunk, inputs).cpu())
        found = torch.cat(made)
        return rounded(found, quiet=self.quiet) if self.half else found

    def _at(self, places: Tensor) -> Tensor:
        """The features of these places, remembered or known where they are."""
        make = self.fresh if self.known is None else lambda some: _taken(self.known, some)
        if not self.remembers:
            return make(places)
        if not self._memory:
            size = (self.places, self.width)
            self._memory[:] = [torch.empty(size, dtype=self.dtype), torch.zeros(size[0], dtype=torch.bool)]
        features, there = self._memory
        if len(missing := self._missing(places)):
            features[missing] = make(missing).to(self.dtype)
            there[missing] = True
        return features[places]

    def _missing(self, places: Tensor) -> Tensor:
        """Those of which nothing is remembered, in the order in which they are computed."""
        if not self.remembers:
            return places
        found: Tensor = (places[~self._memory[1][places]] if self._memory else places).unique()
        return found

    def _inputs(self, places: Tensor, draws: Draws | None) -> Any:
        """What the trunk sees at these places; a block may hold several views."""
        parts = [(at, self.examples.take(rows, drawn)) for at, rows, drawn in self._by_view(places, draws)]
        if len(parts) == 1:
            return parts[0][1]
        order = torch.cat([at for at, _ in parts]).argsort()
        return torch.cat([inputs for _, inputs in parts])[order.to(parts[0][1].device)]

    def _by_view(self, places: Tensor, draws: Draws | None) -> list[tuple[Tensor, Tensor, Draws | None]]:
        """Where in some places a view is, its rows, and what draws it."""
        if draws is not None:
            return [(torch.arange(len(places)), places, draws)]
        views = places // len(self)
        found = [(int(view), (views == view).nonzero()[:, 0]) for view in views.unique()]
        return [(at, places[at] % len(self), view_draws(view - 1) if view else None) for view, at in found]

    def _drawn(self, draws: Draws | None) -> Draws | None:
        """What changes the inputs of these examples; None where nothing does."""
        return draws if changes(self.examples.inputs) else None


def view_draws(view: int) -> Draws:
    """What draws the views of one number: no run's seed, so that all runs share them."""
    return (0, view, 0)


@lru_cache(maxsize=8)
def _picked(rows: int, views: int, draws: Draws) -> Tensor:
    """Which view of each row a round takes, [n]."""
    seed, *rest = draws
    return torch.randint(views, (rows,), generator=generator(seed, "views", *rest))


def rounded(features: Tensor, *, quiet: bool = False) -> Tensor:
    """Features as float16 has them.

    Args:
        features: Any.
        quiet: Whether those beyond its range are infinite, with a warning here.

    Raises:
        FedhaError: Some are beyond its range.
    """
    found = features.half().to(features.dtype)
    if bool((features.isfinite() & ~found.isfinite()).any()):
        largest = float(features[features.isfinite()].abs().max())
        told = f"features are up to {largest:.3g}, beyond float16; set model.features.precision to float32"
        if not quiet:
            raise FedhaError(told)
        warnings.warn(told, RuntimeWarning, stacklevel=2)
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
    found: Tensor = known[rows] if isinstance(known, Tensor) else taken(known, rows, None)
    return found


def _with_next(parts: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor | None]]:
    return list(zip(parts, [*parts[1:], None], strict=True))
