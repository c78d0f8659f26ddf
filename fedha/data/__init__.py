"""The data sets: each gives source domains and targets that nobody trains on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fedha import objects
from fedha.config import DataConfig, expanded
from fedha.data import arrays, digits, heart, mnist, own, splits
from fedha.data.domain import Domain, DomainSet, Examples, nth, split
from fedha.data.domain_set import whole
from fedha.data.export import FILE, read_domain
from fedha.data.images import load as folder
from fedha.data.labels import missing_classes
from fedha.data.partition import check_partition
from fedha.data.sides import Cut, cut_of
from fedha.errors import FedhaError, listed
from fedha.exhausted import out_of_memory

__all__ = [
    "Domain",
    "DomainSet",
    "Examples",
    "class_count",
    "domain_names",
    "load",
    "load_own",
    "load_targets",
    "source_count",
    "split",
]


@dataclass(frozen=True)
class _DataSet:
    """A row of the table.

    Attributes:
        load: Makes all domains.
        load_own: Makes one client's source from its own file; None where all sources come from the same images.
        load_target: Makes the unseen domain from a folder with its file alone; None as for `load_own`.
        embedded: Whether it needs no file.
        names: Every domain that can be a target; None where the data set has targets of its own.
    """

    load: Callable[[DataConfig, Cut], DomainSet]
    load_own: Callable[[DataConfig, Cut, int], Domain] | None = None
    load_target: Callable[[DataConfig, Path], Domain] | None = None
    embedded: bool = False
    names: Callable[[DataConfig], Sequence[str]] | None = None


_DATA_SETS = {
    "colored_digits": _DataSet(lambda config, cut: digits.load(config, cut.seed, cut), embedded=True),
    "colored_mnist": _DataSet(lambda config, cut: mnist.load(config, cut.seed)),
    "heart": _DataSet(heart.load, heart.load_own, heart.load_target, names=lambda _: heart.HOSPITALS),
    objects.NAME: _DataSet(lambda config, cut: objects.get_object("data", config.digest)),
    "arrays": _DataSet(arrays.load, arrays.load_own, arrays.load_target, names=arrays.domain_names),
    "folder": _DataSet(folder.load, folder.load_own, folder.load_target, names=folder.domain_names),
}
_OWN = _DataSet(own.load, own.load_own, names=own.domain_names)  # somebody's function, or an installed package's


def load(
    config: DataConfig, seed: int, *, protected: bool = False, keys: Mapping[str, bytes] | None = None
) -> DomainSet:
    """Load the configured data set: the same config and seed give the same domains, bit for bit.

    Args:
        config: Which data set, and its options.
        seed: The run's seed; it decides shuffles, splits, label noise and colours.
        protected: Whether an example's side may depend on nothing but that example and the seed: under
            ``privacy.protect: examples``.
        keys: To have the sides of a deployment's sites, their keys by domain; each stays its site's secret. With
            `protected`.

    Returns:
        Domains with float32 inputs and int64 labels, checked.

    Raises:
        FedhaError: An option that the data set does not read, a missing or broken file, an unknown domain name, too
            little memory, more clients than examples, or data that `DomainSet.check` refuses.
    """
    config = _rooted(config)
    if config.name not in _DATA_SETS:
        own.check_taken(config)
    with _fitting(config):
        cut = cut_of(config, seed, protected=protected, keys=keys)
        made = _of(config).load(splits.with_validation(config), cut)
        domains = splits.test_aside(splits.set_aside(made, config.validation_domain).check(), config, seed)
    check_partition(domains, config, seed)
    told = [*domains.notes, *_gathered((*domains.sources, *domains.targets))]
    missing = missing_classes(domains, config, seed)
    described = told if protected else [*told, *missing]  # what is published tells of no covered example
    return replace(domains, notes=(*told, *missing), description="; ".join([domains.description, *described]))


def load_own(config: DataConfig, seed: int, client_id: int, key: bytes | None = None) -> Domain:
    """What one client of a deployment holds, from its own files: the same, bit for bit, as in `load`, but for a key.

    Args:
        config: Its root is the client's own folder. A file that `fedha export` made is taken first.
        seed: The run's seed.
        client_id: The client's, in client order.
        key: The site's own, which no server knows: it and each example alone decide the example's side, as they must
            where examples are protected. None: the seed decides.

    Raises:
        FedhaError: As `load`; the exported file is for other data; or several clients would share the site's domain.
    """
    config = _rooted(config)
    cut, exported = cut_of(config, seed, protected=key is not None, key=key), (config.root or Path()) / FILE
    with _fitting(config):
        if config.root is not None and exported.is_file():
            domain, classes = read_domain(exported)
            if config.classes not in (None, classes):
                raise FedhaError(
                    f"data.classes is {config.classes} but {exported} was made for {classes}; export it again"
                )
            return domain
        load_alone = _of(config).load_own
        if load_alone is None:
            sources = {one.name: one for one in _of(config).load(config, cut).check().sources}
            return sources[nth(list(sources), client_id)]
        domain = load_alone(config, cut, client_id)
        return DomainSet((domain,), (), class_count(config), domain.name).check().sources[0]


def notes_of(domain: Domain, classes: int) -> list[str]:
    """What a site should know of what it loaded, a sentence each; for its own eyes."""
    alone = DomainSet((replace(domain, shard=None),), (), classes, domain.name)
    return [*domain.notes, *missing_classes(alone, DataConfig(), 0)]


def load_targets(config: DataConfig, seed: int) -> tuple[Domain, ...]:
    """The targets, where a deployment's server can have them; () where they need files that are not there.

    Args:
        config: Its root is the server's folder, which needs the target's file alone.
        seed: The run's seed.

    Raises:
        FedhaError: The folder has files, and the target's is missing or broken.
    """
    config = _rooted(config)
    found, root = _of(config), config.root
    if config.name not in _DATA_SETS:
        more = [] if config.validation_domain is None else [config.validation_domain]
        every = config.model_copy(update={"more_targets": [*config.more_targets, *more]})
        targets = own.load_targets(every, cut_of(config, seed), root)
        return tuple(_checked_target(one, config) for one in targets)
    if found.embedded:
        return load(config, seed).targets
    if root is None or not root.is_dir() or not any(root.iterdir()):
        return ()
    if found.load_target is None:
        return load(config, seed).targets
    names = [config.target, *([] if config.validation_domain is None else [config.validation_domain])]
    with _fitting(config):
        each = [found.load_target(config.model_copy(update={"target": name}), root) for name in names]
    return tuple(_checked_target(one, config) for one in each)


def load_lent(config: DataConfig, seed: int, name: str) -> Domain:
    """An unseen domain at a site that lends it to diagnoses: all of it where others have what they train on.

    Args:
        config: Its root is the site's folder. A file that `fedha export` made is taken first.
        seed: The run's seed.
        name: The domain's.

    Raises:
        FedhaError: The site does not have it.
    """
    config = _rooted(config)
    exported = (config.root or Path()) / FILE
    if config.root is not None and exported.is_file():
        found: tuple[Domain, ...] = (whole(read_domain(exported)[0]),)
    else:
        found = load_targets(config, seed)
    for one in found:
        if one.name == name:
            return Domain(one.name, one.held_out, one.train)
    told = listed(one.name for one in found) if found else "none"
    raise FedhaError(f"this site lends {name!r}, and of unseen domains its folder holds {told}; look at FEDHA_DATA")


def _checked_target(domain: Domain, config: DataConfig) -> Domain:
    DomainSet((Domain(domain.name, domain.held_out, domain.train),), (), class_count(config), domain.name).check()
    return domain


def domain_names(config: DataConfig) -> tuple[str, ...]:
    """Every domain of a data set, any of which can be the unseen one.

    Args:
        config: Its target is not looked at.

    Raises:
        FedhaError: The data set has targets of its own, or its files cannot be read.
    """
    config = _rooted(config)
    found = _of(config).names
    if found is None:
        raise FedhaError(f"{config.name} has an unseen domain of its own; leave data.target out")
    return tuple(found(config))


def source_count(config: DataConfig) -> int:
    """How many source domains there are, where none can be loaded.

    Raises:
        FedhaError: The config does not say.
    """
    if config.name.startswith("colored"):
        return len(config.color_flips)
    if config.sources is not None:
        return len(config.sources)
    if config.name == "heart":
        return len(heart.HOSPITALS) - (1 if config.validation_domain is None else 2)
    raise FedhaError("neither federation.clients nor data.sources is set; say how many clients there are")


def class_count(config: DataConfig) -> int:
    """C, the number of classes, where no labels can be counted.

    Raises:
        FedhaError: The config does not say.
    """
    if config.name == "folder":
        folder.check_alone(config)
        return len(config.class_names or ())
    if config.name not in _DATA_SETS and config.classes is None and (found := own.classes_of(config)) is not None:
        return found
    if (config.name == "arrays" or config.name not in _DATA_SETS) and config.classes is None:
        raise FedhaError(
            "data.classes is not set; a deployment's server sees no labels, so the config must say how many"
        )
    return config.classes or 2


def _gathered(domains: Sequence[Domain]) -> list[str]:
    """The notes of all domains, each once, with whose it is where it is not everybody's."""
    whose: dict[str, list[str]] = {}
    for domain in domains:
        for note in domain.notes:
            whose.setdefault(note, []).append(domain.name)
    return [note if len(names) == len(domains) else f"{', '.join(names)}: {note}" for note, names in whose.items()]


def _rooted(config: DataConfig) -> DataConfig:
    given = {"root": config.root, "manifest": config.manifest, "cache": config.cache}
    return config.model_copy(
        update={key: expanded(path, f"data.{key}") for key, path in given.items() if path is not None}
    )


@contextmanager
def _fitting(config: DataConfig) -> Iterator[None]:
    """Turn what numpy and torch say where memory ends into a sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if out_of_memory(error) is None:
            raise
        raise FedhaError(
            f"the data in {config.root or config.name} do not fit into this machine's memory (examples are held as "
            "32-bit numbers, four bytes each); name fewer data.sources, or take a machine with more"
        ) from error


def _of(config: DataConfig) -> _DataSet:
    return _DATA_SETS.get(config.name, _OWN)
