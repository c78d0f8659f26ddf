"""What a server knows of a run's data: of its own, or what clients say of theirs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.serverapp import Grid

from fedha import data
from fedha.config import Config
from fedha.data import splits
from fedha.data.domain import Domain, DomainSet
from fedha.data.partition import client_names
from fedha.errors import FedhaError, listed
from fedha.flower.job import Job
from fedha.flower.outside import check_once
from fedha.flower.strategy import HessianAlignment
from fedha.models.wanted import resolved
from fedha.runs.wording import MANY


def load_domains(config: Config, left_out: str | None = None) -> DomainSet:
    """The run's domains; a source that is left out becomes the only target.

    Raises:
        FedhaError: The data are missing or wrong, or no source would be left.
    """
    if config.data.id_test and (config.privacy.protect != "nothing" or config.privacy.secure_aggregation):
        raise FedhaError(
            f"data.id_test is {config.data.id_test:g}: the server of a simulation looks at these examples itself, "
            "which no noise and no secure sum covers; set it to 0"
        )
    section, told = resolved(config)
    domains = data.load(section, config.seed[0], protected=config.privacy.protect == "examples")
    domains = replace(domains, description="; ".join(filter(None, [domains.description, told])))
    if domains.released and config.privacy.protect != "nothing":
        raise FedhaError(
            f"privacy.protect is {config.privacy.protect!r}, but {config.data.name} takes from each source "
            f"{listed(domains.released, between='; ')}, which no ledger counts; declare them in the config "
            "(data.statistics), from data that need no protection"
        )
    return domains if left_out is None else leave_out(domains, left_out)


def leave_out(domains: DomainSet, name: str) -> DomainSet:
    """The domains without one source, which becomes the only target.

    Raises:
        FedhaError: There is no such source, or no other one.
    """
    names = [one.name for one in domains.sources]
    if name not in names:
        raise FedhaError(f"there is no source domain {name!r} to leave out; the sources are {listed(names)}")
    kept = tuple(one for one in domains.sources if one.name != name)
    if not kept:
        raise FedhaError(f"leaving out {name!r} leaves no source; set evaluation.leave_one_domain_out to false")
    gone = next(one for one in domains.sources if one.name == name)
    target = Domain(gone.name, gone.train.select(slice(0, 0)), gone.held_out if len(gone.held_out) else gone.train)
    return DomainSet(kept, (target,), domains.classes, domains.description)


@dataclass(frozen=True)
class Setting:
    """What a server knows of the data.

    Attributes:
        names: The source domains, in client order.
        input_shape: Shape of one input; of several, a tuple of shapes or shapes by name.
        classes: C, the number of classes.
        targets: Domains that nobody trains on, if the server has any.
        description: One line for the report.
        remarks: What the run's numbers should not be read without, a sentence each.
        made: What more must be known to make inputs of other examples, or classes of labels.
        id_tests: As in `DomainSet`.
    """

    names: tuple[str, ...]
    input_shape: Any
    classes: int
    targets: tuple[Domain, ...]
    description: str
    remarks: tuple[str, ...] = ()
    made: Mapping[str, Any] = field(default_factory=dict)
    id_tests: tuple[Domain, ...] = ()


def given(config: Config, domains: DomainSet) -> Setting:
    """Of data that are here."""
    names = tuple(dict.fromkeys(client_names(domains, config.data, config.seed[0])))
    columns = {name: one.model_dump(exclude_unset=True) for name, one in domains.statistics.items()}
    made = {"class_names": list(domains.class_names), "statistics": columns}
    told = {name: value for name, value in made.items() if value}
    return Setting(
        names,
        domains.input_shape,
        domains.classes,
        domains.targets,
        domains.description,
        made=told,
        id_tests=domains.id_tests,
    )


def learned(job: Job, strategy: HessianAlignment, grid: Grid) -> Setting:
    """What the clients say of their data when they introduce themselves; the targets are the server's."""
    config = job.config
    if config.data.id_test:
        raise FedhaError(
            f"data.id_test is {config.data.id_test:g}, but a deployment's server has nothing of its sources to look "
            "at; set it to 0"
        )
    members = strategy.talk.meet(grid, 1)
    found = {str(one.input_shape): one for one in members}
    if len(found) > 1:
        told = listed(
            (f"client {one.client_id} ({one.domain}): {one.input_shape}" for one in found.values()), between="; "
        )
        raise FedhaError(f"the clients' inputs have different shapes: {told}; every domain must have the same one")
    names = tuple(dict.fromkeys(one.domain for one in members))
    check_once(config.data, members)
    shape = members[0].input_shape
    examples = listed((f"{one.domain} {one.examples}" for one in members), most=MANY)
    told = f"training examples: {examples}" if strategy.secure is None else "how many examples each has is secret"
    description = f"{config.data.name}, each domain at its own site; {told}"
    section, _ = resolved(config, alone=True)
    own = section if job.target_root is None else section.model_copy(update={"root": job.target_root})
    targets = data.load_targets(own, config.seed[0])
    return Setting(names, shape, data.class_count(config.data), targets, description)


def watched(job: Job, setting: Setting) -> dict[str, tuple[Domain, ...]]:
    """What of the unseen domains is evaluated; of a fold, the source that is left out, whole."""
    if job.left_out is not None:
        return {splits.TEST: setting.targets}
    parts = splits.watched(setting.targets, job.config.data, job.config.seed[0])
    return parts | ({splits.ID_TEST: setting.id_tests} if setting.id_tests else {})
