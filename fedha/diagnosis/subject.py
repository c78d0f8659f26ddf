"""The subject of a diagnosis: a finished run's learned head, and its domains' features, computed once in float64."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fedha import statistics, temporary
from fedha.config import Config
from fedha.data.domain import DomainSet
from fedha.data.examples import Examples
from fedha.diagnosis.sample import Sample
from fedha.errors import FedhaError
from fedha.measurement import view_head
from fedha.models.split import SplitModel, with_bias
from fedha.pieces import in_pieces
from fedha.placement import placed

Told = Callable[[str, int, int], None]

_FRONT = "featurizer."
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
    head = learned_head(model)
    parts = [(one.name, one.train) for one in domains.sources]
    parts += [(one.name, one.held_out) for one in domains.targets if targets]
    total = sum(len(examples) for _, examples in parts)
    with storage(total * head.shape[1] * 8) as place:
        found, done = [], 0
        for number, (name, examples) in enumerate(parts):
            own = place and place / str(number)
            features = features_of(model, name, examples, head.shape[1], own, told=partial(_told, told, done, total))
            done += len(examples)
            labels = examples.labels.cpu()
            groups = None if examples.groups is None else examples.groups.cpu()
            found.append(Sample(name, features, labels, head, domains.classes, groups))
        count = len(domains.sources)
        yield Subject(config, domains, head, tuple(found[:count]), tuple(found[count:]))


def learned_head(model: SplitModel, state: Mapping[str, Tensor] | None = None) -> Tensor:
    """The head with its bias, [C, D], in float64.

    Args:
        model: The network.
        state: Its weights, by name; None: its own.

    Raises:
        FedhaError: It is not linear, or has no bias.
    """
    view = view_head(model, state or {})
    if view.functions is not statistics:
        told = "no bias" if isinstance(model.head, nn.Linear) else "more than one layer"
        raise FedhaError(
            f"the head is a {type(model.head).__name__} with {told}, and a diagnosis needs a linear one with a bias "
            "(nn.Linear): its curvature is known in closed form; split the network before its last layer, leave "
            "model.head_hidden empty, or give the layer a bias"
        )
    head: Tensor = view.arguments[0]
    return head.detach().double().cpu()


def features_of(
    model: SplitModel,
    name: str,
    examples: Examples,
    width: int,
    place: Path | None = None,
    state: Mapping[str, Tensor] | None = None,
    *,
    told: Callable[[int], None] = lambda rows: None,
) -> Tensor:
    """Features of a domain's examples with a last column of ones, [n, D], float64.

    Args:
        model: The network.
        name: The domain's.
        examples: Its.
        width: D.
        place: The file where they lie; None: in memory.
        state: The network's weights, by name; None: its own.
        told: How many rows are done.

    Raises:
        FedhaError: Some are not finite.
    """
    own = {one.removeprefix(_FRONT): value for one, value in (state or {}).items() if one.startswith(_FRONT)}
    features = _room(len(examples), width, place)
    for start, some in _features(model, name, examples, own):
        features[start : start + len(some)] = some
        told(start + len(some))
    return features


def _told(told: Told, before: int, total: int, rows: int) -> None:
    told("features", before + rows, total)


def _features(
    model: SplitModel, name: str, examples: Examples, own: Mapping[str, Tensor]
) -> Iterator[tuple[int, Tensor]]:
    ready = placed(examples, model)
    for start in range(0, len(examples), ROWS_AT_ONCE):
        some = in_pieces(model, model.featurizer, own, ready.select(slice(start, start + ROWS_AT_ONCE)))
        if not bool(torch.isfinite(some).all()):
            raise FedhaError(
                f"the network's features of domain {name!r} are not finite, so nothing can be measured on them; "
                "has the run diverged?"
            )
        yield start, with_bias(some.cpu().double())


@contextmanager
def storage(nbytes: int) -> Iterator[Path | None]:
    """A folder for so many bytes of features, where they are too many to stay in memory; else None."""
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
