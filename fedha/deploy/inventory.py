"""What is known of a federation: its hosts, its clients, and when what it was given ends. No secret is among it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, AwareDatetime, Field, ValidationError

from fedha.deploy.names import check_client, check_clients, check_host, with_port
from fedha.errors import FedhaError
from fedha.schema import Written, explained
from fedha.yamlfile import read_yaml

FILE = "federation.yaml"
PORT = 8443
CONTROL = "superlink:8000"
PROXY = "proxy:8443"

_HEAD = "# Who is in this federation, and when certificates end. Written by fedha deploy; it holds no secret.\n"


class Client(Written):
    """One site.

    Attributes:
        name: A DNS label.
        partition_id: The client id, its own for ever.
        ends: When its node's certificate ends.
    """

    name: Annotated[str, AfterValidator(check_client)]
    partition_id: int = Field(ge=0)
    ends: AwareDatetime


class Inventory(Written):
    """A federation.

    Attributes:
        hosts: Where sites find the server; the first is written into their files.
        port: The proxy's, as published.
        control: The SuperLink's address for those who may start runs.
        days: How long certificates last.
        created: When the authority was made.
        authority_ends: When its certificate ends, and with it all others.
        server_ends: When the server's certificate ends.
        places: How many partition ids were given so far, those of former clients included.
        clients: In client order.
        former: Names of clients that were removed, whose keys are refused.
    """

    hosts: tuple[Annotated[str, AfterValidator(check_host)], ...] = ()
    port: int = Field(PORT, ge=1, le=65535)
    control: str = CONTROL
    days: int = Field(ge=1)
    created: AwareDatetime
    authority_ends: AwareDatetime
    server_ends: AwareDatetime
    places: int = Field(ge=1)
    clients: tuple[Client, ...]
    former: tuple[Annotated[str, AfterValidator(check_client)], ...] = ()

    @property
    def address(self) -> str:
        """The server as sites reach it: the first host, or the proxy's name on the same machine."""
        return with_port(self.hosts[0], self.port) if self.hosts else PROXY

    @property
    def names(self) -> list[str]:
        """The clients' names, in client order."""
        return [client.name for client in self.clients]

    @property
    def all_names(self) -> list[str]:
        """The names of all who are, or were, clients."""
        return [*self.names, *self.former]

    def client(self, name: str) -> Client:
        """The client of this name.

        Raises:
            FedhaError: There is none.
        """
        found = next((client for client in self.clients if client.name == name), None)
        if found is None:
            raise FedhaError(f"there is no client {name!r}; the clients are {', '.join(self.names)}")
        return found

    def ends(self) -> dict[str, datetime]:
        """When what ends, by what it is."""
        sites = {f"client {client.name}": client.ends for client in self.clients}
        return {"authority": self.authority_ends, "server": self.server_ends, **sites}


def to_yaml(inventory: Inventory) -> str:
    """The inventory as its file's text."""
    content = inventory.model_dump(mode="json")
    return _HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def read(path: Path) -> Inventory:
    """Read an inventory's file.

    Raises:
        FedhaError: It is missing, or is no inventory.
    """
    content = read_yaml(path, remedy="is this a folder that `fedha deploy init` made?")
    if not isinstance(content, Mapping):
        raise FedhaError(f"{path} holds no federation; restore it from a backup")
    try:
        found = Inventory.model_validate(content)
    except ValidationError as error:
        raise FedhaError(f"{explained(error, Inventory, str(path))}; restore it from a backup") from error
    check_clients(found.names)
    return found


def now() -> datetime:
    """The time, to the second, in UTC: what certificates and records are dated with."""
    return datetime.now(UTC).replace(microsecond=0)
