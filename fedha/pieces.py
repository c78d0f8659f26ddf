"""A batch of a client's examples, which goes through the network in pieces of bounded size."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from fedha.data.examples import Draws, Examples
from fedha.errors import FedhaError
from fedha.inputs import Form, arguments, several
from fedha.measurement import HeadView, space_of, view_head
from fedha.mixup import Mixing
from fedha.models.calls import call_with
from fedha.models.random_layers import DrawSource, Key, RandomParts, drawing, kept_apart, random_parts, untouched
from fedha.models.split import SplitModel, evaluating
from fedha.models.state import mixing_layers
from fedha.registry import statistic

Item = TypeVar("Item")
# Of a piece on a processor: fixed, since sums are taken piece by piece and their bits depend on it.
BUDGET_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Seen:
    """One piece at a batch's parameters.

    Attributes:
        view: The head, ready to be measured.
        features: Prepared features, [n, D].
        labels: Class indices, [n], or soft targets, [n, C] (`fedha.targets`).
        fraction: Its part of the batch's rows.
    """

    view: HeadView
    features: Tensor
    labels: Tensor
    fraction: float


@dataclass
class Batch:
    """Rows of a client's examples at some parameters.

    Attributes:
        model: Its structure, and what of its state stays as it is.
        parameters: By name; leaves that take derivatives.
        examples: Where the rows come from.
        rows: Which, as indices; None: all of them.
        most: Rows that go through the network at once.
        trained: Whether its gradient will be taken: then its only piece is computed once, with its graph.
        draws: What chance does to its inputs; None: nothing.
        running: Running statistics that the network moves, as they are before; they are not written to.
        draw_key: What the network draws is drawn by this and a row's place; None: it draws nothing.
        soften: What makes targets of labels; None: they are the labels.
        mixing: What mixes each example with another of the batch; None: nothing does.
        moved: The running statistics after the last piece that was computed.
    """

    model: SplitModel
    parameters: dict[str, Tensor]
    examples: Examples
    rows: Tensor | None
    most: int
    trained: bool
    draws: Draws | None = None
    running: Mapping[str, Tensor] = field(default_factory=dict)
    draw_key: Key | None = None
    soften: Callable[[Tensor], Tensor] | None = None
    mixing: Mixing | None = None
    moved: dict[str, Tensor] = field(default_factory=dict, init=False)
    _live: Seen | None = field(default=None, init=False)  # the only piece, with its graph
    _features: list[Tensor] = field(default_factory=list, init=False)  # of every piece, without one; empty: not kept

    @property
    def size(self) -> int:
        """How many rows."""
        return len(self.examples) if self.rows is None else len(self.rows)

    @property
    def whole(self) -> bool:
        """Whether it goes through in one piece."""
        return self.size <= self.most

    def live(self) -> Seen:
        """The only piece of a batch that is `whole`, with its graph; computed once."""
        if self._live is None:
            self._live = self._look(0, slice(None) if self.rows is None else self.rows)
        return self._live

    def pieces(self) -> Iterator[Seen]:
        """Piece by piece, each computed when it is asked for, with a graph of its own."""
        yield from (self._look(place, rows) for place, rows in enumerate(self._coming()))

    def measured(self) -> Iterator[Seen]:
        """Piece by piece without a graph; where all features together are no more than a piece, computed once."""
        if self.whole and self.trained:
            live = self.live()
            yield Seen(self._view(0), live.features.detach(), live.labels, 1.0)
            return
        known, fresh = self._features, []
        for place, rows in enumerate(self._cut() if known else self._coming()):
            if known:
                labels = self._targets(rows, place)
                yield Seen(self._view(place), known[place], labels, len(labels) / self.size)
                continue
            with torch.no_grad():
                seen = self._look(place, rows)
            if self.size * (seen.features.nbytes // len(seen.labels)) <= BUDGET_BYTES:
                fresh.append(seen.features)
            yield seen
        self._features = known or fresh

    def _cut(self) -> Iterator[Tensor | slice]:
        if not self.whole:
            refuse_pieces(self.model, self.size, self.most)
        if self.rows is not None:
            yield from self.rows.split(self.most)
            return
        yield from (slice(start, start + self.most) for start in range(0, self.size, self.most))

    def _coming(self) -> Iterator[Tensor | slice]:
        """As `_cut`; a source that makes its inputs begins with the next piece's while one is computed."""
        for rows, after in with_next(self._cut()):
            if after is not None:
                self.examples.expect(after, self.draws)
            yield rows

    def _look(self, place: int, rows: Tensor | slice) -> Seen:
        view, own = self._view(place), self.parameters | {name: value.clone() for name, value in self.running.items()}
        inputs, labels = self.examples.take(rows, self.draws), self._targets(rows, place)
        if self.mixing is not None:
            inputs = self.mixing.inputs(inputs, self.examples.take(self._partners(place), self.draws))
        with drawing(self._draw_source(place, "featurizer"), labels.device):
            features = call_with(self.model.featurizer, _of_featurizer(own), *arguments(inputs))
        features, self.moved = view.prepare(features), {name: own[name] for name in self.running}
        return Seen(view, features, labels, len(labels) / self.size)

    def _targets(self, rows: Tensor | slice, place: int) -> Tensor:
        own = self._softened(rows)
        return own if self.mixing is None else self.mixing.mixed(own, self._softened(self._partners(place)))

    def _softened(self, rows: Tensor | slice) -> Tensor:
        labels = self.examples.labels[rows]
        return labels if self.soften is None else self.soften(labels)

    def _partners(self, place: int) -> Tensor:
        """The rows that those of a piece are mixed with."""
        order = self.mixing.order(self.size) if self.mixing is not None else torch.arange(self.size)
        others = order[place * self.most : (place + 1) * self.most]
        return others if self.rows is None else self.rows[others.to(self.rows.device)]

    def _view(self, place: int) -> HeadView:
        return view_head(self.model, self.parameters, self._draw_source(place, "head"))

    def _draw_source(self, place: int, part: str) -> DrawSource | None:
        if self.draw_key is None:
            return None
        draws = getattr(random_parts(self.model, self.examples.form), part)
        return DrawSource((*self.draw_key, part), draws, place * self.most) if draws else None


def with_next(items: Iterable[Item]) -> Iterator[tuple[Item, Item | None]]:
    """Each item with the one after it; None after the last."""
    left = iter(items)
    for one in left:
        for after in left:
            yield one, after
            one = after
        yield one, None


def refuse_pieces(model: nn.Module, size: int, most: int) -> None:
    """Refuse to cut a batch that a layer makes statistics of.

    Raises:
        FedhaError: Names the layer.
    """
    if mixing := mixing_layers(model):
        kind = type(model.get_submodule(mixing[0])).__name__
        raise FedhaError(
            f"layer {mixing[0]!r} ({kind}) makes statistics of a batch, which must go through the network in one "
            f"piece, and {size} examples do not: {most} do. Give a smaller batch_size (or training.local.measure), "
            "raise training.chunk, or take model.batch_norm frozen"
        )


def _of_featurizer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "featurizer."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def in_pieces(
    model: SplitModel,
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    examples: Examples,
    most: int | None = None,
    *,
    evaluation: bool = True,
) -> Tensor:
    """What a module of a model makes of some examples' inputs, without a graph.

    Args:
        model: Whose memory is bounded.
        module: The model, or its featurizer.
        parameters: The module's own, and buffers, by name; what is left out is the model's.
        examples: n of them; n may be 0.
        most: Rows at once; default: what the budget holds.
        evaluation: Whether in evaluation mode; else as the model stands.

    Raises:
        FedhaError: A layer makes statistics of a batch, and this one is too large.
    """
    form = examples.form
    rows = most or rows_at_once(model, form, (), 1)
    parts = random_parts(model, form, evaluation=True) if evaluation else RandomParts((), ())
    draws = (*parts.featurizer, *parts.head) if module is model else parts.featurizer
    device = next(model.parameters()).device

    def made(start: int) -> Tensor:
        inputs = examples.take(slice(start, start + rows))
        if start + rows < len(examples):
            examples.expect(slice(start + rows, start + 2 * rows))
        by_place, by_name = ((inputs,), {}) if module is model else arguments(inputs)
        with drawing(DrawSource((0,), draws, start) if draws else None, device):
            found: Tensor = call_with(module, parameters, by_place, by_name)
        return found

    with torch.no_grad(), evaluating(model) if evaluation else nullcontext():
        if len(examples) > rows:
            refuse_pieces(model, len(examples), rows)
        return torch.cat([made(start) for start in range(0, max(1, len(examples)), rows)])


def rows_at_once(model: SplitModel, form: Form, statistics: Iterable[str], probes: int, pieces: int = 1) -> int:
    """How many rows go through a model in one piece: as many as the budget holds, and one at least.

    On a processor a function of the model and of the recipe alone, so that it is the same on every engine and at every
    site; on a GPU also of the card's memory.

    Args:
        model: Its structure, on the device where it computes.
        form: Of an example's inputs.
        statistics: What is measured, or aligned.
        probes: Sign vectors of the Hutchinson statistics.
        pieces: Whose memory they may take together.
    """
    budget = pieces * budget_bytes(next(model.parameters()).device)
    return _rows(model, form, tuple(statistics), probes, budget)


def budget_bytes(device: torch.device) -> int:
    """What a piece may take: on a GPU a quarter of the memory that is this process' part of the card, or up to half of
    that, so that cards that differ by little take the same.
    """
    if device.type != "cuda":
        return BUDGET_BYTES
    share = torch.cuda.get_per_process_memory_fraction(device.index)  # which refuses a device without a number
    part = share * torch.cuda.get_device_properties(device).total_memory
    return max(BUDGET_BYTES, 1 << (int(part / 4).bit_length() - 1))


@lru_cache(maxsize=16)
def _rows(model: SplitModel, form: Form, names: tuple[str, ...], probes: int, budget: int) -> int:
    """As `rows_at_once`; kept, since looking through a network's modules takes as long as a small one's step."""
    space = space_of(view_head(model, {}), 1, probes)
    itemsize = next(model.parameters()).element_size()
    held = 3 * sum(statistic(name).each(space) for name in names) * itemsize
    return max(1, budget // (example_bytes(model, form) + held))


@lru_cache(maxsize=8)
def example_bytes(model: SplitModel, form: Form) -> int:
    """About what one example takes on its way forth and back: twice what its graph keeps, inputs included.

    Args:
        model: Run once, on two examples of zeros.
        form: Of an example's inputs.
    """
    device = next(model.parameters()).device
    inputs = form.zeros(2, device=device)
    shared = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    given = [one.untyped_storage() for one in several(inputs).values()]
    kept: dict[int, int] = {one.data_ptr(): one.nbytes() for one in given}
    held = []  # so that no two have one address

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in shared:
            held.append(tensor.detach())
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    buffers = kept_apart(model)
    with untouched(device), torch.enable_grad(), saved_tensors_hooks(note, lambda one: one):
        call_with(model, buffers, (inputs,))
    return sum(kept.values())  # of two examples
