"""The parts of a federation's data by name, and who may look at which.

======== =========================== ==========================================================
name     here                        who looks
======== =========================== ==========================================================
train    ``Domain.train``            training
id_val   ``Domain.held_out``         selection by the sources (training-domain validation)
id_test  ``data.id_test``            tables: of each source, neither trained on nor selected by
lodo_val ``data.validation_domain``  selection by a domain that is neither source nor target
oracle   ``data.target_held_out``    the oracle, which nobody has: DomainBed's 20 % of the target
test     the rest of the targets     tables
======== =========================== ==========================================================
"""

from collections.abc import Sequence
from dataclasses import replace

from fedha.config import DataConfig
from fedha.data.domain import Domain, DomainSet, split, unseen
from fedha.data.domain_set import whole
from fedha.data.sides import Cut
from fedha.errors import FedhaError, listed
from fedha.schema import nearest

TEST, ORACLE, LODO_VAL, ID_TEST = "target", "oracle", "lodo_val", "id_test"  # as records of rounds call them


def with_validation(config: DataConfig) -> DataConfig:
    """The config as data sets read it: the domain that is kept for validation is read as a source is.

    Raises:
        FedhaError: That domain is a target or a source as well.
    """
    name, sources = config.validation_domain, config.sources
    if name is None:
        return config
    for key, names in (("data.target", config.targets), ("data.sources", sources or [])):
        if name in names:
            raise FedhaError(
                f"{name!r} is data.validation_domain and in {key}; nobody may train on it or be judged by it"
            )
    return config if sources is None else config.model_copy(update={"sources": [*sources, name]})


def set_aside(domains: DomainSet, name: str | None) -> DomainSet:
    """The domains with a source taken out of training: it becomes the last of the targets, whole.

    Args:
        domains: As a data set makes them.
        name: The source's; None: none is.

    Raises:
        FedhaError: There is no such source.
    """
    if name is None:
        return domains
    names = [one.name for one in domains.sources]
    if name not in names:
        raise FedhaError(f"data.validation_domain names {name!r}, which is no source domain{nearest(name, names)}")
    kept = whole(domains.sources[names.index(name)])
    return replace(
        domains,
        sources=tuple(one for one in domains.sources if one.name != name),
        targets=(*domains.targets, kept),
        description=f"{domains.description}; {name} {len(kept.held_out)} is kept for validation",
    )


def test_aside(domains: DomainSet, config: DataConfig, seed: int) -> DomainSet:
    """The domains with a share of what each source holds out kept from selection; what is trained on does not change.

    Args:
        domains: As a data set makes them.
        config: Its id_test and split.
        seed: The run's.

    Raises:
        FedhaError: A source holds too little out to be divided.
    """
    if not config.id_test:
        return domains
    cut = Cut(config.id_test, config.split, seed)
    divided = [split(f"{one.name} id_test", one.held_out, cut) for one in domains.sources]
    for one, parts in zip(domains.sources, divided, strict=True):
        if not len(parts.train) or not len(parts.held_out):
            raise FedhaError(
                f"data.id_test is {config.id_test:g}, but source {one.name!r} holds out too few examples or groups to "
                "be divided; raise data.held_out, or set data.id_test to 0"
            )
    kept = [replace(one, held_out=parts.train) for one, parts in zip(domains.sources, divided, strict=True)]
    tests = [unseen(one.name, parts.held_out) for one, parts in zip(domains.sources, divided, strict=True)]
    told = listed(f"{one.name} {len(one.held_out)}" for one in tests)
    return replace(
        domains,
        sources=tuple(kept),
        id_tests=tuple(tests),
        description=f"{domains.description}; of what sources hold out {told} are for tests alone",
    )


def watched(targets: Sequence[Domain], config: DataConfig, seed: int) -> dict[str, tuple[Domain, ...]]:
    """What of the unseen domains is evaluated, by the part of a round's record that it goes into.

    A target is divided as it would be where it is a source, so that a trial divides each domain once.

    Args:
        targets: Domains that nobody trains on.
        config: Its target_held_out, validation_domain and split.
        seed: The run's.

    Raises:
        FedhaError: A target is too small to be divided.
    """
    validation = tuple(one for one in targets if one.name == config.validation_domain)
    found = {TEST: tuple(one for one in targets if one.name != config.validation_domain)}
    if config.target_held_out:
        cut = Cut(config.target_held_out, config.split, seed)
        divided = [split(one.name, one.held_out, cut) for one in found[TEST]]
        for one in divided:
            if not len(one.train) or not len(one.held_out):
                raise FedhaError(
                    f"data.target_held_out is {config.target_held_out:g}, but target {one.name!r} has too few examples "
                    "or groups to be divided; set it to 0"
                )
        found[TEST] = tuple(unseen(one.name, one.train) for one in divided)
        found[ORACLE] = tuple(unseen(one.name, one.held_out) for one in divided)
    return found | ({LODO_VAL: validation} if validation else {})
