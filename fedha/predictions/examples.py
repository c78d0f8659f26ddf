"""Which examples are predicted: a run's own domains, another config's, or files in the form of the run's data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedha import config as configs
from fedha import data
from fedha.config import Config
from fedha.data.domain import DomainSet
from fedha.data.examples import GIVEN, Chosen, Examples
from fedha.data.images.source import Images
from fedha.data.splits import ID_TEST
from fedha.data.unlabelled import archive, image_folder, rows_of_table
from fedha.errors import FedhaError
from fedha.flower.serve import load_domains
from fedha.loading import Expectation, own_domains
from fedha.models.wanted import resolved
from fedha.schema import nearest

_CONFIGS, _ARCHIVES = (".yaml", ".yml"), (".npz",)


@dataclass(frozen=True)
class Piece:
    """Examples of one domain.

    Attributes:
        domain: Its name.
        part: train, held_out or test; "" for what no run knew.
        examples: Labels are `fedha.data.unlabelled.UNKNOWN` where there are none.
    """

    domain: str
    part: str
    examples: Examples


def pieces_of(folder: Path, config: Config, expects: Expectation, wanted: str | None) -> list[Piece]:
    """The examples that are wanted.

    Args:
        folder: The run's.
        config: The run's.
        expects: What its network was trained on.
        wanted: The name of one of its domains, a config's file, or a file or folder of examples; None: the targets.

    Raises:
        FedhaError: There is nothing of the kind, or it does not fit the network.
    """
    place = Path(wanted).expanduser() if wanted is not None else None
    if place is None or not place.exists():
        found = _own(folder, config, wanted)
    elif place.suffix.lower() in _CONFIGS and place.is_file():
        found = _parts(load_domains(replace_data(config, configs.load(place))))
    else:
        found = _brought(config, expects, place)
    kept = [one for one in found if len(one.examples)]
    if not kept:
        raise FedhaError(f"there is no example in {wanted or 'the targets of the run'}; name a domain, or --data")
    for one in kept:
        _check(one, expects)
    return kept


def replace_data(config: Config, other: Config) -> Config:
    """A run's config with another one's data, and seed, which decides how these are divided."""
    return config.model_copy(update={"data": other.data, "seed": other.seed[:1]})


def ids_of(examples: Examples) -> Sequence[Any]:
    """What each example is called: its file, or its row as it was given."""
    source: Any = examples.inputs
    rows = torch.arange(len(examples))
    while isinstance(source, Chosen):
        rows = source.rows[rows]
        source = source.source
    if isinstance(source, Images):
        files = source.files
        return _Names([files.names, rows.tolist()])
    return examples.metadata[GIVEN].tolist() if GIVEN in examples.metadata else range(len(examples))


class _Names(Sequence[str]):
    """The names of files at some rows, made when they are asked for."""

    def __init__(self, of: Any) -> None:
        self._names, self._rows = of

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self._names[row] for row in self._rows[place]]
        return self._names[self._rows[place]]


def _own(folder: Path, config: Config, wanted: str | None) -> list[Piece]:
    domains = own_domains(folder, config)
    found = _parts(domains)
    if wanted is None:
        return [one for one in found if one.part == "test"]
    names = list(dict.fromkeys(one.domain for one in found))
    if wanted not in names:
        raise FedhaError(
            f"--data is {wanted!r}, which is neither a file nor a domain of the run{nearest(wanted, names)}"
        )
    return [one for one in found if one.domain == wanted]


def _parts(domains: DomainSet) -> list[Piece]:
    found = [Piece(one.name, part, getattr(one, part)) for one in domains.sources for part in ("train", "held_out")]
    found += [Piece(one.name, ID_TEST, one.held_out) for one in domains.id_tests]
    return [*found, *(Piece(one.name, "test", one.held_out) for one in domains.targets)]


def _brought(config: Config, expects: Expectation, place: Path) -> list[Piece]:
    section, _ = resolved(config)
    if place.is_file() and place.suffix.lower() in _ARCHIVES:
        return [Piece(place.stem, "", archive(place, section, expects.input_shape))]
    if section.name == "folder" and place.is_dir():
        return [Piece(place.name, "", image_folder(place, section, expects.input_shape, expects.class_names))]
    if section.name == "table" and place.is_file():
        return [Piece(place.stem, "", rows_of_table(place, section, expects.statistics, expects.class_names))]
    if section.name == "objects":
        raise FedhaError(f"--data is {place}, but the run's data were a program's; give an .npz file with inputs")
    update = {"root": place, "target": section.target}
    targets = data.load_targets(section.model_copy(update=update), config.seed[0])
    return [Piece(one.name, "", one.held_out) for one in targets]


def _check(one: Piece, expects: Expectation) -> None:
    if one.examples.shape != expects.input_shape:
        raise FedhaError(
            f"inputs of {one.domain!r} have shape {one.examples.shape} and the run's network takes "
            f"{expects.input_shape}; prepare them as the run's data were"
        )
    labels = one.examples.labels
    if len(labels) and int(labels.max()) >= expects.classes:
        raise FedhaError(
            f"{one.domain!r} has label {int(labels.max())}, and the run's network knows {expects.classes} classes"
        )
