"""What a federation is trained on: source domains, each with a client, and target domains that nobody trains on."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from fedha.data.check import check_finite, check_kinds, check_labels
from fedha.data.examples import Examples, rows_of
from fedha.data.sides import Cut
from fedha.errors import FedhaError
from fedha.inputs import several

__all__ = [
    "Domain",
    "DomainSet",
    "Examples",
    "choose_sources",
    "held_sources",
    "nth",
    "own_source",
    "split",
    "unseen",
    "within",
]


@dataclass(frozen=True)
class Domain:
    """One domain: the part that is trained on and the part that is held out.

    Attributes:
        name: What tables and errors call it.
        train: Trained on; empty for a target.
        held_out: Evaluated on; may be empty for a source (then it has no validation accuracy).
        shard: Which client's share of the domain this is, a number from 0 or a text, where several clients share it;
            None: all of it.
        notes: What was left out or passed over on the way to it, a sentence each.
    """

    name: str
    train: Examples
    held_out: Examples
    shard: int | str | None = None
    notes: tuple[str, ...] = ()

    @property
    def client_name(self) -> str:
        """What the client that holds it is called."""
        return self.name if self.shard is None else f"{self.name}/{self.shard}"


@dataclass(frozen=True)
class DomainSet:
    """Source domains and target domains over one label set.

    Attributes:
        sources: One client each, in client order.
        targets: Never trained on; the first is the target of the results, the others are extra columns.
        classes: Number of classes, C >= 2.
        description: One line for the report: what the data are and where they come from.
        notes: What was left out, passed over or is missing, a sentence each.
        released: What every source had to give so that these could be made of all of them, such as sums of its
            columns: no account of privacy knows of it.
        statistics: What was made of that, or declared, by column.
        mark: Their digest (`fedha.data.fingerprint`), where somebody who keeps them for many runs has it; else "".
        class_names: Of the classes, in the order of their labels; (): they have none.
        id_tests: What of each source is neither trained on nor selected by, as unseen domains of the sources' names.
    """

    sources: tuple[Domain, ...]
    targets: tuple[Domain, ...]
    classes: int
    description: str
    notes: tuple[str, ...] = ()
    released: tuple[str, ...] = ()
    statistics: Mapping[str, Any] = field(default_factory=dict)
    mark: str = ""
    class_names: tuple[str, ...] = ()
    id_tests: tuple[Domain, ...] = ()

    @property
    def input_shape(self) -> Any:
        """Shape of one input, without the batch axis; of several inputs, a tuple of shapes or shapes by name."""
        return self.sources[0].train.shape

    def check(self) -> "DomainSet":
        """Return self, or say what is wrong with the data.

        Raises:
            FedhaError: No source, two domains of one name, a source or a target with no examples, a label out of
                range or not int64, inputs that are not finite, or domains whose inputs have different shapes.
        """
        if not self.sources:
            raise FedhaError("the data have no source domain; name at least one in data.sources")
        names = [domain.name for domain in (*self.sources, *self.targets)]
        if len(set(names)) < len(names):
            raise FedhaError(f"the domains are called {', '.join(names)}; give every domain its own name")
        for domain in self.sources:
            if len(domain.train) == 0:
                raise FedhaError(f"source domain {domain.name!r} has no training examples; remove it or add data")
        for domain in self.targets:
            if len(domain.held_out) == 0:
                raise FedhaError(f"target domain {domain.name!r} has no examples; remove it or add data")
        for held, domains in (("held-out", self.sources), ("unseen", self.targets)):
            for domain in domains:
                self._check_part(domain.name, "train", domain.train)
                self._check_part(domain.name, held, domain.held_out)
        return self

    def _check_part(self, name: str, part: str, examples: Examples) -> None:
        if examples.is_empty:
            return
        if examples.shape != self.input_shape:
            raise FedhaError(
                f"inputs of domain {name!r} have shape {examples.shape} but those of {self.sources[0].name!r} "
                f"{self.input_shape}; every domain must have the same input shape"
            )
        check_kinds(name, part, examples)
        check_labels(name, examples.labels, self.classes)
        check_finite(name, part, examples)


def split(name: str, examples: Examples, cut: Cut) -> Domain:
    """A source domain with a part held out.

    Args:
        name: Name of the domain.
        examples: All its examples.
        cut: Says which are held out.

    Returns:
        The domain; its two parts are disjoint and together are `examples`.

    Raises:
        FedhaError: Inputs, labels and groups are not as many.
    """
    columns = {"inputs": next(iter(several(examples.inputs).values())), "groups": examples.groups}
    for what, column in columns.items():
        if column is not None and len(column) != len(examples):
            raise FedhaError(
                f"domain {name!r} has {len(column)} {what} but {len(examples)} labels; give one an example"
            )
    examples = examples.counted()
    train, held_out = cut.sides(name, rows_of(examples), examples.labels, examples.groups)
    return Domain(name, train=examples.select(train), held_out=examples.select(held_out))


def unseen(name: str, examples: Examples) -> Domain:
    """A target domain: everything is evaluated on, nothing is trained on."""
    return Domain(name, train=examples.select(slice(0, 0)), held_out=examples)


def choose_sources(
    known: Sequence[str], sources: Sequence[str] | None, target: str | None, passed: Sequence[str] = ()
) -> list[str]:
    """The source domains among the known ones, in the order asked for.

    Args:
        known: Every domain that there is.
        sources: Those asked for; None for all but the target.
        target: The unseen domain; None: none is looked at.
        passed: What was passed over and could have been meant, a sentence each.

    Raises:
        FedhaError: A name that is not known (with the nearest that is), is named twice, or is the target.
    """
    for key, name in [("data.target", target), *(("data.sources", source) for source in sources or [])]:
        if name is not None and name not in known:
            close = [one for one in known if one.casefold() == name.casefold()]
            close = close or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}? The domains" if close else "the domains"
            hint = f"fedha sweep leaves each out in turn; {hint}" if name == "all" else hint
            told = "".join(f"; {one}" for one in passed)
            raise FedhaError(f"{key} names {name!r}, which is no domain; {hint} are {', '.join(known)}{told}")
    if sources is None:
        return [name for name in known if name != target]
    if target in sources:
        raise FedhaError(f"{target!r} is both data.target and in data.sources; the target must be unseen")
    if len(set(sources)) < len(sources):
        raise FedhaError(f"data.sources is {', '.join(sources)}; name every domain once")
    return list(sources)


def own_source(sources: Sequence[str], client_id: int, root: Path, *files: str) -> str:
    """The source that a site holds: the only one whose file is in its folder, or else that of its client id.

    Ids have holes once a client was removed, so a file says more than an id.

    Args:
        sources: All of a run, in client order.
        client_id: The site's.
        root: The site's folder.
        files: What a source's file may be called, with {} in the place of its name.

    Raises:
        FedhaError: Neither says.
    """
    held = held_sources(sources, root, *files)
    return held[0] if len(held) == 1 else nth(sources, client_id)


def held_sources(sources: Sequence[str], root: Path, *files: str) -> list[str]:
    """The sources whose files are in a folder; arguments as for `own_source`."""
    return [name for name in within(sources) if any((root / file.format(name)).is_file() for file in files)]


def within(sources: Iterable[str]) -> list[str]:
    """Names that lead out of no folder: a run's may be a stranger's, who would learn what there is elsewhere."""
    return [name for name in sources if not PurePath(name).is_absolute() and ".." not in PurePath(name).parts]


def nth(sources: Sequence[str], client_id: int) -> str:
    """The source of the client with this id.

    Raises:
        FedhaError: There are not so many.
    """
    if not 0 <= client_id < len(sources):
        raise FedhaError(
            f"partition-id is {client_id} but the data have {len(sources)} source domains ({', '.join(sources)}); "
            "give each client its own, from 0"
        )
    return sources[client_id]
