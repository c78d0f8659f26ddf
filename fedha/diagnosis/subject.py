"""The subject of a diagnosis: a finished run's learned head, and its domains' features, computed once in float64."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from fedha import statistics, temporary
from fedha.config import Config
from fedha.data.domain import DomainSet
from fedha.data.examples import Examples
from fedha.diagnosis.sample import Sample
from fedha.errors import FedhaError
from fedha.features import Keeping, behind_trunk
from fedha.measurement import view_head
from fedha.models.split import SplitModel, with_bias
from fedha.models.state import named_state
from fedha.pieces import in_pieces

Told = Callable[[str, int, int], None]

ROWS_AT_ONCE = 2048  # through the network
IN_MEMORY = 2**29  # bytes of all features; what is more lies in a temporary file, which the system keeps what it can of


@dataclass(frozen=True)
class Subject:
    """A run under diagnosis.

    Attributes:
        config: One recipe, one seed.
        domains: Its domains.
        head: The learned head, [C, D], float64.
        sources: Each source's training examples, in client order.
        targets: Each target's examples.
    """

    config: Config
    domains: DomainSet
    head: Tensor
    sources: tuple[Sample, ...]
    targets: tuple[Sample, ...]

    @property
    def everyone(self) -> tuple[Sample, ...]:
        """Sources, then targets."""
        return (*self.sources, *self.targets)


def check_config(config: Config) -> None:
    """Whether a run's promises allow a diagnosis.

    Raises:
        FedhaError: They do not.
    """
    protect = config.privacy.protect
    if protect != "nothing":
        raise FedhaError(
            f"the run has privacy.protect: {protect}; a diagnosis asks for risks, gradients and curvature beside what "
            "its epsilon speaks of, and does not clip, disturb and count them; diagnose a run without protection, such "
            "as one on public data"
        )


@contextmanager
def looked_at(
    model: SplitModel, config: Config, domains: DomainSet, told: Told, *, targets: bool = True
) -> Iterator[Subject]:
    """Compute every domain's features once.

    Args:
        model: With its learned weights, in evaluation mode.
        config: Of the run.
        domains: Its data.
        told: Told of progress.
        targets: Whether they are looked at too.

    Yields:
        The subject, for as long as the block lasts.

    Raises:
        FedhaError: The head is not linear with a bias, or features are not finite.
    """
    learned_head(model)  # a head that is refused is so before anything is computed
    named = [(one.name, one.train) for one in domains.sources]
    named += [(one.name, one.held_out) for one in domains.targets if targets]
    keeping = Keeping.of(config.model.features)
    parts = [Part(name, *behind_trunk(model, examples, keeping, name)) for name, examples in named]
    with sampled(parts, {}, domains.classes, told) as found:
        count = len(domains.sources)
        yield Subject(config, domains, found[0].head, tuple(found[:count]), tuple(found[count:]))


@dataclass(frozen=True)
class Part:
    """A domain's examples, and the network that they go through.

    Attributes:
        name: The domain.
        model: The network, or what of it is behind a frozen trunk.
        examples: Placed for it.
    """

    name: str
    model: SplitModel
    examples: Examples


@contextmanager
def sampled(parts: Sequence[Part], state: Mapping[str, Tensor], classes: int, told: Told) -> Iterator[list[Sample]]:
    """Compute features of some domains once, in float64.

    Args:
        parts: One or more.
        state: Of the whole network, by name; what is left out is the network's own.
        classes: Of the labels.
        told: Told of progress.

    Yields:
        A sample of each part, for as long as the block lasts.

    Raises:
        FedhaError: The head is not linear with a bias, or features are not finite.
    """
    head = learned_head(parts[0].model, state)
    total = sum(len(one.examples) for one in parts)
    with _storage(total * head.shape[1] * 8) as place:
        found, done = [], 0
        for number, one in enumerate(parts):
            count = len(one.examples)
            features = _room(count, head.shape[1], place and place / str(number))
            for start, some in _features(one, state):
                features[start : start + len(some)] = some
                told("features", done + start + len(some), total)
            done += count
            labels = one.examples.labels.cpu()
            groups = None if one.examples.groups is None else one.examples.groups.cpu()
            found.append(Sample(one.name, features, labels, head, classes, groups))
        yield found


def learned_head(model: SplitModel, state: Mapping[str, Tensor] = MappingProxyType({})) -> Tensor:
    """The head with its bias, [C, D], in float64.

    Args:
        model: The network.
        state: Of it, by name; what is left out is its own.

    Raises:
        FedhaError: It is not linear, or has no bias.
    """
    view = view_head(model, state)
    if view.functions is not statistics:
        told = "no bias" if isinstance(model.head, nn.Linear) else "more than one layer"
        raise FedhaError(
            f"the head is a {type(model.head).__name__} with {told}, and a diagnosis needs a linear one with a bias "
            "(nn.Linear): its curvature is known in closed form; split the network before its last layer, leave "
            "model.head_hidden empty, or give the layer a bias"
        )
    head: Tensor = view.arguments[0]
    return head.detach().double().cpu()


def _features(part: Part, state: Mapping[str, Tensor]) -> Iterator[tuple[int, Tensor]]:
    model = part.model
    inside = {f"featurizer.{name}": name for name in named_state(model.featurizer)}
    own = {inside[name]: value for name, value in state.items() if name in inside}
    for start in range(0, len(part.examples), ROWS_AT_ONCE):
        rows = part.examples.select(slice(start, start + ROWS_AT_ONCE))
        some = in_pieces(model, model.featurizer, own, rows)
        if not bool(torch.isfinite(some).all()):
            raise FedhaError(
                f"the network's features of domain {part.name!r} are not finite, so nothing can be measured on them; "
                "has the run diverged?"
            )
        yield start, with_bias(some.cpu().double())


@contextmanager
def _storage(nbytes: int) -> Iterator[Path | None]:
    if nbytes <= IN_MEMORY:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="fedha-diagnosis-", dir=temporary.wanted()) as place:
        yield Path(place)


def _room(count: int, width: int, path: Path | None) -> Tensor:
    if path is None or count == 0:
        return torch.empty(count, width, dtype=torch.float64)
    mapped = torch.from_file(str(path), shared=True, size=count * width, dtype=torch.float64)
    return mapped.view(count, width)


def named(samples: Sequence[Sample]) -> dict[str, Sample]:
    """Samples by the domain's name."""
    return {one.name: one for one in samples}
