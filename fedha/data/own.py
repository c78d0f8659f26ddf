"""Data that somebody's own function makes: ``data.name: package.module:function``, or an installed package's name."""

import inspect
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from fedha import plugins
from fedha.config import DataConfig
from fedha.data.about import about_of
from fedha.data.domain import Domain, DomainSet, choose_sources, nth
from fedha.data.domain_set import domain_set
from fedha.data.sides import Cut, cut_of
from fedha.data.wanted import UntargetedError
from fedha.errors import FedhaError
from fedha.named import find, invoke
from fedha.randomness import generator


def load(config: DataConfig, cut: Cut, *, alone: bool = False) -> DomainSet:
    """The domains that a function makes.

    Args:
        config: Names it; its options are the function's arguments. Where its signature names them it also gets
            ``root``, ``seed``, ``held_out``, ``split``, ``cut``, ``target``, ``sources``, ``classes``, ``alone``
            (below) and ``partition_column``, the metadata that clients are made by; what it draws from torch's global
            generator is drawn from the run's seed. Its target names the unseen ones.
        cut: Offered, for `fedha.data.split`.
        alone: Whether it is a site's, which need not have the others' domains.

    Raises:
        FedhaError: There is no such function, it fails, it makes something else, or the config names a folder or a
            share to hold out that it does not take.
    """
    function = find("data.name", plugins.location(plugins.DATA, config.name))
    made = _made(function, config, cut, alone)
    whole = made if isinstance(made, DomainSet) else None
    if whole is not None:
        if config.target is None and config.sources is None:
            return whole
        made = [*whole.sources, *whole.targets]
    if isinstance(made, Domain):
        made = [made]
    if isinstance(made, str | bytes) or not isinstance(made, Iterable):
        raise FedhaError(
            f"data.name is {config.name!r}, which makes a {type(made).__name__}; let it return a list of "
            "fedha.data.Domain, or a fedha.data.DomainSet"
        )
    brought = list(made)
    if not brought:
        raise FedhaError(f"data.name is {config.name!r}, which makes no domain; let it return one a client")
    names = [str(getattr(one, "name", "")) for one in brought]
    targets = [name for name in config.targets if name in names or not alone]
    if config.sources is not None:
        wanted = [name for name in config.sources if name in names or not alone]
        if both := [name for name in wanted if name in targets]:
            raise FedhaError(f"{both[0]!r} is both data.target and in data.sources; the target must be unseen")
        places = [*choose_sources(names, wanted, None), *(name for name in targets if name in names)]
        brought = [brought[names.index(name)] for name in places]
    if whole is None:
        return domain_set(brought, targets, config.classes, f"domains of {config.name}")
    made = domain_set(brought, targets, config.classes or whole.classes, whole.description)
    return replace(
        made,
        notes=(*whole.notes, *made.notes),
        released=whole.released,
        statistics=whole.statistics,
        class_names=whole.class_names,
    )


def domain_names(config: DataConfig) -> list[str]:
    """The domains that the function makes where no target is named; errors as in `load`."""
    whole = config.model_copy(update={"target": None, "more_targets": [], "sources": None})
    try:
        made = load(whole, cut_of(whole, 0))
    except UntargetedError as error:  # a function that asks for a target has found out what there is
        return list(error.known)
    return [one.name for one in (*made.sources, *made.targets)]


def load_own(config: DataConfig, cut: Cut, client_id: int) -> Domain:
    """What one client of a deployment holds, from the function called at its own site; arguments as in `load`.

    Args:
        config: Its root is the site's folder, if the site has one.
        cut: As in `load`.
        client_id: The client's, in client order; asked where the function makes several domains.

    Raises:
        FedhaError: As in `load`.
    """
    held = {one.name: one for one in load(config, cut, alone=True).sources}
    names = list(config.sources or held) if len(held) > 1 else list(held)
    name = nth(names, client_id) if len(names) > 1 else next(iter(names), "")
    if name not in held:
        raise FedhaError(f"data.name is {config.name!r}, which makes no domain {name!r} here, only {', '.join(held)}")
    return held[name]


def load_targets(config: DataConfig, cut: Cut, root: Path | None) -> tuple[Domain, ...]:
    """The targets at a server; () where the function reads a folder that is not there, or none is named."""
    needs_folder = "root" in _parameters(find("data.name", plugins.location(plugins.DATA, config.name)))
    if not config.targets or (needs_folder and (root is None or not root.is_dir() or not any(root.iterdir()))):
        return ()
    return load(config, cut, alone=True).targets


def _made(function: object, config: DataConfig, cut: Cut, alone: bool) -> object:
    offered = {
        "root": config.root,
        "seed": cut.seed,
        "held_out": config.held_out,
        "split": config.split,
        "cut": cut,
        "target": config.target if len(config.targets) < 2 else config.targets,
        "sources": config.sources,
        "classes": config.classes,
        "alone": alone,
        "partition_column": config.partition_column,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(cut.seed, "data", "own").initial_seed())
        return invoke("data", config.name, function, config.options, offered)  # type: ignore[arg-type]


def classes_of(config: DataConfig) -> int | None:
    """How many classes the function's data have, where it or the config says so; None: neither."""
    found = about_of(find("data.name", plugins.location(plugins.DATA, config.name)))
    names = config.options.get("class_names")
    if isinstance(names, list):
        return len(names)
    return found.classes if found else None


def check_taken(config: DataConfig) -> None:
    """Refuse a folder, or a share to hold out, that the function does not take.

    Raises:
        FedhaError: Names it.
    """
    wanted = _parameters(find("data.name", plugins.location(plugins.DATA, config.name)))
    usual = DataConfig.model_fields["held_out"].default
    if config.root is not None and "root" not in wanted:
        raise FedhaError(f"data.root is {config.root}, which {config.name} does not take; leave it out, or let it")
    if config.held_out != usual and not wanted & {"held_out", "cut"}:
        raise FedhaError(
            f"data.held_out is {config.held_out:g}, which {config.name} does not take; leave it out, or let it take "
            "held_out or cut (fedha.data.split(name, examples, cut))"
        )


def _parameters(function: object) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # written in another language
        return set()
