"""`fedha data`: which data sets there are, where they come from, and what is wrong with one."""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedha.cli import launch, publish
from fedha.cli.exits import FAILED
from fedha.cli.options import ConfigName, Overrides
from fedha.cli.steps import Steps
from fedha.errors import FedhaError
from fedha.report.formats import Column, Table

if TYPE_CHECKING:  # torch: slow to import, and help should come at once
    from fedha.config import Config
    from fedha.data.domain import DomainSet
    from fedha.data.examine import Examined
    from fedha.features.kept import Kept

app = typer.Typer(
    name="data",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Data sets: the list of them, downloads, and a look at one before anything is trained.",
)

Form = Annotated[Literal["text", "json"], typer.Option("--format", "-f", help="text, or json for programs.")]


@app.callback()
def describe() -> None:
    """Data sets: the list of them, downloads, and a look at one before anything is trained."""


@app.command("list")
def list_all(form: Form = "text") -> None:
    """List every data set that a config can name: fedha's own, and those of installed packages.

    [bold]Example[/bold]

    [cyan]fedha data list[/cyan]
    """
    from fedha.data.catalogue import catalogue

    found = catalogue()
    if form == "json":
        rows = [
            {
                "name": one.name,
                "package": one.package,
                "what": one.about.what,
                "needs": one.about.needs,
                "domains": one.about.domains,
                "classes": one.about.classes,
                "problem": one.problem,
            }
            for one in found
        ]
        sys.stdout.write(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        return
    heads = ("data.name", "what", "needs", "domains", "classes", "package")
    cells = tuple(
        (
            one.name,
            one.about.what,
            one.about.needs or "nothing",
            one.about.domains,
            "the data's" if one.about.classes is None else str(one.about.classes),
            one.package,
        )
        if not one.problem
        else (one.name, "cannot be used, see below", "", "", "", one.package)
        for one in found
    )
    problems = tuple(one.problem for one in found if one.problem)
    own = "Your own: data.name: package.module:function (docs/guide.md). Downloads: fedha data fetch NAME."
    publish.show(Table("Data sets", tuple(map(Column, heads)), cells, (*problems, own)), publish.terminal())


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    root: Annotated[Path, typer.Option("--root", metavar="DIR", help="Where its files go; made if it is not there.")],
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="COMMIT", help="Of a data set of the Hub; default: its newest.")
    ] = None,
    subset: Annotated[
        str | None, typer.Option("--subset", metavar="NAME", help="Of a data set of the Hub that has several.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Download a data set's files, each checked by its digest; what was begun goes on where it stopped.

    NAME is mnist or heart; or OWNER/NAME of a data set of Hugging Face's Hub (needs fedha\\[hub]), which is saved for
    data.name: hub. For pacs, vlcs, officehome, terraincognita and domainnet, which have no direct download, it says
    where a person gets them, and under what terms, and ends with code 2.

    [bold]Examples[/bold]

    [cyan]fedha data fetch mnist --root data/mnist[/cyan]

    [cyan]fedha data fetch pacs --root data/pacs[/cyan]
    """
    from fedha.data import fetch as files
    from fedha.data.downloads import DIRECT, GUIDES, USED_BY

    console = publish.terminal()
    key = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    if key in GUIDES:
        raise FedhaError(_guide(name, root, GUIDES[key]))
    if key not in DIRECT and "/" in name:
        from fedha.data.hub.download import download

        rows = download(name, root, revision, subset)
        publish.say(f"{root}: {rows}; use it: data: {{name: hub, root: {root}, …}}", console)
        return
    if key not in DIRECT:
        from fedha.schema import nearest

        known = [*DIRECT, *GUIDES]
        raise FedhaError(f"there is no download {name!r}{nearest(key, known, 'of the Hub, give OWNER/NAME')}")
    with Steps(console, quiet) as steps:
        got, there = files.fetch(
            DIRECT[key], root, lambda one, done, whole: steps.progress(one, done, max(done, whole))
        )
    told = [f"{len(got)} got"] * bool(got) + [f"{len(there)} there already"] * bool(there)
    publish.say(f"{root}: {', '.join(told)}; use it: {USED_BY[key].replace('ROOT', str(root))}", console)


def _guide(name: str, root: Path, guide: object) -> str:
    from fedha.data.downloads import Guide

    assert isinstance(guide, Guide)
    return (
        f"{name} has no direct download. {guide.title}: get it from {' or '.join(guide.where)}; terms: {guide.terms}. "
        f"Unpack it so that {root} holds {guide.layout}, each with a folder a class, and use it: "
        f"data: {{name: folder, root: {root}, target: …}}; `fedha data check` counts it"
    )


@app.command()
def check(
    config: ConfigName,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Write a page: who has what, and of images a sheet a domain."),
    ] = None,
    form: Form = "text",
) -> None:
    """Look at every example of a config's data: counts by domain, class, side and client; what is broken or twice.

    CONFIG is a YAML file, or the name of one that fedha ships. KEY=VALUE changes what it says. Exit code 1: something
    should be mended: a broken image, contents that two domains or both sides of one share, the same contents under
    different labels, a class that no source trains on; 2: the data cannot be loaded at all. Where the config names a
    cache of features (model.features.cache), it also says what is kept there, how old it is, and whether runs take it.

    [bold]Examples[/bold]

    [cyan]fedha data check configs/heart.yaml data.root=data/heart[/cyan]

    [cyan]fedha data check pacs.yaml --out pacs-sheets[/cyan]
    """
    from fedha.data.contact import shows_images, write_sheets
    from fedha.data.examine import examine
    from fedha.data.partition import shares
    from fedha.flower.serve import load_domains

    wanted = launch.find_config(config, overrides or [], first_of_sweep=True)
    if wanted.data.name == "folder":  # a broken image is what is looked for, not the end
        wanted = wanted.model_copy(update={"data": wanted.data.model_copy(update={"on_broken": "skip"})})
    domains = load_domains(wanted)
    found = examine(domains, shares(domains.sources, wanted.data, wanted.seed[0]))
    files = [] if out is None else write_sheets(domains, found, out, images=shows_images(domains))
    kept = _kept(wanted, domains)
    if form == "json":
        told = found.as_json() | ({} if kept is None else {"features": [one.as_json() for one in kept]})
        sys.stdout.write(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    else:
        _print(found)
        for line in () if kept is None else _of_features(config, kept):
            publish.say(line, publish.terminal())
    if files:
        sys.stderr.write(f"The page: {files[-1]}\n")
    if found.problems:
        raise typer.Exit(FAILED)


def _kept(config: "Config", domains: "DomainSet") -> "list[Kept] | None":
    """What the config's cache of features holds; None where it names none."""
    if config.model.features.cache is None:
        return None
    from fedha.features import ahead, kept
    from fedha.flower.apps import device

    one = config.runs()[0]
    return kept.look(config.model.features.cache, ahead.parts_of(one, domains, device(one)))


def _of_features(config: str, kept: "list[Kept]") -> Iterator[str]:
    for one in kept:
        yield f"features {one}"
    if not any(one.wanted[1] for one in kept):
        yield "features: none of this config's network are kept; the first run computes them, or fedha features CONFIG"
    if others := [one.place.name for one in kept if one.other]:
        command = f"fedha features {shlex.quote(config)} --remove {others[0]}"
        yield f"what this config does not take may be another's; where it is not: {command}"


def _print(found: "Examined") -> None:
    console = publish.terminal()
    classes = [str(one) for one in range(found.classes)] if found.classes <= _FEW_CLASSES else []
    columns = tuple(
        Column(head, number=place > 1) for place, head in enumerate(("domain", "side", "examples", *classes))
    )
    rows = [
        (one.name, f"{one.role}, {part.replace('_', ' ')}", f"{sum(each):,}", *map(str, each if classes else []))
        for one in found.domains
        for part, each in one.parts.items()
    ]
    sizes = tuple(f"{one.name}: image files of {one.sizes}" for one in found.domains if one.sizes)
    twice = tuple(str(one) for one in found.shared if not one.is_leak and not one.other_label)
    notes = tuple(dict.fromkeys((*found.notes, *sizes, *twice)))
    shape = " × ".join(map(str, found.shape)) if isinstance(found.shape, tuple | list) else str(found.shape)
    publish.show(Table(f"{found.classes} classes, inputs {shape}", columns, tuple(rows), notes), console)
    if len(found.clients) > sum(one.role == "source" for one in found.domains) or any(
        len(one.held) > 1 for one in found.clients
    ):
        publish.show(_clients(found, classes), console)
    for problem in found.problems:
        publish.say(f"problem: {problem}", console)
    publish.say("no problem found" if not found.problems else f"{len(found.problems)} problems", console)


def _clients(found: "Examined", classes: list[str]) -> Table:
    """Who trains on what: a row for each domain that a client has examples of."""
    heads = ("client", "domain", "examples", *classes)
    rows = [
        (one.name, name, f"{sum(own):,}", *map(str, own if classes else []))
        for one in found.clients[:_MANY_CLIENTS]
        for name, own in one.held.items()
    ]
    more = len(found.clients) - _MANY_CLIENTS
    told = (f"and {more:,} more clients: --format json lists all, --out draws them",) if more > 0 else ()
    columns = tuple(Column(head, number=place > 1) for place, head in enumerate(heads))
    return Table(f"{len(found.clients):,} clients, and what they train on", columns, tuple(rows), told)


_FEW_CLASSES = 12  # that have a column
_MANY_CLIENTS = 40  # that have a row


@app.command()
def statistics(
    config: ConfigName,
    overrides: Overrides = None,
    own: Annotated[
        bool, typer.Option("--own", help="At a site: print its own sums, as JSON, for a person to look at and send.")
    ] = False,
    merge: Annotated[
        list[Path] | None, typer.Option("--merge", metavar="FILE", help="A site's sums; give one a site.")
    ] = None,
) -> None:
    """Print what a table's config declares as data.statistics: each column's mean and deviation, or its categories.

    Without options it is made of all sources of the config, whose files must be here. For a deployment each site runs
    it with --own, which prints what would leave the site and no more: of each column the number of values, their mean
    and the sum of squares of its training part, or its categories, and whether values are missing. A person puts the
    files together with --merge, and what is printed goes into the config.

    [bold]Examples[/bold]

    [cyan]fedha data statistics wards.yaml data.root=wards >> declared.yaml[/cyan]

    [cyan]fedha data statistics wards.yaml data.root=mine --own > mine.json[/cyan]

    [cyan]fedha data statistics wards.yaml --merge north.json --merge south.json[/cyan]
    """
    import yaml

    from fedha import data
    from fedha.data.tables.exchange import declared, merged, to_text
    from fedha.data.tables.statistics import Needs, UndeclaredError
    from fedha.signature import meant

    wanted = launch.find_config(config, overrides or [])
    if wanted.data.name != "table":
        raise FedhaError(f"data.name is {wanted.data.name!r}; statistics are of a table alone")
    options = {key: meant(value) for key, value in wanted.data.options.items()}
    wanted = wanted.model_copy(
        update={"data": wanted.data.model_copy(update={"options": {**wanted.data.options, "statistics": None}})}
    )
    if own:
        try:
            data.load_own(wanted.data, wanted.seed[0], 0)
        except UndeclaredError as needed:
            sys.stdout.write(to_text(needed.sums))
            return
        raise FedhaError("this config needs no statistics: nothing is standardised, imputed or a category")
    if merge:
        gaps = options.get("indicator", True) is not False and options.get("impute") != "error"
        numbers = options.get("standardise", True) is not False or options.get("impute", "mean") == "mean"
        found = merged(merge, Needs(numbers, gaps))
    else:
        found = dict(data.load(wanted.data, wanted.seed[0]).statistics)
    text = yaml.safe_dump({"data": {"statistics": declared(found)}}, sort_keys=False, allow_unicode=True)
    sys.stdout.write(text)
