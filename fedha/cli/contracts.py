"""`fedha deploy propose`, and what `show` and `accept` say of contracts: what a federation's sites may be asked."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedha.cli.options import Overrides, To
from fedha.errors import FedhaError

if TYPE_CHECKING:  # slow to import, and help should come at once
    from fedha.deploy.agreements import Agreement
    from fedha.privacy.contract import Contract

UNPACK = "mkdir -p fedha && tar -xf - -C fedha && sh fedha/settle.sh"


def propose(
    config: Annotated[Path, typer.Argument(metavar="CONFIG")],
    to: To,
    overrides: Overrides = None,
    repeats: Annotated[
        int | None, typer.Option("--repeats", min=0, help="How many answers of each kind may be asked for again.")
    ] = None,
    diagnose: Annotated[
        int | None,
        typer.Option("--diagnose", min=0, help="How many heads and directions of diagnoses a site answers in all."),
    ] = None,
) -> None:
    """Propose an experiment to all sites: a file in the folder `proposed` of each, which a person there accepts.

    Its recipes and seeds are the runs that the sites will answer. A later version of the same file takes its place.

    [bold]Examples[/bold]

    [cyan]fedha deploy propose configs/heart.yaml --to hospitals[/cyan]

    [cyan]fedha deploy propose configs/heart.yaml training.rounds=300 --to hospitals[/cyan]
    """
    from fedha import config as configs
    from fedha.deploy import agreements, locations, tree
    from fedha.deploy.agreements import FOLDER, PROPOSED

    init_folder, place = locations.find_init_folder(to)
    own = {name: value for name, value in (("repeats", repeats), ("diagnose", diagnose)) if value is not None}
    wanted = agreements.proposed(config, configs.load(config, overrides or []), own)
    _tell(wanted)
    user = tree.owner()
    agreements.put(init_folder.folder / FOLDER, wanted, replace(user, given=False))
    for name in place.inventory().names:
        site = init_folder.site(name)
        if site.is_dir():
            agreements.put(site / PROPOSED, agreements.keyed(wanted, site / FOLDER), user)
    typer.echo(f"It is proposed in {to}/clients/NAME/{PROPOSED}/{wanted.name}.yaml; send each site its part:")
    typer.echo(f"  fedha deploy pack --to {to} --client NAME | ssh NAME '{UNPACK}'")
    typer.echo(
        f"A person there accepts it: fedha deploy accept {PROPOSED}/{wanted.name}.yaml, or mv it into {FOLDER}/."
    )


def accept(file: Path, at: Path, *, look: bool = False) -> None:
    """Show what a proposed contract is and changes, and let the site hold it.

    Args:
        file: Of the proposal.
        at: The site's folder.
        look: Only show it.

    Raises:
        FedhaError: It is no contract, it names code that the site has not accepted, or this is not the site's folder.
    """
    from fedha.deploy import agreements
    from fedha.deploy.accepted import only_what_a_site_accepted
    from fedha.deploy.agreements import FOLDER

    path = file if file.is_file() else at / file
    known = at / FOLDER / path.name
    with only_what_a_site_accepted(at):  # who proposes names code, and reading a config imports it
        wanted = agreements.read(path)
        if known.is_file() and known.resolve() != path.resolve():
            _differences(agreements.read(known), wanted)
        else:
            _tell(wanted)
    if look:
        return
    if not is_site(at):
        raise FedhaError(f"{at.absolute()} is no site's folder, it has no {FOLDER}; name it with --at")
    path.replace(known)
    typer.echo(f"This site holds it now: {known}. The next message is held to it.")


def is_site(folder: Path) -> bool:
    """Whether a folder is a site's, with its contracts."""
    return (folder / "contracts").is_dir() and (folder / "accepted.txt").is_file()


def show_site(folder: Path) -> None:
    """Say what a site agreed to, and what is proposed to it and not accepted yet."""
    from fedha.deploy.accepted import only_what_a_site_accepted

    with only_what_a_site_accepted(folder):
        _show_site(folder)


def _show_site(folder: Path) -> None:
    from fedha.deploy.agreements import FOLDER, PROPOSED, read_all

    agreed = {one.name: one for one in read_all(folder / FOLDER)}
    for agreement in agreed.values():
        _tell(agreement)
    if not agreed:
        typer.echo(f"This site agreed to nothing: it answers no run. Proposals are in {PROPOSED}/.")
    for proposal in read_all(folder / PROPOSED):
        typer.echo(f"Proposed, and not accepted: {proposal.name}")
        if proposal.name in agreed:
            _differences(agreed[proposal.name], proposal)
        else:
            _tell(proposal)


def show_federation(folder: Path, names: Sequence[str]) -> None:
    """Say what the sites agreed to, as far as their folders are here."""
    from fedha.deploy.agreements import FOLDER, read_all

    agreements = read_all(folder / FOLDER)
    for agreement in agreements:
        _tell(agreement)
    for name in names if agreements else ():
        site = folder / "clients" / name / FOLDER
        if site.is_dir():
            told = ", ".join(one.name for one in read_all(site)) or "nothing"
            typer.echo(f"Client {name} agreed to {told}, as far as this folder knows")


def _tell(agreement: "Agreement") -> None:
    runs = [held for _, held in agreement.runs()]
    typer.echo(f"Contract {agreement.name}: {len(runs)} run{'s' if len(runs) > 1 else ''}")
    _tell_runs(runs)


def _tell_runs(runs: Sequence["Contract"]) -> None:
    """Each run in words, but for those that differ from one before by their seed alone."""
    from fedha.privacy.contract_words import in_words

    known = set[str]()
    for held in runs:
        settled = json.dumps({**held.terms, "seed": None}, sort_keys=True)
        if settled in known:
            typer.echo(f"  The same of {held.task.recipe.name}, seed {held.task.seed}. Digest {held.digest}.")
            continue
        known.add(settled)
        for line in in_words(held):
            typer.echo(f"  {line}")


def _differences(before: "Agreement", after: "Agreement") -> None:
    """What a proposal changes: of runs that are in both by recipe and seed, their keys; what comes, in words."""
    from fedha.privacy.contract_words import changes

    old, new = (_by_run(one) for one in (before, after))
    typer.echo(f"Contract {after.name}, what is proposed otherwise:")
    lines = list(dict.fromkeys(line for key in old.keys() & new.keys() for line in changes(old[key], new[key])))
    gone = [f"no more: recipe {name}, seed {seed}" for name, seed, place in old if (name, seed, place) not in new]
    come = [held for key, held in new.items() if key not in old]
    for line in [*sorted(lines), *gone, *([f"new: {len(come)} run{'s' if len(come) > 1 else ''}"] if come else [])]:
        typer.echo(f"  {line}")
    _tell_runs(come)
    if not (lines or gone or come):
        typer.echo("  nothing")


def _by_run(agreement: "Agreement") -> dict[tuple[str, int, int], "Contract"]:
    """By recipe and seed, and which one it is of those that are called alike."""
    found = dict[tuple[str, int, int], "Contract"]()
    for _, held in agreement.runs():
        name, seed = held.task.recipe.name, held.task.seed
        found[name, seed, sum(key[:2] == (name, seed) for key in found)] = held
    return found
