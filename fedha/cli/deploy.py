"""`fedha deploy`: the folder of a federation, its clients, certificates and keys."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperCommand

from fedha.cli import accept, asking, contracts, deployed
from fedha.cli.options import To
from fedha.errors import FedhaError

app = typer.Typer(
    name="deploy",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Run a federation for real: a server and one machine a site, with TLS and identities (docs/deploy.md).",
)

_DEMO = "deployment"  # the experiment whose data a federation can be tried with
_WARN_DAYS = 30
_ROSTER = (
    "For secure sums every other site needs the new roster, which says who {name} is: copy {to}/roster.json over the "
    "one in its folder, or send it its part (fedha deploy pack --client), and start its app again (docker compose up "
    "--detach --force-recreate)."
)
_REMOVED = "Secure sums ask no more for {name}; the other sites may have the new {to}/roster.json with their next part."
_SEND = f"  fedha deploy pack --to {{to}}{{client}} | ssh {{host}} '{contracts.UNPACK}'"


class SpreadCommand(TyperCommand):
    """A command whose options that may be repeated also take several values: ``--clients north south``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option's name before each of its values."""
        several = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        return super().parse_args(ctx, spread(args, several))


def spread(args: Sequence[str], options: set[str]) -> list[str]:
    """``--clients a b`` as ``--clients a --clients b``, and ``a,b`` the same, for these options alone.

    Args:
        args: Words of a command line.
        options: Names of options, as ``--clients``.
    """
    words: list[str] = []
    current = ""
    for word in args:
        name, _, value = word.partition("=")
        if name in options:
            current, word = name, value
        elif word.startswith("-"):
            current = ""
        if current:
            words += [text for part in word.split(",") if part for text in (current, part)]
        else:
            words.append(word)
    return words


@app.command(cls=SpreadCommand)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    clients: Annotated[
        list[str] | None, typer.Option("--clients", metavar="NAME...", help="Default: north, south, west.")
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="HOST...", help="The server's names and addresses; sites use the first."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where sites reach the server.")] = 8443,
    days: Annotated[int, typer.Option(min=1, help="How long certificates last.")] = 825,
    config: Annotated[
        list[Path] | None,
        typer.Option(
            "--config", metavar="FILE...", help="What the sites agree to be asked; default: the demonstration's."
        ),
    ] = None,
    demo: Annotated[
        bool | None,
        typer.Option("--demo/--no-demo", help="Give each client a domain to try with; default: with default names."),
    ] = None,
) -> None:
    """Make a federation's folder: authority, certificates, a key pair a client, compose files. Nothing is overwritten.

    [bold]Examples[/bold]

    [cyan]fedha deploy init deployment[/cyan]

    [cyan]fedha deploy init hospitals --clients charite mayo usz --host fed.example.org --config heart.yaml[/cyan]
    """
    from fedha import config as configs
    from fedha.cli.launch import shipped_configs
    from fedha.deploy import demo as demonstration
    from fedha.deploy import inventory, tree
    from fedha.deploy.agreements import proposed
    from fedha.deploy.create import Wanted, create
    from fedha.deploy.names import DEFAULT_CLIENTS, check_clients, check_host

    names = check_clients(clients or DEFAULT_CLIENTS)
    hosts = [check_host(one) for one in host or []]
    filled = names == DEFAULT_CLIENTS if demo is None else demo
    experiment = shipped_configs()[_DEMO]
    fill = (lambda folder: demonstration.fill(folder, names, configs.load(experiment))) if filled else None
    user = tree.owner()
    files = config or [experiment]
    agreed = [proposed(one, configs.load(one), {}) for one in files]
    examples = {one.name: one.read_bytes() for one in (experiment, *files)}
    record = create(folder, Wanted(names, hosts, port, days), inventory.now(), user, examples, fill, agreed)
    typer.echo(f"Made {folder} for {', '.join(names)}.")
    _show(record.ends())
    typer.echo(f"What containers read and write there belongs to user {user.uid}, as whom they run.")
    if user.given:
        typer.echo("(Root made it, and no container runs as root.)")
    typer.echo(
        f"Each client has a domain of {experiment.name} in clients/NAME/data."
        if filled
        else f"Put each client's data into {folder}/clients/NAME/data, or name its folder in FEDHA_DATA."
    )
    told = ", ".join(one.name for one in agreed)
    typer.echo(
        f"The sites hold a contract: they answer {told} and nothing else (fedha deploy show; fedha deploy propose)."
    )
    if not hosts:
        typer.echo("No --host was given: the sites' own files reach the server on this machine alone, as `proxy`.")
    typer.echo(
        f"Keep {folder}/ca to yourself: its key vouches for every server of this federation. Next: docs/deploy.md"
    )


@app.command("add-client")
def add_client(name: Annotated[str, typer.Argument(metavar="NAME")], to: To) -> None:
    """Add a site: its folder in DIR/clients, and its public key in DIR/server.

    [bold]Example[/bold]

    [cyan]fedha deploy add-client east --to deployment[/cyan]
    """
    from fedha.deploy import change, inventory, locations, tree

    for line in change.add_client(to, name, inventory.now(), tree.owner()):
        typer.echo(line)
    record = locations.find(to).inventory()
    typer.echo(
        f"{name} is client {record.client(name).partition_id}. Send the site its folder, and the server the new key:"
    )
    typer.echo(_SEND.format(to=to, client=f" --client {name}", host=name))
    typer.echo(_SEND.format(to=to, client="", host="SERVER"))
    typer.echo("`docker compose up --detach --force-recreate` on the server registers the key.")
    typer.echo(_ROSTER.format(to=to, name=name))
    typer.echo("A run takes the sites that hold one of its sources (data.sources): name the new one's there.")
    _show({f"client {name}": record.client(name).ends})


@app.command("remove-client")
def remove_client(name: Annotated[str, typer.Argument(metavar="NAME")], to: To) -> None:
    """Remove a site: its key is refused for ever, its id is not given again. What it had is put aside.

    [bold]Example[/bold]

    [cyan]fedha deploy remove-client east --to deployment[/cyan]
    """
    from fedha.deploy import change, inventory, tree

    for line in change.remove_client(to, name, inventory.now(), tree.owner()):
        typer.echo(line)
    typer.echo(f"{name} is no client of this federation. Bring the server up to date, and its key is refused:")
    typer.echo(_SEND.format(to=to, client="", host="SERVER"))
    typer.echo("`docker compose up --detach --force-recreate` there; with podman-compose add --remove-orphans.")
    typer.echo(_REMOVED.format(to=to, name=name))


@app.command()
def pack(
    to: To,
    client: Annotated[
        str | None, typer.Option("--client", metavar="NAME", help="This site's part, not the server's.")
    ] = None,
) -> None:
    """Write a machine's part of a federation to stdout, as an archive (tar) to be unpacked there.

    There, `sh settle.sh` puts everything in its place. Do both again to bring the machine up to date: its settings,
    configs and data stay as they are.

    [bold]Examples[/bold]

    [cyan]fedha deploy pack --to hospitals > server.tar[/cyan]

    [cyan]fedha deploy pack --to hospitals --client mayo > mayo.tar[/cyan]
    """
    from fedha.deploy.pack import pack

    content = pack(to, client)
    if sys.stdout.isatty():
        raise FedhaError("an archive is no text for a terminal; end the command with > FILE, or | ssh HOST '…'")
    sys.stdout.buffer.write(content)


@app.command(cls=SpreadCommand)
def rotate(
    to: To,
    client: Annotated[
        str | None, typer.Option("--client", metavar="NAME", help="This client's keys, not the server's.")
    ] = None,
    host: Annotated[
        list[str] | None, typer.Option("--host", metavar="HOST...", help="A name that the server gets in addition.")
    ] = None,
) -> None:
    """Make a new certificate and key for the server, or for a client; the authority stays, old ones are put aside.

    [bold]Examples[/bold]

    [cyan]fedha deploy rotate --to deployment[/cyan]

    [cyan]fedha deploy rotate --to deployment --client north[/cyan]
    """
    from fedha.deploy import change, inventory, locations, tree
    from fedha.deploy.names import check_host

    if client is not None and host:
        raise FedhaError("--host adds to the server's names; leave out --client, or rotate twice")
    if client is None:
        aside = change.rotate_server(to, [check_host(one) for one in host or []], inventory.now(), tree.owner())
        typer.echo(f"The server has a new certificate, key and shared secret; the old ones are in {aside}.")
        typer.echo("Restart the server: docker compose up --detach --force-recreate")
    else:
        fresh = change.rotate_client(to, client, inventory.now(), tree.owner())
        typer.echo(f"Client {client} has new keys in {fresh}: send them to the site, and the server its part:")
        typer.echo(_SEND.format(to=to, client=f" --client {client}", host=client))
        typer.echo(_SEND.format(to=to, client="", host="SERVER"))
        typer.echo(
            "The old key is refused as soon as the server's `docker compose up --detach` has registered the new one."
        )
        typer.echo(_ROSTER.format(to=to, name=client))
    _show(locations.find(to).inventory().ends())


@app.command()
def register(
    to: To,
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="The SuperLink; default: from the folder.")
    ] = None,
    wait: Annotated[float, typer.Option("--wait", min=0, metavar="SECONDS", help="For the SuperLink to answer.")] = 300,
) -> None:
    """Make the clients' keys known to the SuperLink, and former ones unknown. It may be repeated.

    The server's containers do this by themselves, at each start.
    """
    from fedha.deploy import control, locations
    from fedha.deploy import register as keys

    place = locations.find(to)
    record = place.inventory()
    wanted = keys.wanted_keys(place, record.names)
    with control.connect(address or record.control, place.trusted) as connection:
        known = control.wait(connection, wait)
        for line in keys.apply(keys.steps(record.all_names, wanted, known), connection):
            typer.echo(line)


@app.command()
def show(to: To) -> None:
    """Say who is in a federation, where its server is, and what ends when; and in words what its sites agreed to.

    DIR may be a site's own folder, too. Exit code 1: something ends within a month.

    [bold]Example[/bold]

    [cyan]fedha deploy show --to deployment[/cyan]
    """
    from fedha.deploy import bundle, locations

    if contracts.is_site(to):
        contracts.show_site(to)
        return
    record = locations.find(to).inventory()
    typer.echo(f"Server: {record.address}, also known as {', '.join(record.hosts) or 'nothing else'}")
    for client in record.clients:
        typer.echo(f"Client {client.name}: partition {client.partition_id}")
    typer.echo(f"Runs bring {bundle.NAME} {bundle.VERSION}, SHA-256 {bundle.DIGEST}")
    contracts.show_federation(to, record.names)
    if _show(record.ends()):
        raise typer.Exit(1)


def _show(ends: dict[str, Any]) -> bool:
    """Print when what ends; return whether something does so soon."""
    from fedha.deploy import inventory

    now, soon = inventory.now(), False
    for what, when in ends.items():
        left = (when - now).days
        near = left < _WARN_DAYS
        soon = soon or near
        warning = f"  <- {'ended' if when <= now else f'{left} days left'}; see `fedha deploy rotate`" if near else ""
        typer.echo(f"  {what:<24} until {when:%Y-%m-%d}{warning}")
    return soon


app.command("run")(deployed.run)
app.command("resume")(deployed.resume)
app.command("diagnose")(asking.deployed)
app.command("propose")(contracts.propose)
app.command("accept")(accept.accept)
app.command("bundle")(accept.write_bundle)
