"""`fedha privacy`: what a budget asks for, before anything is trained."""

from typing import TYPE_CHECKING, Annotated

import typer

from fedha.cli.options import ConfigName, Overrides
from fedha.config import Config
from fedha.errors import FedhaError
from fedha.report.formats import Cell, Column, Table

if TYPE_CHECKING:  # torch and Flower: slow to import, and help should come at once
    from fedha.privacy.plan import RoundShape

app = typer.Typer(
    name="privacy",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Plan what a run may tell of its clients: noise, epsilon, rounds.",
)

BUDGETS = (1.0, 3.0, 8.0)  # of the table
BUDGET = 8.0  # where neither the command nor the config says one


@app.callback()
def describe() -> None:
    """Plan what a run may tell of its clients: noise, epsilon, rounds."""


@app.command()
def plan(
    config: ConfigName,
    overrides: Overrides = None,
    epsilon: Annotated[
        float | None,
        typer.Option("--epsilon", metavar="E", help="The budget of the whole run; default: privacy.max_epsilon, or 8."),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option("--delta", metavar="D", help="Default: privacy.delta, or a tenth of one over the examples."),
    ] = None,
    examples: Annotated[
        int | None, typer.Option("--examples", min=1, help="Of each client, where the data are not here.")
    ] = None,
) -> None:
    """Print the noise multiplier that keeps a run within its budget, and what other budgets and rounds would ask for.

    Epsilon bounds what anybody who sees all that a client sends in the whole run learns of one example, an honest but
    curious server among them; not one that cheats with the settings it sends (docs/privacy.md). Delta is the chance
    that it does not hold. Less epsilon asks for more noise, and so do more rounds. With a noise multiplier in
    the config, the table also says what it spends, and how many rounds it would last.

    CONFIG is a YAML file, or the name of one that fedha ships. KEY=VALUE changes what it says; the value is YAML.

    [bold]Examples[/bold]

    [cyan]fedha privacy plan private[/cyan]

    [cyan]fedha privacy plan private --epsilon 3 training.rounds=100[/cyan]

    [cyan]fedha privacy plan hospital.yaml --epsilon 1 --delta 1e-5 --examples 500[/cyan]
    """
    from fedha.cli import publish

    console = publish.terminal()
    wanted, noise = _planned(config, overrides or [])
    changes = {} if delta is None else {"delta": delta}
    wanted = wanted.model_copy(update={"privacy": wanted.privacy.model_copy(update=changes)})
    budget = epsilon or wanted.privacy.max_epsilon or BUDGET
    shapes = _shapes(wanted, examples)
    publish.show(_clients(wanted, shapes, budget, noise), console)
    publish.say("", console)
    publish.show(_others(wanted, shapes), console)


def _planned(name: str, overrides: list[str]) -> tuple[Config, float | None]:
    """The config, which may have no noise yet, and the noise that it has."""
    from fedha.cli.launch import find_config

    noise = "privacy.noise_multiplier"
    given = [one.partition("=")[0] for one in overrides]
    try:
        found = find_config(name, overrides)
    except FedhaError:  # the noise is what is looked for
        if noise in given:
            raise
        return find_config(name, [*overrides, f"{noise}=1.0"]), None
    if found.privacy.protect != "nothing":
        return found, found.privacy.noise_multiplier
    others = [one for one, key in zip(overrides, given, strict=True) if key not in ("privacy.protect", noise)]
    known = found.privacy.noise_multiplier
    return find_config(name, [*others, "privacy.protect=examples", f"{noise}={known or 1.0}"]), known


def _shapes(config: Config, examples: int | None) -> "dict[tuple[str, str], RoundShape]":
    """A round's releases at a noise multiplier of 1, by recipe and client; clients of one size in one row."""
    from fedha.privacy.plan import RoundShape
    from fedha.privacy.shape import cohort_round, round_shape

    privacy = config.privacy.model_copy(update={"noise_multiplier": 1.0})
    sizes = {"any client": examples} if examples else _sizes(config)
    found = {}
    for given in config.recipe:
        recipe = given.resolve()
        if privacy.protect == "clients":
            from fedha.cohort import cohort_size

            clients = len(_names(config))
            release = cohort_round(recipe, config.training, privacy, clients, cohort_size(config.training, clients))
            found[given.name, "the federation"] = RoundShape("client", clients, ((release, 1),))
            continue
        for name, size in sizes.items():
            releases = round_shape(recipe, config.training, privacy, size)
            found[given.name, name] = RoundShape("example", size, releases)
    return found


def _names(config: Config) -> dict[str, int]:
    from fedha.data.partition import client_domains
    from fedha.flower.serve import load_domains

    parts = client_domains(load_domains(config), config.data, config.seed[0])
    return {part.client_name: len(part.train) for part in parts}


def _sizes(config: Config) -> dict[str, int]:
    """Examples of the clients; those of one size share a line."""
    by_size: dict[int, list[str]] = {}
    for name, size in _names(config).items():
        by_size.setdefault(size, []).append(name)
    return {
        ", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more": size
        for size, names in by_size.items()
    }


def _clients(config: Config, shapes: "dict[tuple[str, str], RoundShape]", budget: float, noise: float | None) -> Table:
    from fedha.privacy.plan import cost, plan_noise, plan_rounds
    from fedha.privacy.shape import delta_of

    rounds = config.training.rounds
    heads = [
        Column("recipe"),
        Column("client"),
        *(Column(name, number=True) for name in ("n", "δ", "noise multiplier")),
    ]
    if noise is not None:
        heads += [Column(f"ε at noise {noise:g}", number=True), Column(f"rounds for ε {budget:g}", number=True)]
    body: list[tuple[Cell, ...]] = []
    for (recipe, name), shape in shapes.items():
        delta = delta_of(config.privacy, shape.population)
        needed = plan_noise(shape, budget, delta, rounds).noise_multiplier
        cells = [recipe, name, f"{shape.population:,}", f"{delta:.1g}", f"{_up(needed):g}"]
        if noise is not None:
            fits = plan_rounds(shape, noise, budget, delta).rounds
            cells += [f"{cost(shape, noise, delta, rounds):.3g}", f"{fits:,}"]
        body.append(tuple(cells))
    caption = f"Noise multiplier that keeps {rounds} rounds within ε {budget:g}"
    return Table(caption, tuple(heads), tuple(body), (_said(config, shapes),))


def _others(config: Config, shapes: "dict[tuple[str, str], RoundShape]") -> Table:
    """Other budgets and rounds, for the recipe and client that ask for most noise."""
    from fedha.privacy.plan import plan_noise
    from fedha.privacy.shape import delta_of

    now = config.training.rounds
    rounds = list(dict.fromkeys([max(1, now // 10), now, 10 * now]))
    needs = {
        key: plan_noise(shape, BUDGET, delta_of(config.privacy, shape.population), now).noise_multiplier
        for key, shape in shapes.items()
    }
    recipe, name = max(needs, key=needs.__getitem__)
    shape = shapes[recipe, name]
    delta = delta_of(config.privacy, shape.population)
    body = tuple(
        (f"ε {one:g}", *(f"{_up(plan_noise(shape, one, delta, number).noise_multiplier):g}" for number in rounds))
        for one in BUDGETS
    )
    heads = (Column("budget"), *(Column(f"{number:,} rounds", number=True) for number in rounds))
    return Table(f"Noise multiplier for other budgets and rounds ({recipe}, {name})", heads, body)


def _said(config: Config, shapes: "dict[tuple[str, str], RoundShape]") -> str:
    from fedha.flower.budget import COMPOSED, adversary

    privacy, kinds = config.privacy, {release.sampling for shape in shapes.values() for release, _ in shape.releases}
    unit = "client of the federation" if privacy.protect == "clients" else "training example of a client"
    relation = " / ".join(dict.fromkeys(_relation(shape) for shape in shapes.values()))
    ends = f"Neighbours: {relation}. An ε is of {COMPOSED}."
    protected = f"Protected: one {unit}, from {adversary(privacy.protect)}. {ends}"
    if privacy.protect == "clients":
        drawn = "without_replacement" in kinds
        return f"{protected} Cohorts are {'drawn by a secret of the server' if drawn else 'not taken to hide anybody'}."
    draws = {"whole": "every step sees the whole domain"}.get(privacy.sampling, f"local steps drawn {privacy.sampling}")
    times = f", each at {privacy.statistics_noise:g} × this noise" if privacy.statistics_noise != 1 else ""
    return (
        f"{protected} A round is its exchanges of statistics{times}, and its gradients; {draws}. Set it with "
        "privacy.noise_multiplier."
    )


def _relation(shape: "RoundShape") -> str:
    """Which data sets are neighbours."""
    from fedha.privacy.ledger import Ledger

    return Ledger(shape.unit, shape.population).add(shape.releases).relation


def _up(noise: float) -> float:
    """Three digits, rounded up: less noise would pass the budget."""
    from math import ceil, floor, log10

    step = 10.0 ** (floor(log10(noise)) - 2)
    return float(f"{ceil(noise / step - 1e-9) * step:.12g}")
