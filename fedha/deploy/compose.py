"""The compose files: of a whole federation on one machine, of its server, and of one site."""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedha import __version__
from fedha.deploy.inventory import Client

FILE = "compose.yml"


def all_in_one(
    clients: Sequence[Client], at: str = ".", configs: str = "./server/configs", *, build: bool = False
) -> str:
    """The whole federation on one machine.

    Args:
        clients: In client order.
        at: The folder that `fedha deploy init` made, as seen from where the file lies.
        configs: The folder with the experiments' files.
        build: Whether compose builds the images, from the checkout where the file then lies.
    """
    return _render("all.yaml.j2", clients=clients, at=at, configs=configs, build=build, published=False)


def server() -> str:
    """The server alone; its proxy's port is published."""
    return _render("server.yaml.j2", build=False, published=True)


def site(client: Client) -> str:
    """One site, which finds the server at FEDHA_SERVER."""
    return _render("site.yaml.j2", client=client, build=False)


def _render(template: str, **values: Any) -> str:
    loader = PackageLoader("fedha.deploy")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.get_template(template).render(version=__version__, **values)
    lines = text.splitlines()
    kept = [line for place, line in enumerate(lines) if line or (place and lines[place - 1])]  # one empty line at most
    return "\n".join(kept).strip() + "\n"
