"""`fedha deploy accept` and `bundle`: what a site says yes to, contracts and code, and what its runs bring."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedha.cli import contracts
from fedha.errors import FedhaError
from fedha.named import is_own

if TYPE_CHECKING:  # Flower: slow to import, and help should come at once
    from fedha.deploy.bundle import Bundle

At = Annotated[
    Path, typer.Option("--at", metavar="DIR", help="The site's folder, with its compose.yml; default: this one.")
]
Look = Annotated[bool, typer.Option("--look", help="Only show what it is.")]


def accept(
    what: Annotated[str, typer.Argument(metavar="CONTRACT|BUNDLE|CODE")], at: At = Path(), look: Look = False
) -> None:
    """Show what a contract or code is, and let a site answer to it, or run it.

    CONTRACT is a file in the site's folder `proposed`: what it changes is shown, and the file moved into `contracts`.
    Code is a line in the site's accepted.txt.
    BUNDLE is the file of a Flower app bundle, which a run brings; the site starts it only if FEDHA_APP=accepted stands
    in its .env. CODE is package.module:function, installed at the site, which a run's config may then name. Nothing of
    either is unpacked or imported here.

    [bold]Examples[/bold]

    [cyan]fedha deploy accept proposed/heart.yaml[/cyan]

    [cyan]fedha deploy accept fedha.fab --look[/cyan]

    [cyan]fedha deploy accept ward.data:load --at deployment/clients/north[/cyan]
    """
    from fedha.deploy import accepted, bundle, inventory

    if what.endswith(".yaml"):
        contracts.accept(Path(what), at, look=look)
        return
    if Path(what).is_file() or not is_own(what):
        found = bundle.describe(bundle.read(Path(what)))
        _show(found)
        line = accepted.bundle_line(found.digest, found.name, found.version)
    else:
        line = accepted.code_line(what)
    if look:
        return
    if not (at / "compose.yml").is_file():
        raise FedhaError(f"{at.absolute()} is no site's folder, it has no compose.yml; name it with --at")
    if (at / inventory.FILE).is_file():
        raise FedhaError(
            f"{at.absolute()} is the folder of a federation or of its server, not a site's; name clients/NAME with --at"
        )
    if not accepted.add(at / accepted.FILE, line):
        typer.echo(f"{at / accepted.FILE} has it already.")
        return
    typer.echo(f"{at / accepted.FILE} has a new line: {line}")
    typer.echo("Start the site's app again: docker compose up --detach --force-recreate")


def write_bundle(file: Annotated[Path, typer.Argument(metavar="FILE")]) -> None:
    """Write the app bundle that the runs of this fedha bring, for sites that accept apps one by one.

    [bold]Example[/bold]

    [cyan]fedha deploy bundle fedha.fab[/cyan]
    """
    from fedha import atomic
    from fedha.deploy import bundle

    if file.exists():
        raise FedhaError(f"{file} is there already; choose another file")
    content = bundle.own()
    atomic.write_bytes(file, content)
    _show(bundle.describe(content))


def _show(found: "Bundle") -> None:
    typer.echo(f"{_shown(found.name)} {_shown(found.version)}, whose clients start {_shown(found.client_app)}")
    for name, size in found.files:
        typer.echo(f"  {size:>9,} bytes  {_shown(name)}")
    typer.echo(f"SHA-256 {found.digest}")


def _shown(text: str) -> str:
    """Text of somebody else's for a terminal: as it is, or with everything written out that is no plain character."""
    return text if text.isascii() and text.isprintable() else ascii(text)
